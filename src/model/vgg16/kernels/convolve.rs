//! One convolution, with its bias, `ReLU` and perhaps 2 x 2 pooling: tiles in, points, multiplication, tiles out.

use std::marker::PhantomData;
use std::ops::Range;

use super::first_layer::{FirstConvolution, Patch};
use super::geometry::{Convolution, Tile, Tiling};
use super::maps::{Map, SharedFloats};
use super::steps::{LINES, Multiply, TileSite, TileSource, ToOutputs, ToPoints, points_before};
use super::threads::Worker;
use super::transform::{Algorithm, F4, F7};
use crate::simd::{Buffer, CACHE_LINE, Simd};

/// How threads share a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Each thread takes some tiles through all channels, which stay in its own cache.
    Tiles,
    /// Each thread takes some outputs of the same tiles, block by block: for few tiles.
    Outputs,
}

impl Split {
    /// By tiles if there is a block for each thread; else the one that more threads can share.
    pub(super) fn of(convolution: &Convolution, images: usize, threads: usize) -> Self {
        let blocks = Tiling::of(convolution, images, false).tiles().div_ceil(convolution.block);
        if blocks < threads && convolution.groups() > blocks { Self::Outputs } else { Self::Tiles }
    }
}

/// What a convolution reads.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    Map(SharedFloats<'a>, Map),
    /// Pixels: the network's first convolution is computed as the input of this one, patch by patch.
    Pixels(FirstConvolution<'a>, &'a [f32]),
}

/// One convolution of a forward pass.
pub(super) struct ConvolutionPass<'a> {
    pub(super) convolution: &'a Convolution,
    /// The network's packed weights.
    pub(super) packed: &'a [f32],
    pub(super) input: Input<'a>,
    pub(super) target: (SharedFloats<'a>, Map),
    pub(super) images: usize,
    /// The number of the first image in the input, and in the target.
    pub(super) from_image: usize,
    pub(super) to_image: usize,
    /// Points of tiles that all threads multiply.
    pub(super) shared_points: SharedFloats<'a>,
}

/// The memory that a thread works in.
pub(super) struct Scratch {
    points: Buffer,
    sums: Buffer,
    lines: Buffer,
    patch: Buffer,
    sites: Vec<TileSite>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            points: Buffer::new(0),
            sums: Buffer::new(0),
            lines: Buffer::new(LINES),
            patch: Buffer::new(0),
            sites: Vec::new(),
        }
    }
}

