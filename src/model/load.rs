//! From a manifest to a model: the only match over architectures.

use std::path::{Path, PathBuf};

use super::compute::Compute;
use super::manifest::{Architecture, Manifest, Weights};
use super::vgg16::{self, Vgg16};
use super::{Error, Model, weights};

/// Loads a model of the catalogue with its weights, ready for its first image.
///
/// # Errors
/// When the weights are missing, damaged or of another model: a model never starts with other weights than its own. Of packed
/// weights only the header is checked; [`check`] reads every byte.
pub fn load(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Box<dyn Model>, Error> {
    match manifest.architecture {
        #[cfg(feature = "stub-model")]
        Architecture::Stub => Ok(Box::new(super::stub::Stub::new(manifest))),
        Architecture::Vgg16 => Ok(Box::new(load_vgg16(manifest, folder, compute)?)),
    }
}

/// As [`load`], for callers that measure VGG16 itself.
///
/// # Errors
/// As [`load`].
pub fn load_vgg16(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Vgg16, Error> {
    Vgg16::new(load_weights(manifest, folder)?, manifest, compute)
}

/// Checks every byte of a model's weights, and of the file of packed ones if there is one; writes nothing. Returns where that
/// file is.
///
/// # Errors
/// When the weights are missing, damaged or of another model, or the file is damaged.
pub fn check(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Option<PathBuf>, Error> {
    match manifest.architecture {
        #[cfg(feature = "stub-model")]
        Architecture::Stub => Ok(None),
        Architecture::Vgg16 => vgg16::check(&load_weights(manifest, folder)?, compute),
    }
}

/// Packs a model's weights into a file, if there is none, and checks every byte of it. Returns where it is; `None` where it
/// could not be written.
///
/// # Errors
/// As [`load`], and when the file is damaged.
pub fn pack(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Option<PathBuf>, Error> {
    match manifest.architecture {
        #[cfg(feature = "stub-model")]
        Architecture::Stub => Ok(None),
        Architecture::Vgg16 => vgg16::pack(load_weights(manifest, folder)?, manifest, compute),
    }
}

fn load_weights(manifest: &Manifest, folder: &Path) -> Result<weights::Loaded, Error> {
    let weights = manifest.weights.as_ref().ok_or_else(|| Error::NoWeights(manifest.name.clone()))?;
    Ok(weights::load(weights, folder)?)
}

/// Reads the weights of a model from a published file and writes them into the model folder, and only if they are complete and
/// genuine. Returns where they are.
pub fn import(manifest: &Manifest, weights: &Weights, folder: &Path, file: &Path) -> Result<PathBuf, weights::Error> {
    match manifest.architecture {
        #[cfg(feature = "stub-model")]
        Architecture::Stub => Err(weights::Error::Missing { path: weights::path(weights, folder) }),
        Architecture::Vgg16 => vgg16::import::import(weights, folder, file),
    }
}
