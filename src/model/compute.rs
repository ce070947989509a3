//! How features are computed: the settings, and what they come to on this machine.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use candle_core::Device;
use clap::ValueEnum;

use super::Error;
use super::kernels::{self, Kernel, Plan};
use super::weights::Loaded;

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

/// What the cgroup of this process allows, in bytes; `None` where it sets no limit. Version 2, else version 1.
pub fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().filter_map(|line| limit_of(line, Path::new("/sys/fs/cgroup"))).min()
}

/// The limit of one of the groups of `/proc/self/cgroup`, `hierarchy:controllers:path`, or of what it is in: a container sees
/// itself as the root, a service of the host is somewhere below.
fn limit_of(group: &str, mounted: &Path) -> Option<u64> {
    let mut fields = group.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, Path::new(fields.next()?.trim_start_matches('/')));
    let (root, file) = match controllers {
        "" => (mounted.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (mounted.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let limit = |path: &Path| fs::read_to_string(root.join(path).join(file)).ok()?.trim().parse().ok();
    // Version 1 says "no limit" as a number beyond any machine.
    path.ancestors().filter_map(limit).filter(|limit: &u64| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let write = |file: &str, limit: &str| {
            let path = mounted.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{limit}\n")).unwrap();
        };
        write("system.slice/memory.max", "3000");
        write("system.slice/worker.service/memory.max", "max");
        write("memory/docker/memory.limit_in_bytes", "5000");
        write("memory/memory.limit_in_bytes", "9223372036854771712");
        let limit = |group| limit_of(group, mounted.path());
        assert_eq!(limit("0::/system.slice/worker.service"), Some(3000));
        write("memory.max", "2000");
        assert_eq!(limit("0::/system.slice/worker.service"), Some(2000));
        // A path that only the host has: what a container sees of itself is the root.
        assert_eq!(limit("0::/kubepods/elsewhere"), Some(2000));
        assert_eq!(limit("0::/"), Some(2000));
        assert_eq!(limit("9:cpu,memory:/docker"), Some(5000));
        assert_eq!(limit("9:memory:/"), None);
        assert_eq!(limit("4:cpuset:/docker"), None);
        assert_eq!(limit("nonsense"), None);
    }
}
