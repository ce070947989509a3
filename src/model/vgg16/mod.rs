//! The thirteen convolutions of VGG16 as a Candle graph: one fused operation, or the stock convolutions one by one.
//!
//! Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, configuration D,
//! without the fully connected layers; then the maximum of each channel over the 7 x 7 positions, as Keras'
//! `include_top=False, pooling="max"`.

pub mod import;
pub mod kernels;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module, VarBuilder};
use rayon::{ThreadPool, ThreadPoolBuilder};

use self::kernels::{ConvWeights, FEATURES, FusedVgg16, INPUT_SIZE, Plan};
use super::compute::{Compute, PlanChoice};
use super::manifest::{ChannelOrder, Manifest};
use super::weights::Loaded;
use super::{Error, MAX_BATCH, Model};
use crate::decode::pixels::Pixels;
use crate::embedding::{Degenerate, Embedding};
use crate::machine::memory_limit;

/// Output channels of each convolution, block by block; each block ends in a 2 x 2 max pool.
pub const BLOCKS: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]];

/// Name, input channels and output channels of each convolution, in the order of the network.
pub fn convolutions() -> impl Iterator<Item = (String, usize, usize)> {
    let mut inputs = 3;
    let blocks = BLOCKS.iter().zip(1..);
    let layers = blocks.flat_map(|(outputs, block)| outputs.iter().zip(1..).map(move |layer| (block, layer)));
    layers.map(move |(block, (&outputs, conv))| {
        let inputs = std::mem::replace(&mut inputs, outputs);
        (format!("block{block}_conv{conv}"), inputs, outputs)
    })
}

const _: () = assert!(kernels::MAX_BATCH == MAX_BATCH, "the kernels take a whole batch at a time");

/// The cgroup's limit below which memory counts more than time.
const SMALL_BELOW: u64 = 2 << 30;

/// The plan of the kernels on this machine.
pub fn plan(choice: PlanChoice) -> Plan {
    match choice {
        PlanChoice::Small => Plan::Small,
        PlanChoice::Auto if memory_limit().is_some_and(|limit| limit < SMALL_BELOW) => Plan::Small,
        PlanChoice::Auto | PlanChoice::Fast => Plan::Fast,
    }
}

/// The settings of the kernels; `None` where Candle's own convolutions are used.
fn settings(compute: &Compute, weights: &Loaded) -> Option<kernels::Settings> {
    let instructions = compute.instructions()?;
    let canonical = kernels::Canonical { path: weights.path.clone(), sha256: weights.sha256.clone() };
    let canonical = Some(canonical).filter(|_| !compute.no_packed_file);
    Some(kernels::Settings { instructions, plan: plan(compute.plan), threads: compute.threads, canonical })
}

/// See [`super::load::check`].
pub(super) fn check(weights: &Loaded, compute: &Compute) -> Result<Option<PathBuf>, Error> {
    // No file can have been packed for instructions that this machine lacks.
    verify(settings(compute, weights).filter(|settings| settings.instructions.is_available()))
}

/// See [`super::load::pack`].
pub(super) fn pack(weights: Loaded, manifest: &Manifest, compute: &Compute) -> Result<Option<PathBuf>, Error> {
    let settings = settings(compute, &weights);
    drop(Vgg16::new(weights, manifest, compute)?);
    verify(settings)
}

fn verify(settings: Option<kernels::Settings>) -> Result<Option<PathBuf>, Error> {
    Ok(settings.map(|settings| kernels::verify(&settings)).transpose()?.flatten())
}

/// What a pass gives to models that describe regions.
pub struct Maps {
    /// `[n, 512]`, not normalised.
    pub features: Tensor,
    /// The output of the fourth block's pooling: `[n, 512, 14, 14]`.
    pub block4_pool: Tensor,
    /// The output of the fifth block's pooling: `[n, 512, 7, 7]`.
    pub block5_pool: Tensor,
}

/// The network with its weights.
pub struct Vgg16 {
    backend: Backend,
    channel_order: ChannelOrder,
    means: [f32; 3],
    deviations: [f32; 3],
}

