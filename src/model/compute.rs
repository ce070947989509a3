//! The settings of computation, which every model takes as far as they concern it.

use std::num::NonZeroUsize;

use candle_core::Device;
use clap::ValueEnum;

use super::Error;
use crate::simd::{InstructionSet, Unavailable};

/// The setting `--kernel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KernelChoice {
    /// The fastest that this machine has
    #[default]
    Auto,
    /// AVX-512
    Avx512,
    /// AVX2 and FMA
    Avx2,
    /// Instructions that every CPU has
    Portable,
    /// The stock convolutions of Candle: slow, for comparison
    Candle,
    /// The stock convolutions of Candle on the first GPU, by CUDA
    #[cfg(feature = "cuda")]
    Cuda,
    /// The stock convolutions of Candle on the GPU, by Metal
    #[cfg(feature = "metal")]
    Metal,
}

/// The setting `--plan`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlanChoice {
    /// Small where the container's cgroup allows less than 2 GiB, else fast
    #[default]
    Auto,
    /// The least time: 390 MB of weights
    Fast,
    /// The least memory: 235 MB of weights
    Small,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Compute {
    pub kernel: KernelChoice,
    /// Time or memory.
    pub plan: PlanChoice,
    /// `None` takes as many threads as the cgroup grants.
    pub threads: Option<NonZeroUsize>,
    /// Keeps packed weights in memory, and writes no file of them.
    pub no_packed_file: bool,
}

impl Compute {
    /// The instructions of this program's own kernels; `None` stands for Candle's convolutions.
    pub fn instructions(&self) -> Option<InstructionSet> {
        match self.kernel {
            KernelChoice::Auto => Some(InstructionSet::best()),
            KernelChoice::Avx512 => Some(InstructionSet::Avx512),
            KernelChoice::Avx2 => Some(InstructionSet::Avx2),
            KernelChoice::Portable => Some(InstructionSet::Portable),
            KernelChoice::Candle => None,
            #[cfg(feature = "cuda")]
            KernelChoice::Cuda => None,
            #[cfg(feature = "metal")]
            KernelChoice::Metal => None,
        }
    }

    /// The device of Candle's tensors.
    ///
    /// # Errors
    /// When the machine has no such device.
    #[cfg_attr(not(any(feature = "cuda", feature = "metal")), allow(clippy::unnecessary_wraps))]
    pub(super) fn device(&self) -> candle_core::Result<Device> {
        match self.kernel {
            #[cfg(feature = "cuda")]
            KernelChoice::Cuda => Device::new_cuda(0),
            #[cfg(feature = "metal")]
            KernelChoice::Metal => Device::new_metal(0),
            _ => Ok(Device::Cpu),
        }
    }

    /// Checks that this machine can compute with these settings.
    ///
    /// # Errors
    /// When it lacks the instructions or the device.
    pub fn check(&self) -> Result<(), Error> {
        match self.instructions() {
            Some(set) if !set.is_available() => Err(Unavailable(set).into()),
            Some(_) => Ok(()),
            None => Ok(self.device().map(drop)?),
        }
    }

    /// The kernel's name in metrics.
    pub fn kernel_name(&self) -> &'static str {
        match self.kernel {
            #[cfg(feature = "cuda")]
            KernelChoice::Cuda => "cuda",
            #[cfg(feature = "metal")]
            KernelChoice::Metal => "metal",
            _ => self.instructions().map_or("candle", InstructionSet::name),
        }
    }
}
