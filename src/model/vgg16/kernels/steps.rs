//! The three steps of a convolution, each compiled for every instruction set.
//!
//! What they hand on lies in two buffers of the thread; in the first blocks of the network they stay in its second level of
//! cache:
//!
//! - points, part by part of as many tiles as are multiplied at a time: `[point][input / lanes][tile][lane]`,
//! - sums: `[point][output / lanes][tile][lane]`, for one group of outputs.
//!
//! A line lies between the points, so that they do not all meet in the same sets of the cache.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::first_layer::Patch;
use super::geometry::Convolution;
use super::maps::{Map, Shared};
use super::multiply::{Operands, PANEL, multiply};
use super::transform::{self, Algorithm};
use crate::simd::{Buffer, LINE};
use crate::simd::{Simd, Task};

/// Room for the lines of a tile half transformed, and for the outputs of four tiles to be pooled; for any tile and register.
pub(super) const LINES: usize = (81 + 14 * 14) * 16;

/// Where a tile is read and written.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) from: usize,
    pub(super) to: usize,
    /// How many of the tile's outputs there are; beyond the edge there are none.
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// What tiles are read from.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    floats: Shared<'a>,
    /// Where the first image begins, and floats from an image to the next.
    start: usize,
    image: usize,
    /// The outputs whose inputs begin there.
    top: usize,
    left: usize,
    /// Floats from a row to the next.
    row: usize,
    /// Floats from a block of channels to the next.
    plane: usize,
}

impl<'a> Window<'a> {
    pub(super) fn of_map(floats: Shared<'a>, map: &Map, first: usize) -> Self {
        let (image, row, plane) = (map.image(), map.row(), map.plane());
        Self { floats, start: first * image, image, top: 0, left: 0, row, plane }
    }

    /// A patch is of one image.
    pub(super) fn of_patch(floats: Shared<'a>, patch: &Patch, lanes: usize) -> Self {
        let (row, plane) = (patch.row(lanes), patch.plane(lanes));
        Self { floats, start: 0, image: 0, top: patch.top, left: patch.left, row, plane }
    }

    /// Where the inputs of the tile whose first output is at this position begin.
    pub(super) fn tile(&self, image: usize, y: usize, x: usize, lanes: usize) -> usize {
        self.start + image * self.image + (y - self.top) * self.row + (x - self.left) * lanes
    }
}

/// The tiles of a block in parts that the multiplication takes at a time: the number of each, and its tiles.
fn parts(tiles: usize, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> + Clone {
    let parts = tiles.div_ceil(most);
    (0..parts).map(move |part| (part, tiles * part / parts..tiles * (part + 1) / parts))
}

/// How many floats of points lie before a part, and the tiles before it.
pub(super) fn points_before(points: usize, inputs: usize, part: usize, tile: usize) -> usize {
    points * (inputs * tile + LINE * part)
}

/// First step: inputs to points.
pub(super) struct ToPoints<'a, F, const M: usize, const A: usize> {
    source: Window<'a>,
    places: &'a [Place],
    /// Which blocks of channels.
    blocks: Range<usize>,
    inputs: usize,
    points: Shared<'a>,
    lines: &'a mut Buffer,
    algorithm: PhantomData<F>,
}

impl<'a, F, const M: usize, const A: usize> ToPoints<'a, F, M, A> {
    pub(super) fn new(
        convolution: &Convolution,
        source: Window<'a>,
        places: &'a [Place],
        blocks: Range<usize>,
        points: Shared<'a>,
        lines: &'a mut Buffer,
    ) -> Self {
        Self { source, places, blocks, inputs: convolution.inputs, points, lines, algorithm: PhantomData }
    }
}

impl<F: Algorithm<M, A>, const M: usize, const A: usize> Task for ToPoints<'_, F, M, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { source, places, blocks, inputs, points, lines, .. } = self;
        let scratch = Shared::new(lines).part(0, LINES);
        for (part, tiles) in parts(places.len(), S::TILES) {
            let before = points_before(A * A, inputs, part, tiles.start);
            let point = inputs * tiles.len() + LINE;
            for block in blocks.clone() {
                for (tile, place) in places[tiles.clone()].iter().enumerate() {
                    let offset = place.from + block * source.plane;
                    let from = source.floats.part(offset, (A - 1) * source.row + A * S::LANES);
                    let offset = before + (block * tiles.len() + tile) * S::LANES;
                    let to = points.part(offset, (A * A - 1) * point + S::LANES);
                    // SAFETY: both parts are as long as is read and written, and begin at a multiple of a register. No thread
                    // writes what is read here, and none reads or writes these tiles' points of these channels.
                    unsafe { transform::input::<S, F, M, A>(simd, (from, source.row), (to, point), scratch) };
                }
            }
        }
    }
}

/// Second step: points to sums, for a group of outputs.
pub(super) struct Multiply<'a> {
    pub(super) convolution: &'a Convolution,
    pub(super) points: Shared<'a>,
    /// The group's: `[point][panel][input][output]`.
    pub(super) weights: &'a [f32],
    pub(super) tiles: usize,
    pub(super) sums: Shared<'a>,
    /// Floats from a point's sums to the next's.
    pub(super) apart: usize,
}

