//! The model and mapping that a store was made for.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::{Error, ErrorKind};
use crate::model::manifest::Manifest;

/// The model and mapping that a store was made for, kept in the store: the `_meta` of a mapping, the table `meta` of a
/// file, the header of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMeta {
    /// The model's name in the catalogue.
    pub model: String,
    /// The fingerprint of its manifest.
    pub fingerprint: String,
    pub mapping_version: u32,
}

impl StoreMeta {
    pub fn new(model: &Manifest, mapping_version: u32) -> Self {
        Self { model: model.name.clone(), fingerprint: model.fingerprint(), mapping_version }
    }

    /// Refuses `store`, which has this metadata, with [`ErrorKind::Mismatch`] where it was made for another model or
    /// mapping version.
    pub fn check(&self, model: &Manifest, mapping_version: u32, store: &impl Display) -> Result<(), Error> {
        let expected = Self::new(model, mapping_version);
        let mismatch = if self.model != expected.model {
            let advice = format!("pass --model {}, or use another store", self.model);
            ErrorKind::mismatch("its model", &self.model, expected.model, advice)
        } else if self.fingerprint != expected.fingerprint {
            let advice = "its vectors were made with other weights or another preprocessing; index the images again";
            ErrorKind::mismatch("its model's fingerprint", &self.fingerprint, expected.fingerprint, advice)
        } else if self.mapping_version != mapping_version {
            let (found, expected) = (self.mapping_version.to_string(), mapping_version.to_string());
            ErrorKind::mismatch("its mapping version", found, expected, "use the imgdex release that made it")
        } else {
            return Ok(());
        };
        Err(Error::new(store, mismatch))
    }
}
