//! Models: manifests, weights, the networks. [`load`](mod@load) is the one place that turns a manifest into a model.

pub mod compute;
pub mod download;
pub mod load;
pub mod manifest;
#[cfg(feature = "stub-model")]
mod stub;
pub mod vgg16;
pub mod weights;

use self::vgg16::kernels;
use crate::decode::pixels::Pixels;
use crate::embedding::{Degenerate, Embedding};

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
