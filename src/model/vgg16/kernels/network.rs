//! The forward pass.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::convolve::{ConvolutionPass, Input, Scratch, Split, points_len};
use super::first_layer::{self, FirstConvolution};
use super::geometry::Convolution;
use super::maps::{Map, SharedFloats};
use super::pack::pack;
use super::packed::{PackFile, Packed};
use super::plan::{LAYERS, Layout};
use super::threads::Threads;
use super::{ConvWeights, Error, PassOutput, Settings};
use crate::simd::{Buffer, Simd, WithSimd};

/// The last convolutions of the fourth and fifth block.
const BLOCK4: usize = 8;
const BLOCK5: usize = 11;
/// Floats of an image.
const IMAGE: usize = first_layer::INPUTS * first_layer::INPUT_SIZE * first_layer::INPUT_SIZE;
pub const FEATURES: usize = 512;
/// Images in one pass.
pub const MAX_BATCH: usize = 8;

/// VGG16 up to its last pooling, and the maximum of each channel over space.
pub(super) struct ForwardPass<S> {
    simd: S,
    threads: Threads,
    layout: Layout,
    packed: Packed,
    /// How many of the convolutions run image by image.
    image_by_image: usize,
    workspace: Mutex<Workspace>,
}

/// The memory that a pass works in, kept for the next one.
struct Workspace {
    images: Buffer,
    /// The input of each convolution, and the output of the last.
    maps: Vec<(Map, Buffer)>,
    /// Points of tiles that all threads multiply.
    shared_points: Buffer,
    scratch: Vec<Mutex<Scratch>>,
    features: Buffer,
    /// Images that it has room for.
    capacity: usize,
}

impl<S: Simd> ForwardPass<S> {
    /// Calls `weights` only if there is no file of packed ones.
    pub(super) fn new<E: From<Error>>(
        simd: S,
        settings: &Settings,
        weights: impl FnOnce() -> Result<Vec<ConvWeights>, E>,
    ) -> Result<Self, E> {
        let threads = Threads::new(settings.threads).map_err(Error::Threads)?;
        let layout = settings.plan.layout::<S>();
        let file = PackFile::new(settings, S::LANES, &layout);
        let packed = if let Some(packed) = file.open() {
            packed
        } else {
            let weights = weights()?;
            let mut packed = Buffer::new(layout.len);
            threads.pool().install(|| pack::<S>(&layout, &weights, &mut packed));
            file.keep(packed)
        };
        let image_by_image = image_by_image(&layout.convolutions, threads.count());
        let workspace = Mutex::new(Workspace::new::<S>(&layout.convolutions, image_by_image, threads.count(), 0));
        Ok(Self { simd, threads, layout, packed, image_by_image, workspace })
    }

    /// See [`super::FusedVgg16::forward`].
    pub(super) fn forward(&self, images: &[f32], maps: bool) -> PassOutput {
        assert!(images.len().is_multiple_of(IMAGE), "whole images");
        let times = vec![Duration::ZERO; self.layout.convolutions.len()];
        let mut output = PassOutput { times, ..PassOutput::default() };
        for images in images.chunks(MAX_BATCH * IMAGE) {
            self.pass(images, maps, &mut output);
        }
        output
    }

    fn pass(&self, images: &[f32], with_maps: bool, output: &mut PassOutput) {
        let count = images.len() / IMAGE;
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if workspace.capacity < count {
            let capacity = if count == 1 { 1 } else { MAX_BATCH };
            let make = |capacity| {
                Workspace::new::<S>(&self.layout.convolutions, self.image_by_image, self.threads.count(), capacity)
            };
            // The old one is freed before the new one is allocated.
            *workspace = make(0);
            *workspace = make(capacity);
        }
        let Workspace { images: bordered, maps, shared_points, scratch, features: maxima, .. } = &mut *workspace;
        for (from, to) in images.chunks_exact(IMAGE).zip(bordered.chunks_exact_mut(first_layer::IMAGE)) {
            first_layer::border(from, to);
        }
        let bordered: &[f32] = bordered;
        let maps: Vec<_> = maps.iter_mut().map(|(map, buffer)| (SharedFloats::new(buffer), *map)).collect();
        let shared_points = SharedFloats::new(shared_points);
        let Layout { convolutions, first, first_bias, .. } = &self.layout;
        let packed: &[f32] = &self.packed;
        let first = FirstConvolution { weights: &packed[first.clone()], bias: &packed[first_bias.clone()] };
        let times = Mutex::new(&mut output.times);
        self.threads.run(|worker| {
            let mut scratch = scratch[worker.index()].lock().unwrap_or_else(PoisonError::into_inner);
            for Step { layer, from_image, to_image, images } in schedule(count, self.image_by_image) {
                let start = Instant::now();
                let input = match layer.checked_sub(1) {
                    None => Input::Pixels(first, bordered),
                    Some(before) => Input::Map(maps[before].0, maps[before].1),
                };
                let (convolution, target) = (&convolutions[layer], maps[layer]);
                let pass =
                    ConvolutionPass { convolution, packed, input, target, images, from_image, to_image, shared_points };
                pass.run(self.simd, worker, &mut scratch);
                if worker.index() == 0 {
                    times.lock().unwrap_or_else(PoisonError::into_inner)[layer] += start.elapsed();
                }
            }
        });
        let (last, map) = maps[BLOCK5];
        self.simd.vectorize(Maxima { map, images: count, last, to: SharedFloats::new(maxima) });
        output.features.extend_from_slice(&maxima[..count * FEATURES]);
        if with_maps {
            for (layer, to) in [(BLOCK4, &mut output.block4_pool), (BLOCK5, &mut output.block5_pool)] {
                let (map, buffer) = &workspace.maps[layer];
                map.copy_out(buffer, count, to);
            }
        }
    }
}

