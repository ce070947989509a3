//! The three steps of a convolution, each compiled for every instruction set.
//!
//! Points and sums are in two buffers of the thread. In the first blocks of the network these stay in the second level of its
//! cache:
//!
//! - points, part by part of as many tiles as are multiplied at a time: `[point][input / lanes][tile][lane]`,
//! - sums: `[point][output / lanes][tile][lane]`, for one group of outputs.
//!
//! A cache line lies between the points, or they would all share a few sets of the cache.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::first_layer::Patch;
use super::geometry::Convolution;
use super::maps::{Map, SharedFloats};
use super::multiply::{Operands, PANEL, multiply};
use super::transform::{self, Algorithm};
use crate::simd::{Buffer, CACHE_LINE, Simd, WithSimd};

/// Floats of a half transformed tile, and of the outputs of four tiles to be pooled, for any tile and register.
pub(super) const LINES: usize = (81 + 14 * 14) * 16;

/// The offsets at which a tile is read and written.
#[derive(Clone, Copy)]
pub(super) struct TileSite {
    pub(super) from: usize,
    pub(super) to: usize,
    /// How many of the tile's outputs are inside the map.
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The memory that tiles are read from.
#[derive(Clone, Copy)]
pub(super) struct TileSource<'a> {
    floats: SharedFloats<'a>,
    /// Offset of the first image, and floats from an image to the next.
    start: usize,
    image: usize,
    /// The position of the output whose inputs begin there.
    top: usize,
    left: usize,
    /// Floats from a row to the next.
    row: usize,
    /// Floats from a block of channels to the next.
    plane: usize,
}

impl<'a> TileSource<'a> {
    pub(super) fn of_map(floats: SharedFloats<'a>, map: &Map, first: usize) -> Self {
        let (image, row, plane) = (map.image(), map.row(), map.plane());
        Self { floats, start: first * image, image, top: 0, left: 0, row, plane }
    }

    pub(super) fn of_patch(floats: SharedFloats<'a>, patch: &Patch, lanes: usize) -> Self {
        let (row, plane) = (patch.row(lanes), patch.plane(lanes));
        Self { floats, start: 0, image: 0, top: patch.top, left: patch.left, row, plane }
    }

    /// The offset of the inputs of the tile whose first output is at this position.
    pub(super) fn tile(&self, image: usize, y: usize, x: usize, lanes: usize) -> usize {
        self.start + image * self.image + (y - self.top) * self.row + (x - self.left) * lanes
    }
}

/// The parts of a block of tiles that are multiplied at a time: the number of each part, and its tiles.
fn parts(tiles: usize, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> + Clone {
    let parts = tiles.div_ceil(most);
    (0..parts).map(move |part| (part, tiles * part / parts..tiles * (part + 1) / parts))
}

/// The offset of the points of a part, whose first tile is `tile`.
pub(super) fn points_before(points: usize, inputs: usize, part: usize, tile: usize) -> usize {
    points * (inputs * tile + CACHE_LINE * part)
}

/// First step: inputs to points.
pub(super) struct ToPoints<'a, F, const M: usize, const A: usize> {
    source: TileSource<'a>,
    sites: &'a [TileSite],
    /// Which blocks of channels.
    blocks: Range<usize>,
    inputs: usize,
    points: SharedFloats<'a>,
    lines: &'a mut Buffer,
    algorithm: PhantomData<F>,
}

impl<'a, F, const M: usize, const A: usize> ToPoints<'a, F, M, A> {
    pub(super) fn new(
        convolution: &Convolution,
        source: TileSource<'a>,
        sites: &'a [TileSite],
        blocks: Range<usize>,
        points: SharedFloats<'a>,
        lines: &'a mut Buffer,
    ) -> Self {
        Self { source, sites, blocks, inputs: convolution.inputs, points, lines, algorithm: PhantomData }
    }
}

