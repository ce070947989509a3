//! VGG16's convolutions for CPUs, fused: Winograd's algorithm, in which a few tiles at a time go through transforms,
//! multiplication, bias, `ReLU` and pooling in the cache of a core.
//!
//! | module | what it is |
//! |---|---|
//! | `winograd` | the algorithm's matrices, derived from their points |
//! | `transform` | tiles to points and back |
//! | `multiply` | the multiplication at the points |
//! | `steps` | these three for a block of tiles |
//! | `geometry` | convolutions and the order of their tiles |
//! | `first_layer` | the first convolution, computed as the input of the second |
//! | `convolve` | one convolution, shared by threads |
//! | `plan` | which tiles each convolution takes |
//! | `pack`, `packed` | weights to points; a file of them |
//! | `network` | the forward pass |
//! | `maps`, `threads` | feature maps in memory; threads |
//! | `peak` | the fastest that the machine can multiply and add |
//!
//! Imports only [`crate::simd`] and [`crate::atomic_file`]: `tests/aarch64` compiles these three by their paths, without the
//! rest of the program, and runs the portable kernel under emulation.
//!
//! Every map and every weight is kept in blocks of as many channels as a register has lanes.
// Everything that a task calls must be inlined into its body, see `simd::WithSimd`; loops that count over registers are unrolled.
#![allow(clippy::inline_always, clippy::needless_range_loop)]

mod convolve;
mod first_layer;
mod geometry;
mod maps;
mod multiply;
mod network;
mod pack;
mod packed;
mod peak;
mod plan;
mod steps;
mod threads;
mod transform;
mod winograd;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::ThreadPoolBuildError;

pub use self::first_layer::INPUT_SIZE;
use self::network::ForwardPass;
pub use self::network::{FEATURES, MAX_BATCH};
pub use self::packed::Canonical;
use self::packed::PackFile;
pub use self::plan::Plan;
use self::threads::Threads;
use crate::simd::{InstructionSet, Simd, Unavailable, WithSimd};

/// Weights of a convolution.
pub struct ConvWeights {
    /// `[output][input][row][column]`, 3 x 3.
    pub weights: Vec<f32>,
    /// `[output]`
    pub bias: Vec<f32>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub instructions: InstructionSet,
    pub plan: Plan,
    /// Threads that compute; `None` takes as many as are granted to the process.
    pub threads: Option<NonZeroUsize>,
    /// The file of the weights, beside which packed ones are kept; `None` keeps them in memory.
    pub canonical: Option<Canonical>,
}

/// Why there is no forward pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the threads of the model did not start: {0}")]
    Threads(#[from] ThreadPoolBuildError),
    /// A file of packed weights is not as it was written.
    #[error("{} is damaged ({reason}): remove it, and the next start packs the weights again", path.display())]
    Damaged { path: PathBuf, reason: String },
}

/// Reads the file of packed weights and checks every byte. Returns where it is; `None` where there is none.
///
/// # Errors
/// [`Error::Damaged`], and [`Error::Unavailable`] for instructions that this machine lacks.
pub fn verify(settings: &Settings) -> Result<Option<PathBuf>, Error> {
    let file = settings.instructions.dispatch(FindPackFile(settings))?;
    file.verify().map(|path| path.map(Path::to_owned))
}

struct FindPackFile<'a>(&'a Settings);

impl WithSimd for FindPackFile<'_> {
    type Output = PackFile;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> PackFile {
        PackFile::new(self.0, S::LANES, &self.0.plan.layout::<S>())
    }
}

/// Floating-point operations per second that the threads reach with these instructions when they only multiply and add in
/// registers. A multiplication and an addition are two operations.
///
/// # Errors
/// [`Error::Unavailable`] and [`Error::Threads`].
pub fn peak(instructions: InstructionSet, threads: Option<NonZeroUsize>) -> Result<f64, Error> {
    Ok(instructions.dispatch(peak::Peak(&Threads::new(threads)?))?)
}

/// VGG16 up to its last pooling, and the maximum of each channel over space.
pub struct FusedVgg16 {
    /// For one of the instruction sets.
    forward: Box<dyn Forward>,
}

#[derive(Debug, Default)]
pub struct PassOutput {
    /// `[image][512]`, not normalised.
    pub features: Vec<f32>,
    /// `[image][512][14][14]`, where maps were asked for: the output of the fourth block's pooling.
    pub block4_pool: Vec<f32>,
    /// `[image][512][7][7]`, where maps were asked for: the output of the fifth block's pooling.
    pub block5_pool: Vec<f32>,
    /// The time that each convolution after the first took; the first is part of the second.
    pub times: Vec<Duration>,
}

/// The forward pass of any instruction set.
trait Forward: Send + Sync {
    fn forward(&self, images: &[f32], maps: bool) -> PassOutput;
}

impl<S: Simd> Forward for ForwardPass<S> {
    fn forward(&self, images: &[f32], maps: bool) -> PassOutput {
        ForwardPass::forward(self, images, maps)
    }
}

impl FusedVgg16 {
    /// Prepares the network. `weights` gives those of the thirteen convolutions, and is called only if there is no file of packed
    /// ones.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Threads`], and those of `weights`.
    ///
    /// # Panics
    /// When the weights are not those of VGG16.
    pub fn new<E: From<Error>>(
        settings: &Settings,
        weights: impl FnOnce() -> Result<Vec<ConvWeights>, E>,
    ) -> Result<Self, E> {
        let forward = settings.instructions.dispatch(Prepare { settings, weights }).map_err(Error::Unavailable)??;
        Ok(Self { forward })
    }

    /// Images `[image][3][224][224]`, means subtracted, to features, and with `maps` to the outputs of the last two poolings.
    ///
    /// # Panics
    /// When the length is not a multiple of an image's.
    pub fn forward(&self, images: &[f32], maps: bool) -> PassOutput {
        self.forward.forward(images, maps)
    }
}

struct Prepare<'a, W> {
    settings: &'a Settings,
    weights: W,
}

impl<E: From<Error>, W: FnOnce() -> Result<Vec<ConvWeights>, E>> WithSimd for Prepare<'_, W> {
    type Output = Result<Box<dyn Forward>, E>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        Ok(Box::new(ForwardPass::new(simd, self.settings, self.weights)?))
    }
}

#[cfg(test)]
mod tests;