/// How the convolutions are computed.
enum Backend {
    /// As one operation.
    Fused(FusedVgg16),
    /// By Candle's own convolutions, block by block.
    Stock {
        device: Device,
        /// The threads of the CPU: Candle takes the pool that it is called in.
        pool: ThreadPool,
        blocks: Vec<Vec<Conv2d>>,
    },
}

impl Vgg16 {
    /// Builds the network from a safetensors file whose tensors are named as [`convolutions`], with `.weight` (OIHW) and
    /// `.bias`.
    ///
    /// # Errors
    /// When the manifest has another input size, a tensor is missing or has another shape, the machine lacks the instructions or the
    /// device, or the threads do not start.
    pub fn new(weights: Loaded, manifest: &Manifest, compute: &Compute) -> Result<Self, Error> {
        check_size(manifest.input_size)?;
        let settings = settings(compute, &weights);
        let device = compute.device()?;
        let tensors = || VarBuilder::from_buffered_safetensors(weights.bytes, DType::F32, &device);
        let backend = match settings {
            Some(settings) => Backend::Fused(FusedVgg16::new(&settings, || conv_weights(&tensors()?))?),
            None => stock(&tensors()?, compute.threads)?,
        };
        let deviations = manifest.deviations.unwrap_or([1.0; 3]);
        Ok(Self { backend, channel_order: manifest.channel_order, means: manifest.means, deviations })
    }

    /// Pixels as the network takes them: `[n, 3, 224, 224]`, channels in its order, means subtracted, divided by the deviations.
    fn input(&self, batch: &[Pixels]) -> Result<Tensor, Error> {
        let mut values = Vec::with_capacity(batch.len() * 3 * INPUT_SIZE * INPUT_SIZE);
        for pixels in batch {
            check_size(pixels.size())?;
            for (channel, (mean, deviation)) in self.means.iter().zip(self.deviations).enumerate() {
                let offset = match self.channel_order {
                    ChannelOrder::Rgb => channel,
                    ChannelOrder::Bgr => 2 - channel,
                };
                let channel = pixels.as_rgb().iter().skip(offset).step_by(3);
                values.extend(channel.map(|&value| (f32::from(value) - mean) / deviation));
            }
        }
        Ok(Tensor::from_vec(values, (batch.len(), 3, INPUT_SIZE, INPUT_SIZE), &Device::Cpu)?)
    }

    /// Images to features, `[n, 3, 224, 224]` to `[n, 512]`, not normalised.
    fn forward(&self, images: &Tensor) -> Result<Tensor, Error> {
        match &self.backend {
            Backend::Fused(network) => Ok(images.apply_op1_no_bwd(&Fused(network))?),
            Backend::Stock { device, pool, blocks } => {
                pool.install(|| maxima(&stock_blocks(blocks, &images.to_device(device)?)?))
            }
        }
    }

    /// Features of images, and the maps that they come from, for models that describe regions. The maps cost almost no time.
    ///
    /// # Errors
    /// When Candle reports an error.
    pub fn maps(&self, batch: &[Pixels]) -> Result<Maps, Error> {
        let images = self.input(batch)?;
        let count = batch.len();
        match &self.backend {
            Backend::Fused(network) => {
                let pass = network.forward(&images.flatten_all()?.to_vec1()?, true);
                let tensor = |values, size| Tensor::from_vec(values, (count, FEATURES, size, size), &Device::Cpu);
                Ok(Maps {
                    features: Tensor::from_vec(pass.features, (count, FEATURES), &Device::Cpu)?,
                    block4_pool: tensor(pass.block4_pool, INPUT_SIZE / 16)?,
                    block5_pool: tensor(pass.block5_pool, INPUT_SIZE / 32)?,
                })
            }
            Backend::Stock { device, pool, blocks } => pool.install(|| {
                let fourth = stock_blocks(&blocks[..4], &images.to_device(device)?)?;
                let fifth = stock_blocks(&blocks[4..], &fourth)?;
                Ok(Maps {
                    features: maxima(&fifth)?.to_device(&Device::Cpu)?,
                    block4_pool: fourth.to_device(&Device::Cpu)?,
                    block5_pool: fifth.to_device(&Device::Cpu)?,
                })
            }),
        }
    }