impl Task for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { convolution: &Convolution { inputs, group, tile, .. }, points, weights, tiles, sums, apart } = self;
        let (points_per_tile, width) = (tile.points(), PANEL * S::LANES);
        let panel_len = inputs * width;
        let parts = parts(tiles, S::TILES);
        let count = parts.clone().count();
        for (number, panel) in weights.chunks_exact(panel_len).enumerate() {
            let (point, panel_of_group) = (number / (group / width), number % (group / width));
            for (part, range) in parts.clone() {
                let len = inputs * range.len();
                let before = points_before(points_per_tile, inputs, part, range.start);
                let to = point * apart + (panel_of_group * PANEL * tiles + range.start) * S::LANES;
                let operands = Operands {
                    inputs,
                    tiles: points.part(before + point * (len + LINE), len).cast_const(),
                    panel: panel.as_ptr(),
                    sums: sums.part(to, ((PANEL - 1) * tiles + range.len()) * S::LANES),
                    apart: tiles * S::LANES,
                    // The parts share in asking for the next panel.
                    ahead: panel.as_ptr().wrapping_add(panel_len + panel_len * part / count),
                    ahead_step: width.div_ceil(count),
                };
                // SAFETY: the parts are as long as is read and written, and begin at a multiple of a register; so does the
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
    pub(super) sums: Shared<'a>,
    pub(super) apart: usize,
    pub(super) places: &'a [Place],
    pub(super) target: Shared<'a>,
    pub(super) map: Map,
    pub(super) lines: &'a mut Buffer,
    pub(super) algorithm: PhantomData<F>,
}

impl<F: Algorithm<M, A>, const M: usize, const A: usize> Task for ToOutputs<'_, F, M, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let blocks = self.convolution.group / S::LANES;
        for block in 0..blocks {
            let channel = self.convolution.group * self.group + block * S::LANES;
            let bias = self.bias[block * S::LANES..][..S::LANES].as_ptr();
            // SAFETY: the slice is as long; it is aligned as all biases lie on whole lines, a register after the other.
            let bias = unsafe { simd.load(bias) };
            let plane = channel / S::LANES * self.map.plane();
            if !self.convolution.pool {
                for tile in 0..self.places.len() {
                    self.write(simd, block, tile, plane, bias);
                }
            } else if M.is_multiple_of(2) {
                for tile in 0..self.places.len() {
                    self.pool::<S, 1>(simd, block, tile, plane, bias);
                }
            } else {
                for quad in (0..self.places.len()).step_by(4) {
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
        let offset = (block * self.places.len() + tile) * S::LANES;
        self.sums.part(offset, (A * A - 1) * self.apart + S::LANES).cast_const()
    }

    /// Writes a tile as it is.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, block: usize, tile: usize, plane: usize, bias: S::Vector) {
        let Place { to, rows, columns, .. } = self.places[tile];
        let (sums, row) = (self.sums::<S>(block, tile), self.map.row());
        let scratch = Shared::new(self.lines).part(0, A * M * S::LANES);
        let to = self.target.part(to + plane, (rows - 1) * row + columns * S::LANES);
        let zero = simd.splat(0.0);
        let put = |y: usize, x: usize, value| {
            let value = simd.max(simd.add(value, bias), zero);
            // SAFETY: the part reaches to the tile's last row and column, and no other thread writes this tile.
            unsafe { simd.store(to.add(y * row + x * S::LANES), value) };
        };
        // SAFETY: the sums are there for all points; the lines have room for those of any tile.
        unsafe {
            if (rows, columns) == (M, M) {
                transform::output::<S, F, M, A>(simd, (sums, self.apart), scratch, put);
            } else {
                let within = |y, x, value| {
                    if y < rows && x < columns {
                        put(y, x, value);
                    }
                };
                transform::output::<S, F, M, A>(simd, (sums, self.apart), scratch, within);
            }
        }
    }

    /// Writes `SIDE` x `SIDE` tiles, from `first` on, pooled.
    #[inline(always)]
    fn pool<S: Simd, const SIDE: usize>(&mut self, simd: S, block: usize, first: usize, plane: usize, bias: S::Vector) {
        let width = SIDE * M;
        let lines = Shared::new(self.lines);
        let scratch = lines.part(0, A * M * S::LANES);
        let outputs = lines.part(A * M * S::LANES, width * width * S::LANES);
        for tile in 0..SIDE * SIDE {
            let sums = self.sums::<S>(block, first + tile);
            // The tiles of a strip of two lie column by column.
            let at = (tile % SIDE * width + tile / SIDE) * M;
            let put = |y: usize, x: usize, value| {
                // SAFETY: the lines have room for the outputs of four tiles beside those of a tile half transformed.
                unsafe { simd.store(outputs.add((at + y * width + x) * S::LANES), value) };
            };
            // SAFETY: as for `write`.
            unsafe { transform::output::<S, F, M, A>(simd, (sums, self.apart), scratch, put) };
        }
        let rows = (0..SIDE).map(|y| self.places[first + y].rows).sum::<usize>() / 2;
        let columns = (0..SIDE).map(|x| self.places[first + x * SIDE].columns).sum::<usize>() / 2;
        if rows == 0 || columns == 0 {
            return;
        }
        let row = self.map.row();
        let to = self.target.part(self.places[first].to + plane, (rows - 1) * row + columns * S::LANES);
        let zero = simd.splat(0.0);
        for y in 0..rows {
            for x in 0..columns {
                // SAFETY: these outputs were written above; the part reaches to the last row and column, and no other thread
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
