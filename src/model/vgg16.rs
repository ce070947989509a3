//! The thirteen convolutions of VGG16 as a Candle graph.
//!
//! Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, configuration D,
//! without the fully connected layers; then the maximum of each channel over the 7 x 7 positions, as Keras'
//! `include_top=False, pooling="max"`.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module, VarBuilder};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::manifest::{ChannelOrder, Manifest};
use super::{Error, INPUT_SIZE, Model, Pixels};
use crate::embedding::{Degenerate, Embedding};

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

/// The network with its weights.
pub struct Vgg16 {
    /// Where it computes; Candle takes the pool that it is called in.
    pool: ThreadPool,
    blocks: Vec<Vec<Conv2d>>,
    channel_order: ChannelOrder,
    means: [f32; 3],
}

impl Vgg16 {
    /// Builds the network from a safetensors file whose tensors are named as [`convolutions`], with `.weight` (OIHW) and
    /// `.bias`. `threads` compute; `None` takes all that are granted.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or the threads do not start.
    pub fn new(file: Vec<u8>, manifest: &Manifest, threads: Option<NonZeroUsize>) -> Result<Self, Error> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.map_or(0, NonZeroUsize::get))
            .thread_name(|number| format!("compute-{number}"))
            .build()?;
        let weights = VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu)?;
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let mut layers = convolutions();
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        for block in BLOCKS {
            let convolutions = layers.by_ref().take(block.len());
            let built = convolutions
                .map(|(name, inputs, outputs)| candle_nn::conv2d(inputs, outputs, 3, config, weights.pp(name)));
            blocks.push(built.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Self { pool, blocks, channel_order: manifest.channel_order, means: manifest.means })
    }

    /// Pixels as the network takes them: `[n, 3, 224, 224]`, channels in its order, means subtracted.
    fn input(&self, batch: &[Pixels]) -> Result<Tensor, Error> {
        let mut values = Vec::with_capacity(batch.len() * 3 * INPUT_SIZE * INPUT_SIZE);
        for pixels in batch {
            for (channel, mean) in self.means.iter().enumerate() {
                let offset = match self.channel_order {
                    ChannelOrder::Rgb => channel,
                    ChannelOrder::Bgr => 2 - channel,
                };
                values.extend(pixels.as_rgb().iter().skip(offset).step_by(3).map(|&value| f32::from(value) - mean));
            }
        }
        Ok(Tensor::from_vec(values, (batch.len(), 3, INPUT_SIZE, INPUT_SIZE), &Device::Cpu)?)
    }

    /// Images to features, `[n, 3, 224, 224]` to `[n, 512]`, not normalised.
    fn forward(&self, input: Tensor) -> Result<Tensor, Error> {
        let mut map = input;
        for block in &self.blocks {
            for convolution in block {
                map = convolution.forward(&map)?.relu()?;
            }
            map = map.max_pool2d(2)?;
        }
        Ok(map.flatten_from(2)?.max(2)?.to_dtype(DType::F32)?)
    }
}

impl Model for Vgg16 {
    fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, Error> {
        let features = self.pool.install(|| Ok::<_, Error>(self.forward(self.input(batch)?)?.to_vec2::<f32>()?))?;
        Ok(features.into_iter().map(Embedding::normalize).collect())
    }
}
