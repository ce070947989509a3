//! VGG16's convolutions for CPUs, fused: Winograd's algorithm, with transforms, multiplication, bias, `ReLU` and pooling of a
//! few tiles at a time in the cache of a core.
//!
//! | module | what it is |
//! |---|---|
//! | `winograd` | the algorithm's matrices, derived from their points |
//! | `transform` | tiles to points and back |
//! | `multiply` | the multiplication at the points |
//! | `steps` | these three for all tiles in hand |
//! | `geometry` | convolutions and their tiles in order |
//! | `first_layer` | the first convolution, on the way into the second |
//! | `convolve` | one convolution, shared by threads |
//! | `plan` | which tiles each convolution takes |
//! | `pack`, `packed` | weights to points; a file of them |
//! | `network` | the forward pass |
//! | `maps`, `threads` | feature maps in memory; threads |
//! | `peak` | what the machine could do |
//!
//! Imports [`crate::simd`] and [`crate::atomic_file`] alone: `tests/aarch64` compiles these three by their paths, without the
//! rest of the program, and runs the portable kernel under emulation.
//!
//! Every map and every weight is kept in blocks of as many channels as a register has lanes.
// What a task calls must land in its body, see `simd::Task`; loops over registers are unrolled when they count.
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

use self::network::Network;
pub use self::network::{FEATURES, MAX_BATCH};
pub use self::packed::Canonical;
use self::packed::PackFile;
pub use self::plan::Plan;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd};

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

/// How a network is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instructions.
    pub kernel: Kernel,
    /// Time or memory.
    pub plan: Plan,
    /// Threads that compute; `None` takes as many as are granted to the process.
    pub threads: Option<NonZeroUsize>,
    /// Where the weights come from, beside which packed ones are kept; `None` keeps them in memory.
    pub canonical: Option<Canonical>,
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
    /// A file of packed weights is not as it was written.
    #[error("{} is damaged ({reason}): remove it, and the next start packs the weights again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn available() -> String {
    let names: Vec<_> = Kernel::ALL.iter().filter(|kernel| kernel.is_available()).map(|kernel| kernel.name()).collect();
    names.join(", ")
}

/// Evaluates an expression with the proof of a kernel's instruction set, or returns that there is none.
macro_rules! with_instructions {
    ($kernel:expr, $simd:ident => $value:expr) => {
        match $kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                let $simd = Avx512::detect().ok_or(Error::Unavailable($kernel))?;
                $value
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => {
                let $simd = Avx2::detect().ok_or(Error::Unavailable($kernel))?;
                $value
            }
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx512 | Kernel::Avx2 => return Err(Error::Unavailable($kernel).into()),
            Kernel::Portable => {
                let $simd = Portable;
                $value
            }
        }
    };
}

/// Reads the file of packed weights and checks every byte. Returns where it is; `None` where there is none.
///
/// # Errors
/// [`Error::Damaged`], and [`Error::Unavailable`] for what this machine cannot run.
pub fn verify(settings: &Settings) -> Result<Option<PathBuf>, Error> {
    fn file<S: Simd>(_: S, settings: &Settings) -> PackFile {
        PackFile::new(settings, S::LANES, &settings.plan.layout::<S>())
    }
    let file = with_instructions!(settings.kernel, simd => file(simd, settings));
    file.verify().map(|path| path.map(Path::to_owned))
}

/// Floating-point operations per second that these threads reach with these instructions when they do nothing but multiply
/// and add in registers, a multiplication and an addition being two.
///
/// # Errors
/// [`Error::Unavailable`] and [`Error::Threads`].
pub fn peak(kernel: Kernel, threads: Option<NonZeroUsize>) -> Result<f64, Error> {
    let team = threads::Team::new(threads)?;
    Ok(with_instructions!(kernel, simd => peak::peak(simd, &team)))
}

/// VGG16 up to its last pooling, and the maximum of each channel over space.
pub struct Vgg16 {
    /// For one of the instruction sets.
    network: Box<dyn Forward>,
}

/// What a forward pass gives.
#[derive(Debug, Default)]
pub struct Pass {
    /// `[image][512]`, not normalised.
    pub features: Vec<f32>,
    /// `[image][512][14][14]`, where maps were asked for: the output of the fourth block's pooling.
    pub block4_pool: Vec<f32>,
    /// `[image][512][7][7]`, where maps were asked for: the output of the fifth block's pooling.
    pub block5_pool: Vec<f32>,
    /// The time that each convolution behind the first took; the first is part of the second.
    pub times: Vec<Duration>,
}

/// The forward pass of any instruction set.
trait Forward: Send + Sync {
    fn forward(&self, images: &[f32], maps: bool) -> Pass;
}

impl<S: Simd> Forward for Network<S> {
    fn forward(&self, images: &[f32], maps: bool) -> Pass {
        Network::forward(self, images, maps)
    }
}

impl Vgg16 {
    /// Prepares the network. `layers` are its thirteen convolutions, asked for only where no file has them packed.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Threads`], and those of `layers`.
    ///
    /// # Panics
    /// When the layers are not those of VGG16.
    pub fn new<E: From<Error>>(settings: &Settings, layers: impl FnOnce() -> Result<Vec<Layer>, E>) -> Result<Self, E> {
        let network: Box<dyn Forward> =
            with_instructions!(settings.kernel, simd => Box::new(Network::new(simd, settings, layers)?));
        Ok(Self { network })
    }

    /// Images `[image][3][224][224]`, means subtracted, to features, and with `maps` to those of the last two poolings.
    ///
    /// # Panics
    /// When the length is no multiple of an image's.
    pub fn forward(&self, images: &[f32], maps: bool) -> Pass {
        self.network.forward(images, maps)
    }
}

#[cfg(test)]
mod tests;
