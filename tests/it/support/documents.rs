//! Documents that differ in id and vector alone, and deletions, for tests where nothing else matters.

use imgdex::testing::Embedding;
use imgdex::testing::store::{Document, Stored, Tombstone, Write};

pub fn document(id: String, embedding: Embedding) -> Document {
    Document {
        url: format!("https://example.org/{id}"),
        id,
        collection: "default".to_owned(),
        version: 1,
        width: 1,
        height: 1,
        bytes: 1,
        format: "png".to_owned(),
        content_sha256: "0".repeat(64),
        indexed_at_ms: 0,
        metadata: serde_json::Map::new(),
        embedding: Some(embedding),
    }
}

/// An upsert of an image whose vector does not matter.
pub fn put(id: &str, version: u64) -> Write {
    let vector = Embedding::normalize([[0.0; 511].as_slice(), &[1.0]].concat()).unwrap();
    Write::Put(Box::new(Document { version, ..document(id.to_owned(), vector) }))
}

pub fn deletion(id: &str, version: u64) -> Write {
    deletion_at(id, version, 0)
}

pub fn deletion_at(id: &str, version: u64, deleted_at_ms: u64) -> Write {
    let (id, collection) = (id.to_owned(), "default".to_owned());
    Write::Delete(Tombstone { id, version, collection, deleted_at_ms })
}

/// The live documents.
pub fn live(stored: Vec<Stored>) -> Vec<Document> {
    stored.into_iter().filter_map(Stored::live).collect()
}