impl<F: Algorithm<M, A>, const M: usize, const A: usize> WithSimd for ToPoints<'_, F, M, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { source, sites, blocks, inputs, points, lines, .. } = self;
        let scratch = SharedFloats::new(lines).part(0, LINES);
        for (part, tiles) in parts(sites.len(), S::TILES) {
            let before = points_before(A * A, inputs, part, tiles.start);
            let point = inputs * tiles.len() + CACHE_LINE;
            for block in blocks.clone() {
                for (tile, site) in sites[tiles.clone()].iter().enumerate() {
                    let offset = site.from + block * source.plane;
                    let from = source.floats.part(offset, (A - 1) * source.row + A * S::LANES);
                    let offset = before + (block * tiles.len() + tile) * S::LANES;
                    let to = points.part(offset, (A * A - 1) * point + S::LANES);
                    // SAFETY: both parts are as long as the reads and writes, and begin at a multiple of a register. No thread
                    // writes this input now, and no other uses these tiles' points of these channels.
                    unsafe { transform::input::<S, F, M, A>(simd, (from, source.row), (to, point), scratch) };
                }
            }
        }
    }
}

/// Second step: points to sums, for a group of outputs.
pub(super) struct Multiply<'a> {
    pub(super) convolution: &'a Convolution,
    pub(super) points: SharedFloats<'a>,
    /// The group's: `[point][panel][input][output]`.
    pub(super) weights: &'a [f32],
    pub(super) tiles: usize,
    pub(super) sums: SharedFloats<'a>,
    /// Floats from the sums of a point to those of the next.
    pub(super) stride: usize,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { convolution: &Convolution { inputs, group, tile, .. }, points, weights, tiles, sums, stride } = self;
        let (points_per_tile, width) = (tile.points(), PANEL * S::LANES);
        let panel_len = inputs * width;
        let parts = parts(tiles, S::TILES);
        let count = parts.clone().count();
        for (number, panel) in weights.chunks_exact(panel_len).enumerate() {
            let (point, panel_of_group) = (number / (group / width), number % (group / width));
            for (part, range) in parts.clone() {
                let len = inputs * range.len();
                let before = points_before(points_per_tile, inputs, part, range.start);
                let to = point * stride + (panel_of_group * PANEL * tiles + range.start) * S::LANES;
                let operands = Operands {
                    inputs,
                    tiles: points.part(before + point * (len + CACHE_LINE), len).cast_const(),
                    panel: panel.as_ptr(),
                    sums: sums.part(to, ((PANEL - 1) * tiles + range.len()) * S::LANES),
                    stride: tiles * S::LANES,
                    // Each part prefetches a share of the next panel.
                    ahead: panel.as_ptr().wrapping_add(panel_len + panel_len * part / count),
                    ahead_step: width.div_ceil(count),
                };
                // SAFETY: the parts are as long as the reads and writes, and begin at a multiple of a register; so does the
                // panel. No thread writes the points now, and the sums are this thread's.
                unsafe { multiply(simd, range.len(), operands) };
            }
        }
    }
}

/// Third step: sums to outputs, for a group of outputs.
pub(super) struct ToOutputs<'a, F, const M: usize, const A: usize> {
    pub(super) convolution: &'a Convolution,
    /// Of the group.
    pub(super) bias: &'a [f32],
    pub(super) group: usize,
    pub(super) sums: SharedFloats<'a>,
    pub(super) stride: usize,
    pub(super) sites: &'a [TileSite],
    pub(super) target: SharedFloats<'a>,
    pub(super) map: Map,
    pub(super) lines: &'a mut Buffer,
    pub(super) algorithm: PhantomData<F>,
}

impl<F: Algorithm<M, A>, const M: usize, const A: usize> WithSimd for ToOutputs<'_, F, M, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let blocks = self.convolution.group / S::LANES;
        for block in 0..blocks {
            let channel = self.convolution.group * self.group + block * S::LANES;
            let bias = self.bias[block * S::LANES..][..S::LANES].as_ptr();
            // SAFETY: the slice is a register long, and aligned: biases begin at a cache line, and a register is a part of one.
            let bias = unsafe { simd.load(bias) };
            let plane = channel / S::LANES * self.map.plane();
            if !self.convolution.pool {
                for tile in 0..self.sites.len() {
                    self.write(simd, block, tile, plane, bias);
                }
            } else if M.is_multiple_of(2) {
                for tile in 0..self.sites.len() {
                    self.pool::<S, 1>(simd, block, tile, plane, bias);
                }
            } else {
                for quad in (0..self.sites.len()).step_by(4) {
                    self.pool::<S, 2>(simd, block, quad, plane, bias);
                }
            }
        }
    }
}

