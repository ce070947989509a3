//! The forward pass.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::convolve::{Job, Scratch, Source, Split, points_len};
use super::first_layer::{self, First};
use super::geometry::Convolution;
use super::maps::{Map, Shared};
use super::pack::pack;
use super::packed::{PackFile, Packed};
use super::plan::{LAYERS, Layout};
use super::threads::Team;
use super::{Error, Layer, Pass, Settings};
use crate::simd::Buffer;
use crate::simd::{Simd, Task};

/// The convolutions whose outputs are the fourth and fifth block's.
const BLOCK4: usize = 8;
const BLOCK5: usize = 11;
/// Floats of an image.
const IMAGE: usize = first_layer::INPUTS * first_layer::SIZE * first_layer::SIZE;
/// Features of an image.
pub const FEATURES: usize = 512;
/// Images that pass together.
pub const MAX_BATCH: usize = 8;

/// VGG16 up to its last pooling, and the maximum of each channel over space.
pub(super) struct Network<S> {
    simd: S,
    team: Team,
    layout: Layout,
    packed: Packed,
    /// How many of the convolutions run image by image.
    single: usize,
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
    /// `layers` are asked for only where no file has them packed.
    pub(super) fn new<E: From<Error>>(
        simd: S,
        settings: &Settings,
        layers: impl FnOnce() -> Result<Vec<Layer>, E>,
    ) -> Result<Self, E> {
        let team = Team::new(settings.threads).map_err(Error::Threads)?;
        let layout = settings.plan.layout::<S>();
        let file = PackFile::new(settings, S::LANES, &layout);
        let packed = if let Some(packed) = file.open() {
            packed
        } else {
            let layers = layers()?;
            let mut packed = Buffer::new(layout.len);
            team.pool().install(|| pack::<S>(&layout, &layers, &mut packed));
            file.keep(packed)
        };
        let single = single(&layout.convolutions, team.size());
        let workspace = Mutex::new(Workspace::new::<S>(&layout.convolutions, single, team.size(), 0));
        Ok(Self { simd, team, layout, packed, single, workspace })
    }

    /// See [`super::Vgg16::forward`].
    pub(super) fn forward(&self, images: &[f32], maps: bool) -> Pass {
        assert!(images.len().is_multiple_of(IMAGE), "whole images");
        let mut pass = Pass { times: vec![Duration::ZERO; self.layout.convolutions.len()], ..Pass::default() };
        for images in images.chunks(MAX_BATCH * IMAGE) {
            self.pass(images, maps, &mut pass);
        }
        pass
    }

    fn pass(&self, images: &[f32], with_maps: bool, pass: &mut Pass) {
        let count = images.len() / IMAGE;
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if workspace.capacity < count {
            let capacity = if count == 1 { 1 } else { MAX_BATCH };
            let make =
                |capacity| Workspace::new::<S>(&self.layout.convolutions, self.single, self.team.size(), capacity);
            // The old one goes before the new one comes.
            *workspace = make(0);
            *workspace = make(capacity);
        }
        let Workspace { images: bordered, maps, together, scratch, features: maxima, .. } = &mut *workspace;
        for (from, to) in images.chunks_exact(IMAGE).zip(bordered.chunks_exact_mut(first_layer::IMAGE)) {
            first_layer::border(from, to);
        }
        let bordered: &[f32] = bordered;
        let maps: Vec<_> = maps.iter_mut().map(|(map, buffer)| (Shared::new(buffer), *map)).collect();
        let together = Shared::new(together);
        let Layout { convolutions, first, first_bias, .. } = &self.layout;
        let packed: &[f32] = &self.packed;
        let first = First { weights: &packed[first.clone()], bias: &packed[first_bias.clone()] };
        let times = Mutex::new(&mut pass.times);
        self.team.run(|member| {
            let mut scratch = scratch[member.index()].lock().unwrap_or_else(PoisonError::into_inner);
            for Turn { layer, from, to, images } in schedule(count, self.single) {
                let start = Instant::now();
                let source = match layer.checked_sub(1) {
                    None => Source::Pixels(first, bordered),
                    Some(before) => Source::Map(maps[before].0, maps[before].1),
                };
                let (convolution, target) = (&convolutions[layer], maps[layer]);
                let job = Job { convolution, packed, source, target, images, from_image: from, to_image: to, together };
                job.run(self.simd, member, &mut scratch);
                if member.index() == 0 {
                    times.lock().unwrap_or_else(PoisonError::into_inner)[layer] += start.elapsed();
                }
            }
        });
        let (last, map) = maps[BLOCK5];
        self.simd.vectorize(Maxima { map, images: count, last, to: Shared::new(maxima) });
        pass.features.extend_from_slice(&maxima[..count * FEATURES]);
        if with_maps {
            for (layer, to) in [(BLOCK4, &mut pass.block4_pool), (BLOCK5, &mut pass.block5_pool)] {
                let (map, buffer) = &workspace.maps[layer];
                map.copy_out(buffer, count, to);
            }
        }
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

/// How many of the first convolutions run image by image: as long as one image gives work to all threads. Its maps stay in the
/// cache then, and those of the other images take no memory.
fn single(convolutions: &[Convolution], team: usize) -> usize {
    convolutions.iter().take_while(|convolution| convolution.blocks() >= 2 * team).count()
}

/// The turns of a pass over `count` images, in which the first `single` convolutions run image by image.
fn schedule(count: usize, single: usize) -> impl Iterator<Item = Turn> {
    let one_by_one = (0..count).flat_map(move |image| {
        (0..single).map(move |layer| {
            let from = if layer == 0 { image } else { 0 };
            let to = if layer == single - 1 { image } else { 0 };
            Turn { layer, from, to, images: 1 }
        })
    });
    one_by_one.chain((single..LAYERS.len()).map(move |layer| Turn { layer, from: 0, to: 0, images: count }))
}

impl Workspace {
    fn new<S: Simd>(convolutions: &[Convolution], single: usize, team: usize, capacity: usize) -> Self {
        let mut maps = Vec::new();
        for (layer, convolution) in convolutions.iter().enumerate() {
            let (size, channels) = (convolution.output_size(), convolution.outputs);
            let map = match convolutions.get(layer + 1) {
                Some(next) => Map::bordered(size, channels, S::LANES, next.extent()),
                None => Map::bare(size, channels, S::LANES),
            };
            let images = if layer + 1 < single { capacity.min(1) } else { capacity };
            maps.push((map, Buffer::new(map.image() * images)));
        }
        // Of all batches that fit, that of a single image is split by outputs soonest.
        let together = convolutions.iter().filter(|c| Split::of(c, 1, team) == Split::Outputs);
        let together = together.map(|c| points_len::<S>(c, c.block)).max().unwrap_or(0) * capacity.min(1);
        Self {
            images: Buffer::new(first_layer::IMAGE * capacity),
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
