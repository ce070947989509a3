//! The forward pass.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::ThreadPoolBuildError;

use super::Layer;
use super::first::{self, First};
use super::layer::{Convolution, Job, Scratch, Source, Split, points_len};
use super::memory::{Buffer, Map, Shared};
use super::pack::pack;
use super::plan::{LAYERS, Plan};
use super::simd::{Simd, Task};
use super::team::Team;

/// Floats of an image.
const IMAGE: usize = first::INPUTS * first::SIZE * first::SIZE;
/// Features of an image.
pub const FEATURES: usize = 512;
/// Images that pass together.
pub const MAX_BATCH: usize = 8;
/// The convolutions that run image by image, behind the first: their maps are so large that they would leave the cache.
const SINGLE: usize = 3;

/// VGG16 up to its last pooling, and the maximum of each channel over space.
pub(super) struct Network<S> {
    simd: S,
    team: Team,
    first: First,
    convolutions: Vec<Convolution>,
    weights: Buffer,
    workspace: Mutex<Workspace>,
}

/// What passes lie in.
struct Workspace {
    images: Buffer,
    /// The input of each convolution, and the output of the last.
    maps: Vec<(Map, Buffer)>,
    together: Buffer,
    scratch: Vec<Mutex<Scratch>>,
    features: Buffer,
    capacity: usize,
}

impl<S: Simd> Network<S> {
    pub(super) fn new(
        simd: S,
        plan: Plan,
        layers: &[Layer],
        threads: Option<NonZeroUsize>,
    ) -> Result<Self, ThreadPoolBuildError> {
        let team = Team::new(threads)?;
        let mut convolutions = plan.convolutions::<S>();
        let mut weights = Buffer::new(convolutions.last().map_or(0, |last| last.weights.end));
        assert_eq!(layers.len(), convolutions.len() + 1, "VGG16 has thirteen convolutions");
        for (convolution, layer) in convolutions.iter_mut().zip(&layers[1..]) {
            let &mut Convolution { inputs, outputs, .. } = convolution;
            assert_eq!((layer.weights.len(), layer.bias.len()), (inputs * outputs * 9, outputs));
            convolution.bias = Buffer::of(&layer.bias);
            let to = &mut weights[convolution.weights.clone()];
            team.pool().install(|| pack::<S>(convolution, &layer.weights, to));
        }
        let first = First::new::<S>(&layers[0].weights, &layers[0].bias);
        let workspace = Mutex::new(Workspace::new::<S>(&convolutions, team.size(), 0));
        Ok(Self { simd, team, first, convolutions, weights, workspace })
    }

    /// Images `[image][3][224][224]`, means subtracted, to features, and the time that each convolution took.
    pub(super) fn forward(&self, images: &[f32]) -> (Vec<f32>, Vec<Duration>) {
        assert!(images.len().is_multiple_of(IMAGE), "whole images");
        let mut features = Vec::with_capacity(images.len() / IMAGE * FEATURES);
        let mut times = vec![Duration::ZERO; self.convolutions.len()];
        for images in images.chunks(MAX_BATCH * IMAGE) {
            self.pass(images, &mut features, &mut times);
        }
        (features, times)
    }

    fn pass(&self, images: &[f32], features: &mut Vec<f32>, times: &mut [Duration]) {
        let count = images.len() / IMAGE;
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if workspace.capacity < count {
            *workspace = Workspace::new::<S>(&self.convolutions, self.team.size(), count);
        }
        let Workspace { images: bordered, maps, together, scratch, features: maxima, .. } = &mut *workspace;
        for (from, to) in images.chunks_exact(IMAGE).zip(bordered.chunks_exact_mut(first::IMAGE)) {
            first::border(from, to);
        }
        let bordered: &[f32] = bordered;
        let maps: Vec<_> = maps.iter_mut().map(|(map, buffer)| (Shared::new(buffer), *map)).collect();
        let together = Shared::new(together);
        let times = Mutex::new(times);
        self.team.run(|member| {
            let mut scratch = scratch[member.index()].lock().unwrap_or_else(PoisonError::into_inner);
            for Turn { layer, from, to, images } in schedule(count) {
                let start = Instant::now();
                let source = match layer.checked_sub(1) {
                    None => Source::Pixels(&self.first, bordered),
                    Some(before) => Source::Map(maps[before].0, maps[before].1),
                };
                let convolution = &self.convolutions[layer];
                let (weights, target, first) = (&*self.weights, maps[layer], (from, to));
                Job { convolution, weights, source, target, images, first, together }.run(
                    self.simd,
                    member,
                    &mut scratch,
                );
                if member.index() == 0 {
                    times.lock().unwrap_or_else(PoisonError::into_inner)[layer] += start.elapsed();
                }
            }
        });
        let (last, map) = maps[maps.len() - 1];
        self.simd.vectorize(Maxima { map, images: count, last, to: Shared::new(maxima) });
        features.extend_from_slice(&maxima[..count * FEATURES]);
    }
}

/// One convolution's turn in a pass.
struct Turn {
    layer: usize,
    /// The number of the first image in its input, and in its output.
    from: usize,
    to: usize,
    images: usize,
}

/// The turns of a pass.
fn schedule(count: usize) -> impl Iterator<Item = Turn> {
    let single = (0..count).flat_map(|image| {
        (0..SINGLE).map(move |layer| {
            let from = if layer == 0 { image } else { 0 };
            let to = if layer == SINGLE - 1 { image } else { 0 };
            Turn { layer, from, to, images: 1 }
        })
    });
    single.chain((SINGLE..LAYERS.len()).map(move |layer| Turn { layer, from: 0, to: 0, images: count }))
}

impl Workspace {
    fn new<S: Simd>(convolutions: &[Convolution], team: usize, capacity: usize) -> Self {
        let mut maps = Vec::new();
        for (layer, convolution) in convolutions.iter().enumerate() {
            let (size, channels) = (convolution.output_size(), convolution.outputs);
            let map = match convolutions.get(layer + 1) {
                Some(next) => Map::bordered(size, channels, S::LANES, next.extent()),
                None => Map::bare(size, channels, S::LANES),
            };
            let images = if layer < SINGLE - 1 { capacity.min(1) } else { capacity };
            maps.push((map, Buffer::new(map.image() * images)));
        }
        let together = convolutions.iter().filter(|c| Split::of(c, capacity.min(1), team) == Split::Outputs);
        let together = together.map(|c| points_len::<S>(c, c.block * 2)).max().unwrap_or(0);
        Self {
            images: Buffer::new(first::IMAGE * capacity),
            maps,
            together: Buffer::new(together),
            scratch: (0..team).map(|_| Mutex::new(Scratch::new())).collect(),
            features: Buffer::new(FEATURES * capacity),
            capacity,
        }
    }
}

/// The maximum of each channel over space.
struct Maxima<'a> {
    map: Map,
    images: usize,
    last: Shared<'a>,
    to: Shared<'a>,
}

impl Task for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
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
