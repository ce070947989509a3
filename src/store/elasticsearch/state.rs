//! What stands behind an alias: a pure reading of Elasticsearch's answer to `GET /ALIAS`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::Origin;

/// What a name means in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing has this name.
    Missing,
    /// An index has it, where an alias is needed: an index cannot be swapped for a new one without a gap.
    Index(Index),
    /// An alias of these indices, by name.
    Alias(Vec<Index>),
}

/// One index behind an alias.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Index {
    /// Its name.
    pub index: String,
    /// Whether writes to the alias go here.
    pub write_index: bool,
    /// The model and mapping it was made for; `None` if imgdex did not make it.
    pub origin: Option<Origin>,
    /// The fields that are not as the current mapping has them.
    pub differences: Vec<Difference>,
    /// The blocks that are set, such as `write` or `read_only_allow_delete`.
    pub blocks: Vec<String>,
}

/// A part of a mapping that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The part, such as `properties.id.type`.
    pub part: String,
    /// What the index has.
    pub found: String,
    /// What the current mapping has.
    pub expected: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    aliases: BTreeMap<String, Alias>,
    #[serde(default)]
    mappings: Value,
    #[serde(default)]
    settings: Value,
}

#[derive(Deserialize)]
struct Alias {
    is_write_index: Option<bool>,
}

/// Reads the answer to `GET /NAME`.
///
/// # Errors
/// When it is not such an answer.
pub fn read(name: &str, answer: &[u8]) -> Result<State, serde_json::Error> {
    let mut found: BTreeMap<String, Answer> = serde_json::from_slice(answer)?;
    if let Some(answer) = found.remove(name) {
        return Ok(State::Index(index(name, name, true, &answer)?));
    }
    let only = found.len() == 1;
    let indices = found.iter().map(|(at, answer)| index(at, name, only, answer));
    let indices = indices.collect::<Result<Vec<_>, _>>()?;
    Ok(if indices.is_empty() { State::Missing } else { State::Alias(indices) })
}

/// Elasticsearch takes the only index of an alias for its write index unless it is told otherwise.
fn index(name: &str, alias: &str, only: bool, answer: &Answer) -> Result<Index, serde_json::Error> {
    Ok(Index {
        index: name.to_owned(),
        write_index: answer.aliases.get(alias).is_some_and(|alias| alias.is_write_index.unwrap_or(only)),
        origin: Origin::deserialize(&answer.mappings["_meta"]).ok(),
        differences: differences(&answer.mappings)?,
        blocks: blocks(&answer.settings["index"]["blocks"]),
    })
}

fn blocks(settings: &Value) -> Vec<String> {
    let is_set = |value: &Value| value == "true" || value == true;
    let all = settings.as_object().into_iter().flatten();
    all.filter(|(_, value)| is_set(value)).map(|(name, _)| name.clone()).collect()
}

/// Compares what decides whether documents are taken and found as intended. Other settings of a field are left to the
/// administrator, and servers leave out those that have their default.
fn differences(mapping: &Value) -> Result<Vec<Difference>, serde_json::Error> {
    let expected = super::mapping::current()?;
    let expected = &expected["mappings"];
    let mut parts = vec!["/dynamic".to_owned()];
    for field in expected["properties"].as_object().into_iter().flat_map(|fields| fields.keys()) {
        parts.push(format!("/properties/{field}/type"));
    }
    parts.extend(["dims", "similarity"].map(|setting| format!("/properties/image_vector/{setting}")));
    let at = |value: &Value, part: &str| value.pointer(part).map_or_else(|| "missing".to_owned(), text);
    let compared = parts.iter().map(|part| Difference {
        part: part[1..].replace('/', "."),
        found: at(mapping, part),
        expected: at(expected, part),
    });
    Ok(compared.filter(|difference| difference.found != difference.expected).collect())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn read_json(answer: &Value) -> State {
        read("images", answer.to_string().as_bytes()).unwrap()
    }

    fn origin() -> Origin {
        Origin { model: "vgg16".into(), fingerprint: "f".into(), mapping_version: 1 }
    }

    fn made() -> Value {
        let mut body = super::super::mapping::index_body(&origin(), "images").unwrap();
        body["settings"]["index"]["blocks"] = json!({ "write": "true", "read_only": "false" });
        body
    }

    #[test]
    fn an_alias_with_its_index() {
        let State::Alias(indices) = read_json(&json!({ "images-v1": made() })) else { panic!("not an alias") };
        let expected = Index {
            index: "images-v1".into(),
            write_index: true,
            origin: Some(origin()),
            differences: vec![],
            blocks: vec!["write".into()],
        };
        assert_eq!(indices, [expected]);
    }

    #[test]
    fn nothing_or_an_index_of_that_name() {
        assert_eq!(read_json(&json!({})), State::Missing);
        assert!(matches!(read_json(&json!({ "images": made() })), State::Index(index) if index.index == "images"));
        assert!(read("images", b"<html>").is_err());
    }

    #[test]
    fn which_index_takes_writes() {
        for (count, flag, expected) in [
            (1, Value::Null, true),
            (1, json!(true), true),
            (1, json!(false), false),
            (2, Value::Null, false),
            (2, json!(true), true),
        ] {
            let mut first = made();
            first["aliases"]["images"]["is_write_index"] = flag.clone();
            let mut answer = json!({ "a": first });
            if count == 2 {
                answer["b"] = json!({ "aliases": { "images": {} } });
            }
            let State::Alias(indices) = read_json(&answer) else { panic!("not an alias") };
            assert_eq!(indices[0].write_index, expected, "{count} {flag}");
        }
    }

    #[test]
    fn a_foreign_index_is_told_apart() {
        let mut foreign = made();
        foreign["mappings"]["_meta"] = json!({ "model": "vgg16" });
        foreign["mappings"]["dynamic"] = json!("true");
        foreign["mappings"]["properties"]["id"] = json!({ "type": "text" });
        foreign["mappings"]["properties"]["image_vector"]["dims"] = json!(4);
        foreign["mappings"]["properties"].as_object_mut().unwrap().remove("url");
        let State::Alias(indices) = read_json(&json!({ "x": foreign })) else { panic!("not an alias") };
        assert_eq!(indices[0].origin, None);
        let differences: Vec<_> =
            indices[0].differences.iter().map(|d| (d.part.as_str(), d.found.as_str(), d.expected.as_str())).collect();
        assert_eq!(
            differences,
            [
                ("dynamic", "true", "strict"),
                ("properties.id.type", "text", "keyword"),
                ("properties.url.type", "missing", "keyword"),
                ("properties.image_vector.dims", "4", "512"),
            ]
        );
    }
}
