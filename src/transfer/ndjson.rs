//! The lines of an export: a header, then one [`Document`] per line, vectors included, or one [`Tombstone`], which has a
//! `deleted_at_ms`.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::embedding::Embedding;
use crate::message::{self, VersionSource, WireReference};
use crate::store::{Document, StoreMeta, Stored, Tombstone, Write};

/// The version of this format that is written, and the newest that is read.
pub const FORMAT: u32 = 2;

/// The first line: what the vectors were made with, without which they mean nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub imgdex_export: u32,
    /// Whether deletions are among the lines, so that a copy brings nothing back. They are from format 2 on.
    #[serde(default)]
    pub tombstones: bool,
    /// Model and mapping of the store that the documents come from.
    #[serde(flatten)]
    pub meta: StoreMeta,
}

/// A line after the header.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Line<'a> {
    Document(&'a Document),
    Tombstone(&'a Tombstone),
}

impl<'a> From<&'a Stored> for Line<'a> {
    fn from(stored: &'a Stored) -> Self {
        match stored {
            Stored::Live(document) => Self::Document(document),
            Stored::Deleted(tombstone) => Self::Tombstone(tombstone),
        }
    }
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

/// Parses and checks a line; `dims` is the length of the model's vectors. The limits of a message hold here too: one bad id or
/// version would make Elasticsearch refuse a whole batch.
pub fn read(line: &str, dims: usize) -> Result<Write, Error> {
    #[derive(Deserialize)]
    struct Kind {
        deleted_at_ms: Option<IgnoredAny>,
    }
    let kind: Kind = serde_json::from_str(line)?;
    if kind.deleted_at_ms.is_some() {
        let tombstone: Tombstone = serde_json::from_str(line)?;
        // A tombstone that a store has kept from an earlier release may not know its collection.
        let collection = Some(&tombstone.collection).filter(|name| !name.is_empty()).cloned();
        let mut reference = WireReference {
            id: Some(tombstone.id.clone()),
            version: Some(tombstone.version.into()),
            collection,
            ..WireReference::default()
        };
        reference.delete();
        check(reference)?;
        return Ok(Write::Delete(tombstone));
    }
    let document: Document = serde_json::from_str(line)?;
    check(WireReference {
        id: Some(document.id.clone()),
        url: Some(document.url.clone()),
        version: Some(document.version.into()),
        collection: Some(document.collection.clone()),
        metadata: Some(document.metadata.clone()),
        ..WireReference::default()
    })?;
    match document.embedding.as_ref().map(Embedding::dims) {
        Some(found) if found != dims => Err(Error::Dims { found, expected: dims }),
        Some(_) | None => Ok(Write::Put(Box::new(document))),
    }
}

fn check(reference: WireReference) -> Result<(), Error> {
    // Every line names its version.
    message::check(reference, (0, VersionSource::Body))?;
    Ok(())
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
    fn documents_and_tombstones_survive_the_way_out_and_in_bit_by_bit() {
        let tombstone =
            Tombstone { id: "a".to_owned(), version: 7, collection: "default".to_owned(), deleted_at_ms: 4 };
        for stored in [Stored::Live(Box::new(document())), Stored::Deleted(tombstone)] {
            let line = serde_json::to_string(&Line::from(&stored)).unwrap();
            let read = match read(&line, 3).unwrap() {
                Write::Put(document) => Stored::Live(document),
                Write::Delete(tombstone) => Stored::Deleted(tombstone),
            };
            assert_eq!(read, stored);
        }
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
        assert!(line(&|v| v["version"] = u64::MAX.into()).contains("version"));
        assert!(line(&|v| v["embedding"] = vec![0.6, 0.8].into()).contains("has 2 values, not 3"));
        assert!(line(&|v| v["embedding"] = vec![1.0; 3].into()).contains("norm"));
        assert!(read("{", 3).is_err());
    }
}