    /// The time that each convolution takes with these images, the first and second together; `None` for the stock ones.
    ///
    /// # Errors
    /// When Candle reports an error.
    pub fn times(&self, batch: &[Pixels]) -> Result<Option<Vec<Duration>>, Error> {
        let Backend::Fused(network) = &self.backend else { return Ok(None) };
        let images = self.input(batch)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Some(network.forward(&images, false).times))
    }
}

/// Some blocks by Candle's own convolutions.
fn stock_blocks(blocks: &[Vec<Conv2d>], images: &Tensor) -> Result<Tensor, Error> {
    let mut map = images.clone();
    for block in blocks {
        for convolution in block {
            map = convolution.forward(&map)?.relu()?;
        }
        map = map.max_pool2d(2)?;
    }
    Ok(map)
}

/// The maximum of each channel over space.
fn maxima(map: &Tensor) -> Result<Tensor, Error> {
    Ok(map.flatten_from(2)?.max(2)?)
}

/// The weights of all convolutions, for the kernels.
fn conv_weights(tensors: &VarBuilder<'_>) -> Result<Vec<ConvWeights>, Error> {
    let weights = convolutions().map(|(name, inputs, outputs)| {
        let tensors = tensors.pp(name);
        let values = |name, shape: &[usize]| tensors.get(shape, name)?.flatten_all()?.to_vec1::<f32>();
        Ok(ConvWeights { weights: values("weight", &[outputs, inputs, 3, 3])?, bias: values("bias", &[outputs])? })
    });
    weights.collect()
}

fn check_size(found: usize) -> Result<(), Error> {
    if found == INPUT_SIZE { Ok(()) } else { Err(Error::InputSize { expected: INPUT_SIZE, found }) }
}

fn stock(weights: &VarBuilder<'_>, threads: Option<NonZeroUsize>) -> Result<Backend, Error> {
    let threads = threads.map_or(0, NonZeroUsize::get);
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|number| format!("compute-{number}")).build();
    let pool = pool.map_err(kernels::Error::from)?;
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let mut layers = convolutions();
    let mut blocks = Vec::with_capacity(BLOCKS.len());
    for block in BLOCKS {
        let convolutions = layers.by_ref().take(block.len());
        let built =
            convolutions.map(|(name, inputs, outputs)| candle_nn::conv2d(inputs, outputs, 3, config, weights.pp(name)));
        blocks.push(built.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(Backend::Stock { device: weights.device().clone(), pool, blocks })
}

/// The whole network as one operation of Candle's: no map between two convolutions becomes a tensor.
struct Fused<'a>(&'a FusedVgg16);

impl CustomOp1 for Fused<'_> {
    fn name(&self) -> &'static str {
        "vgg16"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("vgg16 takes images in f32") };
        let (images, 3, INPUT_SIZE, INPUT_SIZE) = layout.shape().dims4()? else {
            candle_core::bail!("vgg16 takes images of shape [n, 3, 224, 224], not {:?}", layout.shape())
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("vgg16 takes contiguous images")
        };
        Ok((CpuStorage::F32(self.0.forward(&values[start..end], false).features), Shape::from((images, FEATURES))))
    }
}

impl Model for Vgg16 {
    fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, Error> {
        let features = self.forward(&self.input(batch)?)?.to_vec2::<f32>()?;
        Ok(features.into_iter().map(Embedding::normalize).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn another_input_size_is_refused() {
        let manifest = Manifest { input_size: 336, ..Manifest::find("vgg16").unwrap() };
        let weights = Loaded { path: PathBuf::new(), bytes: Vec::new(), sha256: String::new() };
        let refused = Vgg16::new(weights, &manifest, &Compute::default()).err().unwrap();
        assert_eq!(refused.to_string(), "the network takes images of 224 x 224 pixels, not 336 x 336");
    }
}
