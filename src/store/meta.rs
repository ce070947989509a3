//! What a store remembers about the model and mapping that it was made for.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::manifest::Manifest;

/// What a store remembers about the model and mapping it was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The model's name in the catalogue.
    pub model: String,
    /// The fingerprint of its manifest.
    pub fingerprint: String,
    /// The mapping's version.
    pub mapping_version: u32,
}

impl Origin {
    /// What a store made now for this model remembers.
    pub fn new(model: &Manifest) -> Self {
        Self {
            model: model.name.clone(),
            fingerprint: model.fingerprint(),
            mapping_version: crate::store::elasticsearch::mapping::CURRENT_VERSION,
        }
    }

    /// Compares what a store remembers with what is needed.
    ///
    /// # Errors
    /// [`Error::Mismatch`].
    pub fn check(&self, model: &Manifest, store: &impl std::fmt::Display) -> Result<(), Error> {
        let expected = Self::new(model);
        let mismatch = |what, found: &str, expected: &str, advice: &str| {
            Err(Error::Mismatch {
                store: store.to_string(),
                what,
                found: found.to_owned(),
                expected: expected.to_owned(),
                advice: advice.to_owned(),
            })
        };
        if self.model != expected.model {
            let advice = format!("pass --model {}, or use another store", self.model);
            return mismatch("its model", &self.model, &expected.model, &advice);
        }
        if self.fingerprint != expected.fingerprint {
            let advice = "its vectors were made with other weights or another preprocessing; index the images again";
            return mismatch("its model's fingerprint", &self.fingerprint, &expected.fingerprint, advice);
        }
        if self.mapping_version != expected.mapping_version {
            let (found, expected) = (self.mapping_version.to_string(), expected.mapping_version.to_string());
            return mismatch("its mapping version", &found, &expected, "use the imgdex release that made it");
        }
        Ok(())
    }
}
