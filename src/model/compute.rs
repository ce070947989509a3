//! How features are computed: the settings, and what they come to on this machine.

use std::num::NonZeroUsize;

use candle_core::Device;
use clap::ValueEnum;

use super::Error;
use super::vgg16::kernels::{self, Kernel, Plan};
use super::weights::Loaded;
use crate::machine::memory_limit;

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
    /// What every CPU has
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

/// The cgroup's limit below which memory is worth more than time.
const SMALL_BELOW: u64 = 2 << 30;

/// The settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compute {
    /// The instructions.
    pub kernel: KernelChoice,
    /// Time or memory.
    pub plan: PlanChoice,
    /// Threads; `None` takes as many as the cgroup grants.
    pub threads: Option<NonZeroUsize>,
    /// Keeps packed weights in memory only, and writes no file of them.
    pub no_packed_file: bool,
}

impl Compute {
    /// The kernel; `None` is Candle's own convolutions.
    pub fn kernel(&self) -> Option<Kernel> {
        match self.kernel {
            KernelChoice::Auto => Some(Kernel::best()),
            KernelChoice::Avx512 => Some(Kernel::Avx512),
            KernelChoice::Avx2 => Some(Kernel::Avx2),
            KernelChoice::Portable => Some(Kernel::Portable),
            KernelChoice::Candle => None,
            #[cfg(feature = "cuda")]
            KernelChoice::Cuda => None,
            #[cfg(feature = "metal")]
            KernelChoice::Metal => None,
        }
    }

    /// Where tensors lie: the CPU, but for Candle's own convolutions on a GPU.
    ///
    /// # Errors
    /// When there is no such device.
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

    /// Whether this machine can compute so.
    ///
    /// # Errors
    /// When it lacks the instructions, or the device.
    pub fn check(&self) -> Result<(), Error> {
        match self.kernel() {
            Some(kernel) if !kernel.is_available() => Err(kernels::Error::Unavailable(kernel).into()),
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
            _ => self.kernel().map_or("candle", Kernel::name),
        }
    }

    /// What the kernels are told; `None` where Candle's own convolutions are used.
    pub(super) fn settings(&self, weights: &Loaded) -> Option<kernels::Settings> {
        let canonical = kernels::Canonical { path: weights.path.clone(), sha256: weights.sha256.clone() };
        let canonical = Some(canonical).filter(|_| !self.no_packed_file);
        Some(kernels::Settings { kernel: self.kernel()?, plan: self.plan(), threads: self.threads, canonical })
    }

    /// The plan.
    pub fn plan(&self) -> Plan {
        match self.plan {
            PlanChoice::Small => Plan::Small,
            PlanChoice::Auto if memory_limit().is_some_and(|limit| limit < SMALL_BELOW) => Plan::Small,
            PlanChoice::Auto | PlanChoice::Fast => Plan::Fast,
        }
    }
}
