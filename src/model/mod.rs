//! Models: manifests, weights, the networks. [`load`](mod@load) is the one place that turns a manifest into a model.

pub mod compute;
pub mod download;
pub mod load;
pub mod manifest;
#[cfg(feature = "stub-model")]
mod stub;
pub mod vgg16;
pub mod weights;

use crate::decode::pixels::Pixels;
use crate::embedding::{Degenerate, Embedding};
use crate::simd::Unavailable;

/// Images in one forward pass: with more, the network is no faster per image, and a search would wait longer.
pub const MAX_BATCH: usize = 8;

/// Turns pixels into features.
pub trait Model: Send {
    /// Computes one embedding per image, in order. A degenerate image does not fail the others.
    ///
    /// # Errors
    /// When the network failed as a whole.
    fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, Error>;
}

/// Why a model cannot be loaded, or the network failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error("the manifest of model `{0}` names no weights")]
    NoWeights(String),
    #[error("the network takes images of {expected} x {expected} pixels, not {found} x {found}")]
    InputSize { expected: usize, found: usize },
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Kernel(vgg16::kernels::Error),
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl From<vgg16::kernels::Error> for Error {
    fn from(error: vgg16::kernels::Error) -> Self {
        match error {
            vgg16::kernels::Error::Unavailable(unavailable) => Self::Unavailable(unavailable),
            error => Self::Kernel(error),
        }
    }
}
