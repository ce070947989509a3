//! The terms that filters compare: a document's collection and the leaves of its metadata.
//!
//! The rules are those of Elasticsearch's `flattened` field. The key of a leaf is its path joined with dots, so `{"a":
//! {"b": 1}}` and `{"a.b": 1}` are the same. Each element of an array is a leaf. Values are compared as their JSON texts.
//! `null` matches nothing.

use serde_json::{Map, Value};

use crate::store::Query;

/// The byte between key and value. No UTF-8 text contains it.
const KEY_END: u8 = 0xFF;
/// The byte before a collection. No UTF-8 text contains it.
const COLLECTION: u8 = 0xFE;

/// The terms of one document, each after its length: one allocation per document, and a term of another length is skipped
/// without being read.
pub(super) struct Terms(Box<[u8]>);

/// The terms that a document must have to match.
pub(super) struct Filter(Vec<Vec<u8>>);

impl Terms {
    pub(super) fn of(collection: &str, metadata: &Map<String, Value>) -> Self {
        let mut terms = Vec::new();
        push(&mut terms, &collection_term(collection));
        walk_object(&mut terms, &mut String::new(), metadata);
        Self(terms.into_boxed_slice())
    }

    fn contains(&self, wanted: &[u8]) -> bool {
        let mut rest = &*self.0;
        while let Some((length, after)) = rest.split_first_chunk() {
            let Some((term, after)) = after.split_at_checked(u32::from_le_bytes(*length) as usize) else {
                return false;
            };
            if term == wanted {
                return true;
            }
            rest = after;
        }
        false
    }
}

impl Filter {
    pub(super) fn of(query: &Query) -> Self {
        let collection = query.collection.iter().map(|collection| collection_term(collection));
        let leaves = query.filters.iter().map(|(key, value)| leaf_term(key, value));
        Self(collection.chain(leaves).collect())
    }

    /// A filter that every document matches.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether every document matches.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn matches(&self, terms: &Terms) -> bool {
        self.0.iter().all(|wanted| terms.contains(wanted))
    }
}

fn collection_term(collection: &str) -> Vec<u8> {
    [&[COLLECTION], collection.as_bytes()].concat()
}

fn leaf_term(key: &str, value: &str) -> Vec<u8> {
    [key.as_bytes(), &[KEY_END], value.as_bytes()].concat()
}

fn push(terms: &mut Vec<u8>, term: &[u8]) {
    // The length fits: no text in SQLite has 4 GiB.
    terms.extend((term.len() as u32).to_le_bytes());
    terms.extend(term);
}

fn walk_object(terms: &mut Vec<u8>, path: &mut String, object: &Map<String, Value>) {
    let above = path.len();
    for (key, value) in object {
        path.push_str(key);
        walk(terms, path, value);
        path.truncate(above);
    }
}

fn walk(terms: &mut Vec<u8>, path: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(value) => push(terms, &leaf_term(path, if *value { "true" } else { "false" })),
        Value::Number(value) => push(terms, &leaf_term(path, &value.to_string())),
        Value::String(value) => push(terms, &leaf_term(path, value)),
        Value::Array(values) => values.iter().for_each(|value| walk(terms, path, value)),
        Value::Object(object) => {
            let own = path.len();
            path.push('.');
            walk_object(terms, path, object);
            path.truncate(own);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn terms(metadata: &str) -> Terms {
        Terms::of("default", &serde_json::from_str(metadata).unwrap())
    }

    #[test]
    fn leaves_are_compared_as_text_under_their_path() {
        let found = [
            (r#"{"a": "x"}"#, "a", "x"),
            (r#"{"a": 1}"#, "a", "1"),
            (r#"{"a": 1.5}"#, "a", "1.5"),
            (r#"{"a": true}"#, "a", "true"),
            (r#"{"a": {"b": {"c": "x"}}}"#, "a.b.c", "x"),
            (r#"{"a.b": "x"}"#, "a.b", "x"),
            (r#"{"a": {"b.c": "x"}}"#, "a.b.c", "x"),
            (r#"{"a": ["x", "y"]}"#, "a", "y"),
            (r#"{"a": [["x"], [{"b": 2}]]}"#, "a.b", "2"),
            (r#"{"a": ""}"#, "a", ""),
            (r#"{"": "x"}"#, "", "x"),
            (r#"{"it's \"$\"": "'; DROP"}"#, "it's \"$\"", "'; DROP"),
            (r#"{"a": "\u0000x"}"#, "a", "\0x"),
            (r#"{"x": {"y": 1}, "a": "z"}"#, "a", "z"),
        ];
        for (metadata, key, value) in found {
            assert!(terms(metadata).contains(&leaf_term(key, value)), "{metadata} has no {key}={value}");
        }
        let missed = [
            (r#"{"a": "x"}"#, "a", "X"),
            (r#"{"a": "xy"}"#, "a", "x"),
            (r#"{"a": null}"#, "a", "null"),
            (r#"{"a": null}"#, "a", ""),
            (r#"{"a": {"b": "x"}}"#, "a", "x"),
            (r#"{"a": {"b": "x"}}"#, "b", "x"),
            (r#"{"a": 1}"#, "a", "1.0"),
            (r#"{"a": {}}"#, "a", ""),
            (r#"{"a": "b=x"}"#, "a=b", "x"),
            (r"{}", "collection", "default"),
            (r#"{"": "default"}"#, "", ""),
        ];
        for (metadata, key, value) in missed {
            assert!(!terms(metadata).contains(&leaf_term(key, value)), "{metadata} has {key}={value}");
        }
    }

    #[test]
    fn a_collection_is_not_a_leaf() {
        assert!(terms("{}").contains(&collection_term("default")));
        assert!(!terms(r#"{"": "other"}"#).contains(&collection_term("other")));
    }

    #[test]
    fn a_filter_requires_all_of_its_terms() {
        let stored = terms(r#"{"a": "x", "b": 2}"#);
        assert!(Filter(vec![]).matches(&stored));
        assert!(Filter(vec![leaf_term("a", "x"), leaf_term("b", "2")]).matches(&stored));
        assert!(!Filter(vec![leaf_term("a", "x"), leaf_term("b", "3")]).matches(&stored));
    }
}
