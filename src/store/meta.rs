//! The model and mapping that a store was made for.

use std::fmt::Display;
use std::sync::Once;

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

/// Whether a store of an earlier fingerprint of its model is used. If it is, the log says so once.
#[derive(Debug)]
pub struct Acceptance {
    earlier: bool,
    said: Once,
}

impl Acceptance {
    pub fn new(earlier: bool) -> Self {
        Self { earlier, said: Once::new() }
    }
}

impl StoreMeta {
    pub fn new(model: &Manifest, mapping_version: u32) -> Self {
        Self { model: model.name.clone(), fingerprint: model.fingerprint(), mapping_version }
    }

    /// Refuses `store`, which has this metadata, with [`ErrorKind::Mismatch`] where it was made for another model or
    /// mapping version.
    pub fn check(
        &self,
        model: &Manifest,
        mapping_version: u32,
        acceptance: &Acceptance,
        store: &impl Display,
    ) -> Result<(), Error> {
        let expected = Self::new(model, mapping_version);
        let earlier = model.earlier.iter().find(|earlier| earlier.fingerprint == self.fingerprint);
        let mismatch = if self.model != expected.model {
            let advice = format!("pass --model {}, or use another store", self.model);
            ErrorKind::mismatch("its model", &self.model, expected.model, advice)
        } else if self.fingerprint != expected.fingerprint && !(acceptance.earlier && earlier.is_some()) {
            let advice = match earlier {
                Some(earlier) => format!(
                    "an earlier release made it with the same model, but {}; make a new store and index the images again, or \
                     pass --accept-earlier-decoder to use it as it is",
                    earlier.differs
                ),
                None => {
                    "its vectors were made with other weights or another preprocessing; index the images again".into()
                }
            };
            ErrorKind::mismatch("its model's fingerprint", &self.fingerprint, expected.fingerprint, advice)
        } else if self.mapping_version != mapping_version {
            let (found, expected) = (self.mapping_version.to_string(), mapping_version.to_string());
            ErrorKind::mismatch("its mapping version", found, expected, "use the imgdex release that made it")
        } else {
            if let Some(earlier) = earlier {
                acceptance.said.call_once(|| {
                    let differs = &earlier.differs;
                    tracing::warn!(%store, "the store holds vectors of an earlier release, for which {differs}");
                });
            }
            return Ok(());
        };
        Err(Error::new(store, mismatch))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(meta: &StoreMeta, acceptance: &Acceptance) -> Result<(), String> {
        meta.check(&Manifest::find("vgg16").unwrap(), 1, acceptance, &"store").map_err(|error| error.to_string())
    }

    #[test]
    fn an_earlier_fingerprint_is_told_apart_from_a_foreign_one() {
        let model = Manifest::find("vgg16").unwrap();
        let current = StoreMeta::new(&model, 1);
        let earlier = StoreMeta { fingerprint: model.earlier[0].fingerprint.clone(), ..current.clone() };
        let foreign = StoreMeta { fingerprint: "0123".to_owned(), ..current.clone() };
        let other = StoreMeta { model: "vgg16-keras".to_owned(), ..earlier.clone() };
        for accepted in [false, true] {
            let acceptance = Acceptance::new(accepted);
            assert_eq!(check(&current, &acceptance), Ok(()));
            assert_eq!(check(&earlier, &acceptance).is_ok(), accepted);
            assert_eq!(acceptance.said.is_completed(), accepted, "said when it was accepted");
            assert!(check(&foreign, &acceptance).unwrap_err().ends_with("; index the images again"));
            assert!(check(&other, &acceptance).unwrap_err().contains("its model is vgg16-keras"));
            let newer = StoreMeta { mapping_version: 2, ..earlier.clone() };
            assert!(check(&newer, &acceptance).is_err());
        }
        let refused = check(&earlier, &Acceptance::new(false)).unwrap_err();
        assert!(refused.contains("an earlier release made it with the same model, but JPEG was decoded"), "{refused}");
        assert!(refused.contains("--accept-earlier-decoder"), "{refused}");
    }
}