impl ConvolutionPass<'_> {
    /// Does this thread's share, then waits until all have done theirs.
    pub(super) fn run<S: Simd>(&self, simd: S, worker: &Worker<'_>, scratch: &mut Scratch) {
        match self.convolution.tile {
            Tile::Four => self.run_tiles::<S, F4, 4, 6>(simd, worker, scratch),
            Tile::Seven => self.run_tiles::<S, F7, 7, 9>(simd, worker, scratch),
        }
    }

    fn run_tiles<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
        &self,
        simd: S,
        worker: &Worker<'_>,
        scratch: &mut Scratch,
    ) {
        let convolution = self.convolution;
        let from_pixels = matches!(self.input, Input::Pixels(..));
        let tiling = Tiling::of(convolution, self.images, from_pixels);
        let block = tiling.blocks(convolution.block, from_pixels);
        let (channels, groups) = (convolution.inputs / S::LANES, convolution.groups());
        let Scratch { points, sums, lines, patch, sites } = scratch;
        match Split::of(convolution, self.images, worker.count()) {
            Split::Tiles => {
                while let Some(tiles) = block(worker.next_item()) {
                    let source = self.locate(simd, &tiling, tiles, sites, patch);
                    points.grow(points_len::<S>(convolution, sites.len()));
                    let points = SharedFloats::new(points);
                    simd.vectorize(ToPoints::<F, M, A>::new(convolution, source, sites, 0..channels, points, lines));
                    for group in 0..groups {
                        self.group::<S, F, M, A>(simd, group, sites, points, sums, lines);
                    }
                }
            }
            Split::Outputs => {
                let mut number = 0;
                while let Some(tiles) = block(number) {
                    let source = self.locate(simd, &tiling, tiles, sites, patch);
                    let start = |worker_index: usize| channels * worker_index / worker.count();
                    let mine = start(worker.index())..start(worker.index() + 1);
                    let points = self.shared_points;
                    simd.vectorize(ToPoints::<F, M, A>::new(convolution, source, sites, mine, points, lines));
                    worker.barrier();
                    loop {
                        let group = worker.next_item();
                        if group >= groups {
                            break;
                        }
                        self.group::<S, F, M, A>(simd, group, sites, points, sums, lines);
                    }
                    number += 1;
                    if block(number).is_some() {
                        worker.barrier();
                    }
                }
            }
        }
        worker.barrier();
    }

    /// Multiplies the tiles for a group of outputs, and writes these.
    fn group<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
        &self,
        simd: S,
        group: usize,
        sites: &[TileSite],
        points: SharedFloats<'_>,
        sums: &mut Buffer,
        lines: &mut Buffer,
    ) {
        let convolution = self.convolution;
        let stride = convolution.group * sites.len() + CACHE_LINE;
        sums.grow(A * A * stride);
        let sums = SharedFloats::new(sums);
        let len = A * A * convolution.inputs * convolution.group;
        let weights = &self.packed[convolution.weights.start + group * len..][..len];
        simd.vectorize(Multiply { convolution, points, weights, tiles: sites.len(), sums, stride });
        let (target, map) = self.target;
        simd.vectorize(ToOutputs::<F, M, A> {
            convolution,
            bias: &self.packed[convolution.bias.start + group * convolution.group..][..convolution.group],
            group,
            sums,
            stride,
            sites,
            target,
            map,
            lines,
            algorithm: PhantomData,
        });
    }

    /// Finds where the tiles are read and written. If the input is pixels, computes the part of the first convolution that they need.
    fn locate<'a, S: Simd>(
        &'a self,
        simd: S,
        tiling: &Tiling,
        tiles: Range<usize>,
        sites: &mut Vec<TileSite>,
        buffer: &'a mut Buffer,
    ) -> TileSource<'a> {
        let &Tiling { tile, strip, .. } = tiling;
        let source = match self.input {
            Input::Map(floats, map) => TileSource::of_map(floats, &map, self.from_image),
            Input::Pixels(first, pixels) => {
                let (image, row, left) = tiling.position(tiles.start);
                let (last, _, right) = tiling.position(tiles.end - 1);
                debug_assert!(image == last, "a patch is of one image");
                let (corner, extent) = ((row * tile, left * tile), (strip * tile + 2, (right + 1 - left) * tile + 2));
                let patch = Patch::new(self.from_image + image, corner, extent);
                buffer.grow(self.convolution.inputs / S::LANES * patch.plane(S::LANES));
                simd.vectorize(first.fill(pixels, patch, buffer));
                TileSource::of_patch(SharedFloats::new(buffer), &patch, S::LANES)
            }
        };
        let (size, target) = (self.convolution.size, &self.target.1);
        let shrink = if self.convolution.pool { 2 } else { 1 };
        sites.clear();
        sites.extend(tiles.map(|index| {
            let (image, row, column) = tiling.position(index);
            let (y, x) = (row * tile, column * tile);
            let from = source.tile(image, y, x, S::LANES);
            let to = target.position(self.to_image + image, y / shrink, x / shrink);
            TileSite { from, to, rows: tile.min(size.saturating_sub(y)), columns: tile.min(size.saturating_sub(x)) }
        }));
        source
    }
}

/// Floats of the points of that many tiles.
pub(super) fn points_len<S: Simd>(convolution: &Convolution, tiles: usize) -> usize {
    points_before(convolution.tile.points(), convolution.inputs, tiles.div_ceil(S::TILES), tiles)
}
