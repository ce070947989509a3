//! The released index mappings, the files under `mappings/`, and the bodies that create an index from the current one.
//!
//! Everything here is pure. [`super::index`] sends the bodies; [`super::state`] compares an index with its mapping.

use serde_json::{Value, json};

use crate::store::StoreMeta;

/// Every released mapping, by version: the body of an index creation without model and fingerprint in `_meta` and
/// without the alias. The last one is current. A released file never changes, because indices were created from it.
const RELEASED: &[(u32, &str)] = &[(1, include_str!("../../../mappings/images-v1.json"))];

const CURRENT: (u32, &str) = RELEASED[RELEASED.len() - 1];

/// The version of the mapping that this release writes.
pub const CURRENT_VERSION: u32 = CURRENT.0;

/// The name of the index behind a new alias.
pub fn index_name(alias: &str) -> String {
    format!("{alias}-v{CURRENT_VERSION}")
}

/// The name of the index template that guards an alias.
pub(super) fn template_name(alias: &str) -> String {
    format!("imgdex-{alias}")
}

/// The body that creates the index, with the alias pointing at it.
///
/// # Errors
/// When the embedded file is not JSON; a test makes sure that it is.
pub fn index_body(meta: &StoreMeta, alias: &str) -> Result<Value, serde_json::Error> {
    let mut body = current()?;
    body["mappings"]["_meta"]["model"] = meta.model.as_str().into();
    body["mappings"]["_meta"]["fingerprint"] = meta.fingerprint.as_str().into();
    body["aliases"] = json!({ alias: { "is_write_index": true } });
    Ok(body)
}

/// The body of an index template that keeps Elasticsearch from creating an index with the name of the alias when a
/// write finds no alias: `require_alias` does not prevent that for a deletion with an external version, as earlier releases
/// send it.
pub(super) fn template_body(alias: &str) -> Value {
    json!({
        "index_patterns": [alias],
        "allow_auto_create": false,
        // Above the usual priority of users' own templates, which may match every name.
        "priority": 1000,
        "_meta": { "description": "Keeps imgdex's alias from becoming an index; made by `imgdex mappings apply`" },
    })
}

/// The current mapping's body.
pub(super) fn current() -> Result<Value, serde_json::Error> {
    serde_json::from_str(CURRENT.1)
}

/// The fields of the current mapping but these.
pub(super) fn other_fields(fields: &[&str]) -> Vec<String> {
    let properties = current().map(|mut body| body["mappings"]["properties"].take()).unwrap_or_default();
    let names = properties.as_object().into_iter().flat_map(|fields| fields.keys());
    names.filter(|name| !fields.contains(&name.as_str())).cloned().collect()
}

/// The number of values in a vector of the current mapping.
pub(super) fn dims() -> Result<usize, serde_json::Error> {
    serde_json::from_value(current()?["mappings"]["properties"]["image_vector"]["dims"].take())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::message;

    /// A change belongs into a new file with the next version.
    #[test]
    fn released_mappings_never_change() {
        let released: Vec<_> =
            RELEASED.iter().map(|(version, text)| (*version, format!("{:x}", Sha256::digest(text)))).collect();
        let expected = [(1, "439d7f1f916d0b24a15535936df56e5f0b8abeb8881d0e4135cfbd81b59f8810".to_owned())];
        assert_eq!(released, expected);
        for (version, text) in RELEASED {
            let body: Value = serde_json::from_str(text).unwrap();
            assert_eq!(body["mappings"]["_meta"]["mapping_version"], *version);
        }
    }

    #[test]
    fn the_body_carries_the_metadata_and_the_alias() {
        let meta = StoreMeta { model: "m".into(), fingerprint: "f".into(), mapping_version: CURRENT_VERSION };
        let body = index_body(&meta, "images").unwrap();
        assert_eq!(serde_json::from_value::<StoreMeta>(body["mappings"]["_meta"].clone()).unwrap(), meta);
        assert_eq!(body["aliases"], json!({ "images": { "is_write_index": true } }));
        assert_eq!(dims().unwrap(), 512);
    }

    #[test]
    fn the_mapping_takes_every_valid_message() {
        let fields = current().unwrap()["mappings"]["properties"].clone();
        assert_eq!(fields["id"]["ignore_above"], message::MAX_ID_BYTES);
        assert_eq!(fields["collection"]["ignore_above"], message::MAX_COLLECTION_BYTES);
        assert_eq!(fields["url"]["ignore_above"], message::MAX_URL_BYTES);
        assert!(fields["metadata"]["depth_limit"].as_u64().unwrap() >= message::MAX_METADATA_DEPTH as u64);
        // Lucene's longest term is 32,766 bytes; a character has at most 3 bytes per UTF-16 unit, and a `flattened`
        // term holds the key too.
        assert!(fields["metadata"]["ignore_above"].as_u64().unwrap() * 3 < 32_766);
        const { assert!(message::MAX_METADATA_BYTES <= 32_768) };
    }
}