/// One convolution of some images.
struct Step {
    layer: usize,
    /// The number of the first image in the convolution's input.
    from_image: usize,
    /// The same in its output.
    to_image: usize,
    images: usize,
}

/// How many of the first convolutions run image by image: those of which one image gives work to all threads. The image's maps
/// stay in the cache then, and maps of the other images take no memory.
fn image_by_image(convolutions: &[Convolution], threads: usize) -> usize {
    convolutions.iter().take_while(|convolution| convolution.blocks() >= 2 * threads).count()
}

/// The steps of a pass over `count` images. The first `image_by_image` convolutions run image by image.
fn schedule(count: usize, image_by_image: usize) -> impl Iterator<Item = Step> {
    let one_by_one = (0..count).flat_map(move |image| {
        (0..image_by_image).map(move |layer| {
            let from_image = if layer == 0 { image } else { 0 };
            let to_image = if layer == image_by_image - 1 { image } else { 0 };
            Step { layer, from_image, to_image, images: 1 }
        })
    });
    one_by_one.chain((image_by_image..LAYERS.len()).map(move |layer| Step {
        layer,
        from_image: 0,
        to_image: 0,
        images: count,
    }))
}

impl Workspace {
    fn new<S: Simd>(convolutions: &[Convolution], image_by_image: usize, threads: usize, capacity: usize) -> Self {
        let mut maps = Vec::new();
        for (layer, convolution) in convolutions.iter().enumerate() {
            let (size, channels) = (convolution.output_size(), convolution.outputs);
            let map = match convolutions.get(layer + 1) {
                Some(next) => Map::bordered(size, channels, S::LANES, next.extent()),
                None => Map::bare(size, channels, S::LANES),
            };
            let images = if layer + 1 < image_by_image { capacity.min(1) } else { capacity };
            maps.push((map, Buffer::new(map.image() * images)));
        }
        // A batch of one image is the one most often split by outputs.
        let shared_points = convolutions.iter().filter(|c| Split::of(c, 1, threads) == Split::Outputs);
        let shared_points = shared_points.map(|c| points_len::<S>(c, c.block)).max().unwrap_or(0) * capacity.min(1);
        Self {
            images: Buffer::new(first_layer::IMAGE * capacity),
            maps,
            shared_points: Buffer::new(shared_points),
            scratch: (0..threads).map(|_| Mutex::new(Scratch::new())).collect(),
            features: Buffer::new(FEATURES * capacity),
            capacity,
        }
    }
}

/// The maximum of each channel over space.
struct Maxima<'a> {
    map: Map,
    images: usize,
    last: SharedFloats<'a>,
    to: SharedFloats<'a>,
}

impl WithSimd for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (size, blocks) = (self.map.size, self.map.channels / S::LANES);
        for image in 0..self.images {
            for block in 0..blocks {
                let from = self.last.part(self.map.position(image, 0, 0) + block * self.map.plane(), self.map.plane());
                let to = self.to.part((image * blocks + block) * S::LANES, S::LANES);
                // SAFETY: a bare map's plane is its positions, a register each; there is one feature for each channel.
                unsafe {
                    let mut most = simd.load(from);
                    for position in 1..size * size {
                        most = simd.max(most, simd.load(from.add(position * S::LANES)));
                    }
                    simd.store(to, most);
                }
            }
        }
    }
}
