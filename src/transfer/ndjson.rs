//! The lines of an export: a header, then one [`Document`] per line, vectors included.

use serde::{Deserialize, Serialize};

use crate::embedding::Embedding;
use crate::message::{self, WireReference};
use crate::store::{Document, StoreMeta};

/// The version of this format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// The first line: what the vectors were made with, without which they mean nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub imgdex_export: u32,
    /// Model and mapping of the store that the documents come from.
    #[serde(flatten)]
    pub meta: StoreMeta,
}

/// Why a line is not a document that a store could take.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not of this form.
    #[error("not a document of an export: {0}")]
    Json(#[from] serde_json::Error),
    /// A field that no reference may have either.
    #[error(transparent)]
    Field(#[from] message::Error),
    /// The vector is not of this model.
    #[error("the vector has {found} values, not {expected}")]
    Dims {
        /// Its length.
        found: usize,
        /// The model's.
        expected: usize,
    },
}

/// Parses and checks the line of a document; `dims` is the length of the model's vectors.
pub fn read(line: &str, dims: usize) -> Result<Document, Error> {
    let document: Document = serde_json::from_str(line)?;
    // The limits of a message hold here too: one bad id would make Elasticsearch refuse a whole batch.
    let reference = WireReference {
        id: Some(document.id.clone()),
        url: Some(document.url.clone()),
        version: Some(document.version.into()),
        collection: Some(document.collection.clone()),
        metadata: Some(document.metadata.clone()),
        ..WireReference::default()
    };
    message::check(reference, 0)?;
    match document.embedding.as_ref().map(Embedding::dims) {
        Some(found) if found != dims => Err(Error::Dims { found, expected: dims }),
        Some(_) | None => Ok(document),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Map, Value};

    use super::*;

    fn document() -> Document {
        Document {
            id: "a".to_owned(),
            url: "https://example.org/a.png".to_owned(),
            collection: "default".to_owned(),
            version: 7,
            width: 1,
            height: 2,
            bytes: 3,
            format: "png".to_owned(),
            content_sha256: "0".repeat(64),
            indexed_at_ms: 4,
            metadata: Map::from_iter([("k".to_owned(), Value::from("v"))]),
            embedding: Some(Embedding::normalize(vec![0.1, 0.7, 0.3]).unwrap()),
        }
    }

    #[test]
    fn a_document_survives_the_way_out_and_in_bit_by_bit() {
        let line = serde_json::to_string(&document()).unwrap();
        assert_eq!(read(&line, 3).unwrap(), document());
    }

    #[test]
    fn what_no_store_should_take_is_refused() {
        let line = |edit: &dyn Fn(&mut Value)| {
            let mut value = serde_json::to_value(document()).unwrap();
            edit(&mut value);
            read(&value.to_string(), 3).unwrap_err().to_string()
        };
        assert!(line(&|v| v["id"] = "x".repeat(513).into()).contains("id is 513 bytes"));
        assert!(line(&|v| v["version"] = (-1).into()).contains("not a document"));
        assert!(line(&|v| v["embedding"] = vec![0.6, 0.8].into()).contains("has 2 values, not 3"));
        assert!(line(&|v| v["embedding"] = vec![1.0; 3].into()).contains("norm"));
        assert!(read("{", 3).is_err());
    }
}
