//! One convolution, with its bias, `ReLU` and perhaps 2 x 2 pooling: tiles in, points, multiplication, tiles out.

use std::marker::PhantomData;
use std::ops::Range;

use super::first_layer::{First, Patch};
use super::geometry::{Convolution, Tile, Tiling};
use super::maps::{Map, Shared};
use super::steps::{LINES, Multiply, Place, ToOutputs, ToPoints, Window, points_before};
use super::threads::Member;
use super::transform::{Algorithm, F4, F7};
use crate::simd::Simd;
use crate::simd::{Buffer, LINE};

/// How threads share a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Each takes some tiles through all channels. What it works on stays in its own cache.
    Tiles,
    /// Each takes some outputs of the same tiles, block by block: for few tiles.
    Outputs,
}

impl Split {
    /// Whichever gives the threads more to share, where there is not work for all.
    pub(super) fn of(convolution: &Convolution, images: usize, team: usize) -> Self {
        let blocks = Tiling::of(convolution, images, false).tiles().div_ceil(convolution.block);
        if blocks < team && convolution.groups() > blocks { Self::Outputs } else { Self::Tiles }
    }
}

/// What a convolution reads.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Map(Shared<'a>, Map),
    /// Pixels: the network's first convolution is done on the way, patch by patch.
    Pixels(First<'a>, &'a [f32]),
}

/// One convolution of a forward pass.
pub(super) struct Job<'a> {
    pub(super) convolution: &'a Convolution,
    /// The network's packed weights.
    pub(super) packed: &'a [f32],
    pub(super) source: Source<'a>,
    pub(super) target: (Shared<'a>, Map),
    pub(super) images: usize,
    /// The number of the first image in the source, and in the target.
    pub(super) from_image: usize,
    pub(super) to_image: usize,
    /// Points of tiles that all threads multiply.
    pub(super) together: Shared<'a>,
}

/// What a thread works in.
pub(super) struct Scratch {
    points: Buffer,
    sums: Buffer,
    lines: Buffer,
    patch: Buffer,
    places: Vec<Place>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            points: Buffer::new(0),
            sums: Buffer::new(0),
            lines: Buffer::new(LINES),
            patch: Buffer::new(0),
            places: Vec::new(),
        }
    }
}

impl Job<'_> {
    /// Does this thread's share. It is finished when all have met.
    pub(super) fn run<S: Simd>(&self, simd: S, member: &Member<'_>, scratch: &mut Scratch) {
        match self.convolution.tile {
            Tile::Four => self.run_tiles::<S, F4, 4, 6>(simd, member, scratch),
            Tile::Seven => self.run_tiles::<S, F7, 7, 9>(simd, member, scratch),
        }
    }

    fn run_tiles<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
        &self,
        simd: S,
        member: &Member<'_>,
        scratch: &mut Scratch,
    ) {
        let convolution = self.convolution;
        let from_pixels = matches!(self.source, Source::Pixels(..));
        let tiling = Tiling::of(convolution, self.images, from_pixels);
        let block = tiling.blocks(convolution.block, from_pixels);
        let (channels, groups) = (convolution.inputs / S::LANES, convolution.groups());
        let Scratch { points, sums, lines, patch, places } = scratch;
        match Split::of(convolution, self.images, member.team()) {
            Split::Tiles => {
                while let Some(tiles) = block(member.take()) {
                    let source = self.place(simd, &tiling, tiles, places, patch);
                    points.reserve(points_len::<S>(convolution, places.len()));
                    let points = Shared::new(points);
                    simd.vectorize(ToPoints::<F, M, A>::new(convolution, source, places, 0..channels, points, lines));
                    for group in 0..groups {
                        self.group::<S, F, M, A>(simd, group, places, points, sums, lines);
                    }
                }
            }
            Split::Outputs => {
                let mut number = 0;
                while let Some(tiles) = block(number) {
                    let source = self.place(simd, &tiling, tiles, places, patch);
                    let share = |member: usize, team| channels * member / team;
                    let mine = share(member.index(), member.team())..share(member.index() + 1, member.team());
                    let points = self.together;
                    simd.vectorize(ToPoints::<F, M, A>::new(convolution, source, places, mine, points, lines));
                    member.meet();
                    loop {
                        let group = member.take();
                        if group >= groups {
                            break;
                        }
                        self.group::<S, F, M, A>(simd, group, places, points, sums, lines);
                    }
                    number += 1;
                    if block(number).is_some() {
                        member.meet();
                    }
                }
            }
        }
        member.meet();
    }

    /// Multiplies a group of outputs of all tiles in hand, and writes it.
    fn group<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
        &self,
        simd: S,
        group: usize,
        places: &[Place],
        points: Shared<'_>,
        sums: &mut Buffer,
        lines: &mut Buffer,
    ) {
        let convolution = self.convolution;
        let apart = convolution.group * places.len() + LINE;
        sums.reserve(A * A * apart);
        let sums = Shared::new(sums);
        let len = A * A * convolution.inputs * convolution.group;
        let weights = &self.packed[convolution.weights.start + group * len..][..len];
        simd.vectorize(Multiply { convolution, points, weights, tiles: places.len(), sums, apart });
        let (target, map) = self.target;
        simd.vectorize(ToOutputs::<F, M, A> {
            convolution,
            bias: &self.packed[convolution.bias.start + group * convolution.group..][..convolution.group],
            group,
            sums,
            apart,
            places,
            target,
            map,
            lines,
            algorithm: PhantomData,
        });
    }

    /// Finds where the tiles are read and written. From pixels, computes their inputs first.
    fn place<'a, S: Simd>(
        &'a self,
        simd: S,
        tiling: &Tiling,
        tiles: Range<usize>,
        places: &mut Vec<Place>,
        buffer: &'a mut Buffer,
    ) -> Window<'a> {
        let &Tiling { tile, strip, .. } = tiling;
        let source = match self.source {
            Source::Map(floats, map) => Window::of_map(floats, &map, self.from_image),
            Source::Pixels(first, pixels) => {
                let (image, row, left) = tiling.place(tiles.start);
                let (last, _, right) = tiling.place(tiles.end - 1);
                debug_assert!(image == last, "a patch lies in one image");
                let (corner, extent) = ((row * tile, left * tile), (strip * tile + 2, (right + 1 - left) * tile + 2));
                let patch = Patch::new(self.from_image + image, corner, extent);
                buffer.reserve(self.convolution.inputs / S::LANES * patch.plane(S::LANES));
                simd.vectorize(first.fill(pixels, patch, buffer));
                Window::of_patch(Shared::new(buffer), &patch, S::LANES)
            }
        };
        let (size, target) = (self.convolution.size, &self.target.1);
        let shrink = if self.convolution.pool { 2 } else { 1 };
        places.clear();
        places.extend(tiles.map(|index| {
            let (image, row, column) = tiling.place(index);
            let (y, x) = (row * tile, column * tile);
            let from = source.tile(image, y, x, S::LANES);
            let to = target.position(self.to_image + image, y / shrink, x / shrink);
            Place { from, to, rows: tile.min(size.saturating_sub(y)), columns: tile.min(size.saturating_sub(x)) }
        }));
        source
    }
}

/// Floats for the points of so many tiles.
pub(super) fn points_len<S: Simd>(convolution: &Convolution, tiles: usize) -> usize {
    points_before(convolution.tile.points(), convolution.inputs, tiles.div_ceil(S::TILES), tiles)
}