impl<F: Algorithm<M, A>, const M: usize, const A: usize> ToOutputs<'_, F, M, A> {
    /// A tile's sums of a block of outputs.
    #[inline(always)]
    fn sums<S: Simd>(&self, block: usize, tile: usize) -> *const f32 {
        let offset = (block * self.sites.len() + tile) * S::LANES;
        self.sums.part(offset, (A * A - 1) * self.stride + S::LANES).cast_const()
    }

    /// Writes a tile without pooling.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, block: usize, tile: usize, plane: usize, bias: S::Vector) {
        let TileSite { to, rows, columns, .. } = self.sites[tile];
        let (sums, row) = (self.sums::<S>(block, tile), self.map.row());
        let scratch = SharedFloats::new(self.lines).part(0, A * M * S::LANES);
        let to = self.target.part(to + plane, (rows - 1) * row + columns * S::LANES);
        let zero = simd.splat(0.0);
        let put = |y: usize, x: usize, value| {
            let value = simd.max(simd.add(value, bias), zero);
            // SAFETY: the part reaches to the tile's last row and column, and no other thread writes this tile.
            unsafe { simd.store(to.add(y * row + x * S::LANES), value) };
        };
        // SAFETY: there are sums for all points, and `lines` has room for any tile.
        unsafe {
            if (rows, columns) == (M, M) {
                transform::output::<S, F, M, A>(simd, (sums, self.stride), scratch, put);
            } else {
                let within = |y, x, value| {
                    if y < rows && x < columns {
                        put(y, x, value);
                    }
                };
                transform::output::<S, F, M, A>(simd, (sums, self.stride), scratch, within);
            }
        }
    }

    /// Writes `SIDE` x `SIDE` tiles from `first` on, pooled.
    #[inline(always)]
    fn pool<S: Simd, const SIDE: usize>(&mut self, simd: S, block: usize, first: usize, plane: usize, bias: S::Vector) {
        let width = SIDE * M;
        let lines = SharedFloats::new(self.lines);
        let scratch = lines.part(0, A * M * S::LANES);
        let outputs = lines.part(A * M * S::LANES, width * width * S::LANES);
        for tile in 0..SIDE * SIDE {
            let sums = self.sums::<S>(block, first + tile);
            // A strip of two rows has its tiles column by column.
            let at = (tile % SIDE * width + tile / SIDE) * M;
            let put = |y: usize, x: usize, value| {
                // SAFETY: `lines` has room for the outputs of four tiles beside a half transformed one.
                unsafe { simd.store(outputs.add((at + y * width + x) * S::LANES), value) };
            };
            // SAFETY: as in `write`.
            unsafe { transform::output::<S, F, M, A>(simd, (sums, self.stride), scratch, put) };
        }
        let rows = (0..SIDE).map(|y| self.sites[first + y].rows).sum::<usize>() / 2;
        let columns = (0..SIDE).map(|x| self.sites[first + x * SIDE].columns).sum::<usize>() / 2;
        if rows == 0 || columns == 0 {
            return;
        }
        let row = self.map.row();
        let to = self.target.part(self.sites[first].to + plane, (rows - 1) * row + columns * S::LANES);
        let zero = simd.splat(0.0);
        for y in 0..rows {
            for x in 0..columns {
                // SAFETY: these outputs were written above. The part reaches to the last row and column, and no other thread
                // writes these tiles.
                unsafe {
                    let at =
                        |dy: usize, dx: usize| simd.load(outputs.add(((2 * y + dy) * width + 2 * x + dx) * S::LANES));
                    let value = simd.max(simd.max(at(0, 0), at(0, 1)), simd.max(at(1, 0), at(1, 1)));
                    simd.store(to.add(y * row + x * S::LANES), simd.max(simd.add(value, bias), zero));
                }
            }
        }
    }
}
