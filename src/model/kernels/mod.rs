//! VGG16's convolutions for CPUs, fused: Winograd's algorithm, with transforms, multiplication, bias, `ReLU` and pooling of a
//! few tiles at a time in the cache of a core.
//!
//! | module | what it is |
//! |---|---|
//! | [`cook_toom`] | the algorithm's matrices, derived from their points |
//! | [`simd`] | an instruction set's registers behind one trait |
//! | [`transform`] | tiles to points and back |
//! | [`multiply`] | the multiplication at the points |
//! | [`steps`] | these three for all tiles in hand |
//! | [`first`] | the first convolution, on the way into the second |
//! | [`layer`] | one convolution, shared by threads |
//! | [`plan`] | which tiles each convolution takes |
//! | [`pack`] | weights to points |
//! | [`network`] | the forward pass |
//! | [`memory`], [`team`] | maps and buffers; threads |
//!
//! Every map and every weight is kept in blocks of as many channels as a register has lanes.
// What a task calls must land in its body, see `simd::Task`; loops over registers are unrolled when they count.
#![allow(clippy::inline_always, clippy::needless_range_loop)]

mod cook_toom;
mod first;
mod layer;
mod memory;
mod multiply;
mod network;
mod pack;
mod plan;
mod simd;
mod steps;
mod team;
mod transform;

use std::num::NonZeroUsize;
use std::time::Duration;

use rayon::ThreadPoolBuildError;

use self::network::Network;
pub use self::network::{FEATURES, MAX_BATCH};
pub use self::plan::Plan;
use self::simd::Portable;
#[cfg(target_arch = "x86_64")]
use self::simd::{Avx2, Avx512};

/// The instructions that a forward pass is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What every CPU of the target has.
    Portable,
}

impl Kernel {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The fastest that this machine has.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this machine has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Its name in settings and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// Weights of a convolution.
pub struct Layer {
    /// `[output][input][row][column]`, 3 x 3.
    pub weights: Vec<f32>,
    /// `[output]`
    pub bias: Vec<f32>,
}

/// Why there is no forward pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks the instructions.
    #[error("this machine has no instructions for kernel `{}`; it has: {}", .0.name(), available())]
    Unavailable(Kernel),
    /// The threads that compute did not start.
    #[error("the threads of the model did not start: {0}")]
    Threads(#[from] ThreadPoolBuildError),
}

fn available() -> String {
    let names: Vec<_> = Kernel::ALL.iter().filter(|kernel| kernel.is_available()).map(|kernel| kernel.name()).collect();
    names.join(", ")
}

/// VGG16 up to its last pooling, and the maximum of each channel over space.
pub struct Vgg16 {
    /// For one of the instruction sets.
    network: Box<dyn Forward>,
}

/// The forward pass of any instruction set.
trait Forward: Send + Sync {
    fn forward(&self, images: &[f32]) -> (Vec<f32>, Vec<Duration>);
}

impl<S: simd::Simd> Forward for Network<S> {
    fn forward(&self, images: &[f32]) -> (Vec<f32>, Vec<Duration>) {
        Network::forward(self, images)
    }
}

impl Vgg16 {
    /// Prepares the network. `layers` are its thirteen convolutions; `threads` compute, `None` takes as many as are
    /// granted to the process.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// When the layers are not those of VGG16.
    pub fn new(kernel: Kernel, plan: Plan, layers: &[Layer], threads: Option<NonZeroUsize>) -> Result<Self, Error> {
        let network: Box<dyn Forward> = match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                let simd = Avx512::detect().ok_or(Error::Unavailable(kernel))?;
                Box::new(Network::new(simd, plan, layers, threads)?)
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => {
                let simd = Avx2::detect().ok_or(Error::Unavailable(kernel))?;
                Box::new(Network::new(simd, plan, layers, threads)?)
            }
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx512 | Kernel::Avx2 => return Err(Error::Unavailable(kernel)),
            Kernel::Portable => Box::new(Network::new(Portable, plan, layers, threads)?),
        };
        Ok(Self { network })
    }

    /// Images `[image][3][224][224]`, means subtracted, to features `[image][512]`, not normalised.
    ///
    /// # Panics
    /// When the length is no multiple of an image's.
    pub fn forward(&self, images: &[f32]) -> Vec<f32> {
        self.network.forward(images).0
    }

    /// As [`Vgg16::forward`], with the time that each convolution behind the first took; the first is part of the second.
    ///
    /// # Panics
    /// As [`Vgg16::forward`].
    pub fn forward_timed(&self, images: &[f32]) -> (Vec<f32>, Vec<Duration>) {
        self.network.forward(images)
    }
}

#[cfg(test)]
mod tests;
