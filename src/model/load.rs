//! From a manifest to a model: the only match over architectures.

use std::path::{Path, PathBuf};

use super::compute::Compute;
use super::manifest::{Manifest, Network, Weights};
use super::vgg16::{self, Vgg16, kernels};
use super::{Error, Model, weights};

/// Loads a model of the catalogue with its weights, ready for its first image.
///
/// # Errors
/// When the weights are missing, damaged or of another model: a model never starts with other weights than its own. Packed
/// ones are taken for what they were written as; [`check`] looks at every byte.
pub fn load(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Box<dyn Model>, Error> {
    match manifest.network {
        #[cfg(feature = "stub-model")]
        Network::Stub => Ok(Box::new(super::stub::Stub)),
        Network::Vgg16 => Ok(Box::new(load_vgg16(manifest, folder, compute)?)),
    }
}

/// As [`load`], for who needs to know that it is VGG16.
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
    match manifest.network {
        #[cfg(feature = "stub-model")]
        Network::Stub => Ok(None),
        Network::Vgg16 => {
            let settings = compute.settings(&load_weights(manifest, folder)?);
            // Without the instructions there is nothing to look for.
            verify(settings.filter(|settings| settings.kernel.is_available()))
        }
    }
}

/// Packs a model's weights into a file, if none is there, and checks every byte of it. Returns where it is; `None` where none
/// could be written.
///
/// # Errors
/// As [`load`], and when the file is damaged.
pub fn pack(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Option<PathBuf>, Error> {
    match manifest.network {
        #[cfg(feature = "stub-model")]
        Network::Stub => Ok(None),
        Network::Vgg16 => {
            let weights = load_weights(manifest, folder)?;
            let settings = compute.settings(&weights);
            drop(Vgg16::new(weights, manifest, compute)?);
            verify(settings)
        }
    }
}

fn verify(settings: Option<kernels::Settings>) -> Result<Option<PathBuf>, Error> {
    Ok(settings.map(|settings| kernels::verify(&settings)).transpose()?.flatten())
}

fn load_weights(manifest: &Manifest, folder: &Path) -> Result<weights::Loaded, Error> {
    let weights = manifest.weights.as_ref().ok_or_else(|| Error::NoWeights(manifest.name.clone()))?;
    Ok(weights::load(weights, folder)?)
}

/// Takes the weights of a model out of a published file and writes them into the model folder, under their name only when
/// they are complete and genuine. Returns where they are.
pub fn import(manifest: &Manifest, weights: &Weights, folder: &Path, file: &Path) -> Result<PathBuf, weights::Error> {
    match manifest.network {
        #[cfg(feature = "stub-model")]
        Network::Stub => Ok(super::weights::path(weights, folder)),
        Network::Vgg16 => vgg16::import::import(weights, folder, file),
    }
}
