//! The versioned index mappings: the files under `mappings/`, and what an index in a cluster looks like beside them.
//!
//! Everything here is pure; [`super::index`] sends the bodies and fetches what [`super::state`] reads.

use serde_json::{Value, json};

use crate::store::Origin;

/// The version of the mapping that this release writes.
pub const CURRENT_VERSION: u32 = 1;
/// The number of values in `image_vector`, as the current mapping declares it.
pub const DIMS: usize = 512;

/// The body of an index creation, without the origin in `_meta` and without the alias.
const IMAGES_V1: &str = include_str!("../../../mappings/images-v1.json");

/// The name of the index behind a new alias.
pub fn index_name(alias: &str) -> String {
    format!("{alias}-v{CURRENT_VERSION}")
}

/// The name of the index template that guards an alias.
pub fn template_name(alias: &str) -> String {
    format!("imgdex-{alias}")
}

/// The body that creates the index, with the alias pointing at it.
///
/// # Errors
/// When the embedded file is not JSON; a test sees to it that it is.
pub fn index_body(origin: &Origin, alias: &str) -> Result<Value, serde_json::Error> {
    let mut body = current()?;
    body["mappings"]["_meta"]["model"] = origin.model.as_str().into();
    body["mappings"]["_meta"]["fingerprint"] = origin.fingerprint.as_str().into();
    body["aliases"] = json!({ alias: { "is_write_index": true } });
    Ok(body)
}

/// The body of an index template that keeps Elasticsearch from creating an index with the name of the alias when a
/// write meets no alias: `require_alias` does not stop a deletion with an external version from doing that.
pub fn template_body(alias: &str) -> Value {
    json!({
        "index_patterns": [alias],
        "allow_auto_create": false,
        // Above what users' own templates, which may match everything, commonly have.
        "priority": 1000,
        "_meta": { "description": "Keeps imgdex's alias from becoming an index; made by `imgdex mappings apply`" },
    })
}

pub(super) fn current() -> Result<Value, serde_json::Error> {
    serde_json::from_str(IMAGES_V1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::message;

    /// Indices in the field were made from these bytes. A change belongs into a new file with the next version.
    #[test]
    fn released_mappings_never_change() {
        let hash = format!("{:x}", Sha256::digest(IMAGES_V1));
        assert_eq!(hash, "439d7f1f916d0b24a15535936df56e5f0b8abeb8881d0e4135cfbd81b59f8810");
    }

    #[test]
    fn the_body_carries_the_origin_and_the_alias() {
        let origin = Origin { model: "m".into(), fingerprint: "f".into(), mapping_version: CURRENT_VERSION };
        let body = index_body(&origin, "images").unwrap();
        let meta = &body["mappings"]["_meta"];
        assert_eq!(serde_json::from_value::<Origin>(meta.clone()).unwrap(), origin);
        assert_eq!(body["aliases"], json!({ "images": { "is_write_index": true } }));
        assert_eq!(body["mappings"]["properties"]["image_vector"]["dims"], DIMS);
    }

    #[test]
    fn the_mapping_takes_whatever_a_message_may_carry() {
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
