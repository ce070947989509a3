//! The state of an alias and its indices, read from Elasticsearch's response to `GET /ALIAS`. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::store::StoreMeta;

/// What a name refers to in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Missing,
    /// An index, where an alias is expected: replacing an index by a new one takes its name away for a time.
    Index(Index),
    /// An alias of these indices, ordered by name.
    Alias(Vec<Index>),
}

/// One index behind an alias.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    pub name: String,
    /// Whether writes to the alias go here.
    pub takes_writes: bool,
    /// The model and mapping it was made for; `None` if imgdex did not make it.
    pub meta: Option<StoreMeta>,
    /// How its mapping differs from the current one.
    pub differences: Vec<Difference>,
    /// The blocks that are set, such as `write` or `read_only_allow_delete`.
    pub blocks: Vec<String>,
}

/// A part of a mapping, such as `properties.id.type`, that differs from the current mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub part: String,
    pub found: String,
    pub expected: String,
}

#[derive(Deserialize)]
struct IndexResponse {
    #[serde(default)]
    aliases: BTreeMap<String, AliasResponse>,
    #[serde(default)]
    mappings: Value,
    #[serde(default)]
    settings: Value,
}

#[derive(Deserialize)]
struct AliasResponse {
    is_write_index: Option<bool>,
}

/// Reads the response to `GET /NAME`.
pub(super) fn read(name: &str, response: &[u8]) -> Result<State, serde_json::Error> {
    let mut found: BTreeMap<String, IndexResponse> = serde_json::from_slice(response)?;
    if let Some(response) = found.remove(name) {
        return Ok(State::Index(index(name, name, true, &response)?));
    }
    let only = found.len() == 1;
    let indices = found.iter().map(|(index_name, response)| index(index_name, name, only, response));
    let indices = indices.collect::<Result<Vec<_>, _>>()?;
    Ok(if indices.is_empty() { State::Missing } else { State::Alias(indices) })
}

/// Where `is_write_index` is absent, Elasticsearch writes to the only index of an alias.
fn index(name: &str, alias: &str, only: bool, response: &IndexResponse) -> Result<Index, serde_json::Error> {
    Ok(Index {
        name: name.to_owned(),
        takes_writes: response.aliases.get(alias).is_some_and(|alias| alias.is_write_index.unwrap_or(only)),
        meta: StoreMeta::deserialize(&response.mappings["_meta"]).ok(),
        differences: differences(&response.mappings)?,
        blocks: blocks(&response.settings["index"]["blocks"]),
    })
}

fn blocks(settings: &Value) -> Vec<String> {
    let is_set = |value: &Value| value == "true" || value == true;
    let all = settings.as_object().into_iter().flatten();
    all.filter(|(_, value)| is_set(value)).map(|(name, _)| name.clone()).collect()
}

/// Compares the settings that decide whether documents are accepted and found as intended. Other settings of a field may
/// be changed by the administrator, and a server leaves out those with their default value.
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

    fn read_json(response: &Value) -> State {
        read("images", response.to_string().as_bytes()).unwrap()
    }

    fn meta() -> StoreMeta {
        StoreMeta { model: "vgg16".into(), fingerprint: "f".into(), mapping_version: 1 }
    }

    fn created() -> Value {
        let mut body = super::super::mapping::index_body(&meta(), "images").unwrap();
        body["settings"]["index"]["blocks"] = json!({ "write": "true", "read_only": "false" });
        body
    }

    #[test]
    fn an_alias_with_its_index() {
        let State::Alias(indices) = read_json(&json!({ "images-v1": created() })) else { panic!("not an alias") };
        let expected = Index {
            name: "images-v1".into(),
            takes_writes: true,
            meta: Some(meta()),
            differences: vec![],
            blocks: vec!["write".into()],
        };
        assert_eq!(indices, [expected]);
    }

    #[test]
    fn nothing_or_an_index_of_that_name() {
        assert_eq!(read_json(&json!({})), State::Missing);
        assert!(matches!(read_json(&json!({ "images": created() })), State::Index(index) if index.name == "images"));
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
            let mut first = created();
            first["aliases"]["images"]["is_write_index"] = flag.clone();
            let mut response = json!({ "a": first });
            if count == 2 {
                response["b"] = json!({ "aliases": { "images": {} } });
            }
            let State::Alias(indices) = read_json(&response) else { panic!("not an alias") };
            assert_eq!(indices[0].takes_writes, expected, "{count} {flag}");
        }
    }

    #[test]
    fn an_index_that_imgdex_did_not_make_is_recognised() {
        let mut foreign = created();
        foreign["mappings"]["_meta"] = json!({ "model": "vgg16" });
        foreign["mappings"]["dynamic"] = json!("true");
        foreign["mappings"]["properties"]["id"] = json!({ "type": "text" });
        foreign["mappings"]["properties"]["image_vector"]["dims"] = json!(4);
        foreign["mappings"]["properties"].as_object_mut().unwrap().remove("url");
        let State::Alias(indices) = read_json(&json!({ "x": foreign })) else { panic!("not an alias") };
        assert_eq!(indices[0].meta, None);
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
