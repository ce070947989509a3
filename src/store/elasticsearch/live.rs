//! What is a live document and what is a tombstone, by mapping version. Pure.
//!
//! | mapping | a tombstone | live |
//! |---|---|---|
//! | 1 | has the fields `id`, `version`, `collection` and `indexed_at`, and no other | has a `url` or an `image_vector` |
//!
//! That a document has no vector is not the sign: another writer may store images without one. Each request that reads
//! documents says through [`Selection`] which ones it is about.

use serde_json::{Map, Value, json};

use super::mapping;
use crate::store::Tombstone;

/// The fields of a tombstone.
const FIELDS: [&str; 4] = ["id", "version", "collection", "indexed_at"];

/// Which documents a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    Live,
    Tombstones,
    /// Both: for copies.
    All,
}

impl Selection {
    /// The query that selects them.
    fn query(self) -> Value {
        let exists = |field: &str| json!({ "exists": { "field": field } });
        match self {
            Self::Live => {
                json!({ "bool": { "should": [exists("url"), exists("image_vector")], "minimum_should_match": 1 } })
            }
            Self::Tombstones => {
                let has = FIELDS.map(exists);
                let lacks: Vec<_> = mapping::other_fields(&FIELDS).iter().map(|field| exists(field)).collect();
                json!({ "bool": { "filter": has, "must_not": lacks } })
            }
            Self::All => exists("id"),
        }
    }

    /// The query for those of the selected documents that pass every filter.
    pub(super) fn among(self, mut filters: Vec<Value>) -> Value {
        filters.push(self.query());
        json!({ "bool": { "filter": filters } })
    }
}

/// The tombstone that has this `_source`; `None` if that is a live document. The vector, which a newer Elasticsearch leaves
/// out of a `_source`, is not needed: a tombstone has exactly these fields.
pub(super) fn tombstone(source: &Map<String, Value>) -> Option<Tombstone> {
    let number = |field| source.get(field).and_then(Value::as_u64);
    let text = |field| source.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    let tombstone = Tombstone {
        id: text("id")?,
        version: number("version")?,
        collection: text("collection")?,
        deleted_at_ms: number("indexed_at")?,
    };
    (source.len() == FIELDS.len()).then_some(tombstone)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tombstone_has_exactly_its_fields() {
        let read = |source: Value| tombstone(source.as_object().unwrap());
        let source = json!({ "id": "a", "version": 7, "collection": "default", "indexed_at": 9 });
        let expected = Tombstone { id: "a".to_owned(), version: 7, collection: "default".to_owned(), deleted_at_ms: 9 };
        assert_eq!(read(source.clone()), Some(expected));
        for field in ["id", "version", "collection", "indexed_at"] {
            let mut fewer = source.clone();
            fewer.as_object_mut().unwrap().remove(field);
            assert_eq!(read(fewer), None, "without {field}");
        }
        for (field, value) in [("url", json!("https://h/a")), ("metadata", json!({})), ("image_vector", json!([1.0]))] {
            let mut more = source.clone();
            more[field] = value;
            assert_eq!(read(more), None, "with {field}");
        }
    }
}
