//! Which metadata passes a filter, as Elasticsearch's `flattened` field would have it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Whether every filter is met. A key names nested fields with dots; values are compared as text; of an array any element
/// will do.
pub(super) fn passes(metadata: &Map<String, Value>, filters: &BTreeMap<String, String>) -> bool {
    filters.iter().all(|(key, wanted)| in_object(metadata, key, wanted))
}

/// A dot in the key may also be part of a name, so every prefix that ends before a dot is tried.
fn in_object(object: &Map<String, Value>, key: &str, wanted: &str) -> bool {
    let nested = key.match_indices('.').any(|(dot, _)| {
        let (name, rest) = (&key[..dot], &key[dot + 1..]);
        object.get(name).is_some_and(|value| below(value, rest, wanted))
    });
    nested || object.get(key).is_some_and(|value| is(value, wanted))
}

fn below(value: &Value, key: &str, wanted: &str) -> bool {
    match value {
        Value::Object(object) => in_object(object, key, wanted),
        Value::Array(values) => values.iter().any(|value| below(value, key, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Number(number) => number.to_string() == wanted,
        Value::Bool(flag) => flag.to_string() == wanted,
        Value::Array(values) => values.iter().any(|value| is(value, wanted)),
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn table() {
        let metadata = json!({
            "brand": "x", "price": 5, "ratio": 1.5, "new": true, "none": null, "tags": ["red", "blue"],
            "shop": {"name": "y", "place": {"city": "z"}}, "a.b": "dotted", "list": [{"k": "1"}, {"k": "2"}],
        });
        let metadata = metadata.as_object().cloned().unwrap_or_default();
        for (key, value, expected) in [
            ("brand", "x", true),
            ("brand", "X", false),
            ("price", "5", true),
            ("ratio", "1.5", true),
            ("new", "true", true),
            ("none", "null", false),
            ("tags", "blue", true),
            ("tags", "green", false),
            ("shop.name", "y", true),
            ("shop.place.city", "z", true),
            ("shop", "y", false),
            ("shop.place", "z", false),
            ("a.b", "dotted", true),
            ("list.k", "2", true),
            ("absent", "", false),
            ("", "x", false),
            (".", "x", false),
        ] {
            let filters = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(passes(&metadata, &filters), expected, "{key}={value}");
        }
        let both = |brand: &str| {
            BTreeMap::from([("brand".to_owned(), brand.to_owned()), ("price".to_owned(), "5".to_owned())])
        };
        assert!(passes(&metadata, &both("x")) && !passes(&metadata, &both("y")));
        assert!(passes(&metadata, &BTreeMap::new()));
    }
}
