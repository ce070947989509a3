//! Models: manifests, weights, preprocessing, the network.

pub mod atomic;
pub mod compute;
pub mod kernels;
pub mod manifest;
pub mod preprocess;
#[cfg(feature = "stub-model")]
mod stub;
pub mod vgg16;
pub mod weights;

use std::path::{Path, PathBuf};

use self::compute::Compute;
use self::manifest::{Manifest, Network};
use crate::embedding::{Degenerate, Embedding};

/// Width and height of a network input in pixels.
pub const INPUT_SIZE: usize = 224;
/// A network input in bytes.
pub const INPUT_BYTES: usize = INPUT_SIZE * INPUT_SIZE * 3;

/// One network input: 224 x 224 RGB, 8 bits, row by row, before means are subtracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels(Box<[u8]>);

impl Pixels {
    /// Takes [`INPUT_BYTES`]; `None` if there are more or fewer.
    pub fn new(rgb: Vec<u8>) -> Option<Self> {
        (rgb.len() == INPUT_BYTES).then(|| Self(rgb.into_boxed_slice()))
    }

    /// The bytes: R, G, B of the first pixel, and so on.
    pub fn as_rgb(&self) -> &[u8] {
        &self.0
    }
}

/// Loads a model of the catalogue with its weights, ready for its first image.
///
/// # Errors
/// When the weights are missing, damaged or of another model: a model never starts with other weights than its own. Packed
/// ones are taken for what they were written as; [`check`] looks at every byte.
pub fn load(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<Box<dyn Model>, Error> {
    match manifest.network {
        #[cfg(feature = "stub-model")]
        Network::Stub => Ok(Box::new(stub::Stub)),
        Network::Vgg16 => Ok(Box::new(load_vgg16(manifest, folder, compute)?)),
    }
}

/// As [`load`], for who needs to know that it is VGG16.
///
/// # Errors
/// As [`load`].
pub fn load_vgg16(manifest: &Manifest, folder: &Path, compute: &Compute) -> Result<vgg16::Vgg16, Error> {
    vgg16::Vgg16::new(load_weights(manifest, folder)?, manifest, compute)
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
            drop(vgg16::Vgg16::new(weights, manifest, compute)?);
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

/// Something that turns pixels into features: the real network, or the stub of flow tests.
pub trait Model: Send {
    /// Computes one embedding per image, in order. Each image has its own fate: a degenerate one does not fail its
    /// neighbours.
    ///
    /// # Errors
    /// When the network as a whole failed.
    fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, Error>;
}

/// Why a model cannot be loaded, or the network as a whole failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights are missing or damaged.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The manifest names no weights.
    #[error("the manifest of model `{0}` names no weights")]
    NoWeights(String),
    /// The machine cannot compute as it is told to.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// Candle reported an error.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}
