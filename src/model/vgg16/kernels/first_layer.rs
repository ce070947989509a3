//! The network's first convolution, from three channels to 64: tiles do not pay for so few inputs. It is computed directly, patch
//! by patch, as the input of the second one, so that its output never leaves the cache.
#![allow(unsafe_code)]

use super::maps::SharedFloats;
use super::multiply::PANEL;
use crate::simd::{CACHE_LINE, Simd, WithSimd, with_constant};

/// Height and width of the image.
pub const INPUT_SIZE: usize = 224;
/// Channels of the image.
pub(super) const INPUTS: usize = 3;
/// Channels of the first convolution's output.
pub(super) const OUTPUTS: usize = 64;
/// Weights of an output.
pub(super) const TAPS: usize = INPUTS * 9;
/// Height of an image in its border of zeros. Its width has a few more.
const ROWS: usize = INPUT_SIZE + 2;
const ROW: usize = INPUT_SIZE + 16;

/// Floats of a bordered image.
pub(super) const IMAGE: usize = INPUTS * ROWS * ROW;

/// Copies an image, `[channel][row][column]`, into its border of zeros.
pub(super) fn border(image: &[f32], bordered: &mut [f32]) {
    for (from, to) in image.chunks_exact(INPUT_SIZE * INPUT_SIZE).zip(bordered.chunks_exact_mut(ROWS * ROW)) {
        for (from, to) in from.chunks_exact(INPUT_SIZE).zip(to[ROW..].chunks_exact_mut(ROW)) {
            to[1..=INPUT_SIZE].copy_from_slice(from);
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct FirstConvolution<'a> {
    /// `[panel][tap][output]`
    pub(super) weights: &'a [f32],
    pub(super) bias: &'a [f32],
}

impl<'a> FirstConvolution<'a> {
    /// Computes a patch from bordered images.
    pub(super) fn fill(self, images: &'a [f32], patch: Patch, to: &'a mut [f32]) -> Fill<'a> {
        let image = &images[patch.image * IMAGE..][..IMAGE];
        Fill { first: self, image, patch, to }
    }
}

/// A part of the output of the first convolution, with the border that the second one needs: zeros beyond the edge.
#[derive(Clone, Copy)]
pub(super) struct Patch {
    image: usize,
    /// Where it begins, in positions of the bordered map.
    pub(super) top: usize,
    pub(super) left: usize,
    rows: usize,
    columns: usize,
}

impl Patch {
    pub(super) fn new(image: usize, (top, left): (usize, usize), (rows, columns): (usize, usize)) -> Self {
        Self { image, top, left, rows, columns }
    }

    /// Floats from a row to the next.
    pub(super) fn row(&self, lanes: usize) -> usize {
        self.columns * lanes
    }

    /// Floats from a block of channels to the next. A cache line lies between them, or they might share sets of the cache.
    pub(super) fn plane(&self, lanes: usize) -> usize {
        self.rows * self.row(lanes) + CACHE_LINE
    }
}

/// The work of computing a patch.
pub(super) struct Fill<'a> {
    first: FirstConvolution<'a>,
    /// Bordered.
    image: &'a [f32],
    patch: Patch,
    to: &'a mut [f32],
}

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { first, image, patch, to } = self;
        // The unsafe blocks below rely on this, besides the lengths that they check.
        let aligned = |floats: &[f32]| floats.as_ptr().addr().is_multiple_of(S::LANES * size_of::<f32>());
        assert!(aligned(first.weights) && aligned(first.bias) && aligned(to), "whole registers are read and written");
        let (row, plane) = (patch.row(S::LANES), patch.plane(S::LANES));
        let to = SharedFloats::new(to);
        // The border is one wide: row and column 0 of the bordered map are -1 of the map.
        let inside = |start: usize, len: usize| start.max(1)..(start + len).min(INPUT_SIZE + 1);
        let (rows, columns) = (inside(patch.top, patch.rows), inside(patch.left, patch.columns));
        for panel in 0..OUTPUTS / (PANEL * S::LANES) {
            let weights = &first.weights[panel * TAPS * PANEL * S::LANES..][..TAPS * PANEL * S::LANES];
            let bias = &first.bias[panel * PANEL * S::LANES..][..PANEL * S::LANES];
            for y in 0..patch.rows {
                let start = panel * PANEL * plane + y * row;
                let inside_map = rows.contains(&(patch.top + y));
                let (before, after) = if inside_map {
                    (columns.start - patch.left, columns.end - patch.left)
                } else {
                    (patch.columns, patch.columns)
                };
                for block in 0..PANEL {
                    // SAFETY: both begin at a multiple of a register.
                    unsafe {
                        zero(simd, to, start + block * plane, before);
                        zero(simd, to, start + block * plane + after * S::LANES, patch.columns - after);
                    }
                }
                let mut x = before;
                while x < after {
                    let len = (after - x).div_ceil((after - x).div_ceil(S::TILES));
                    let from = (patch.top + y - 1) * ROW + patch.left + x - 1;
                    let to = to.part(start + x * S::LANES, (PANEL - 1) * plane + len * S::LANES);
                    // SAFETY: the part reaches to the last block's last pixel, and begins at a multiple of a register.
                    unsafe { pixels(simd, len, image, from, weights, bias, (to, plane)) };
                    x += len;
                }
            }
        }
    }
}

/// Writes zeros.
///
/// # Safety
/// The offset must be a multiple of a register.
#[inline(always)]
unsafe fn zero<S: Simd>(simd: S, to: SharedFloats<'_>, offset: usize, registers: usize) {
    let to = to.part(offset, registers * S::LANES);
    for i in 0..registers {
        // SAFETY: the part has that many registers.
        unsafe { simd.store(to.add(i * S::LANES), simd.splat(0.0)) };
    }
}

/// Computes `count` neighbouring outputs of a panel. `from` is the offset of the first one's inputs.
///
/// # Safety
/// `weights` and `bias` must be aligned. `count` registers must be writable and aligned at `to.0`, and the same at each multiple
/// of `to.1` floats from there, [`PANEL`] times.
///
/// # Panics
/// With more than [`Simd::TILES`].
#[inline(always)]
unsafe fn pixels<S: Simd>(
    simd: S,
    count: usize,
    image: &[f32],
    from: usize,
    weights: &[f32],
    bias: &[f32],
    to: (*mut f32, usize),
) {
    // SAFETY: the caller's.
    with_constant!(COUNT = count, at most S::TILES, unsafe {
        pixels_in_registers::<S, COUNT>(simd, image, from, weights, bias, to);
    });
}

/// # Safety
/// As [`pixels`].
#[inline(always)]
unsafe fn pixels_in_registers<S: Simd, const COUNT: usize>(
    simd: S,
    image: &[f32],
    from: usize,
    weights: &[f32],
    bias: &[f32],
    (to, plane): (*mut f32, usize),
) {
    assert!(from + ((INPUTS - 1) * ROWS + 2) * ROW + 2 + COUNT <= image.len());
    assert!(weights.len() == TAPS * PANEL * S::LANES && bias.len() == PANEL * S::LANES);
    let (image, weights, bias) = (image.as_ptr().wrapping_add(from), weights.as_ptr(), bias.as_ptr());
    let mut sums = [[simd.splat(0.0); PANEL]; COUNT];
    // SAFETY, here and below: the assertions above, and the caller's alignment.
    let load = |from: *const f32, i: usize| unsafe { simd.load(from.add(i * S::LANES)) };
    for i in 0..PANEL {
        let bias = load(bias, i);
        for sum in &mut sums {
            sum[i] = bias;
        }
    }
    for channel in 0..INPUTS {
        for ky in 0..3 {
            for kx in 0..3 {
                let tap = (channel * 3 + ky) * 3 + kx;
                let mut weight = [simd.splat(0.0); PANEL];
                for i in 0..PANEL {
                    weight[i] = load(weights, tap * PANEL + i);
                }
                for pixel in 0..COUNT {
                    let offset = (channel * ROWS + ky) * ROW + kx + pixel;
                    let value = simd.splat(unsafe { *image.add(offset) });
                    for i in 0..PANEL {
                        sums[pixel][i] = simd.mul_add(value, weight[i], sums[pixel][i]);
                    }
                }
            }
        }
    }
    for pixel in 0..COUNT {
        for i in 0..PANEL {
            let value = simd.max(sums[pixel][i], simd.splat(0.0));
            // SAFETY: the caller's part reaches to the last panel's last pixel.
            unsafe { simd.store(to.add(i * plane + pixel * S::LANES), value) };
        }
    }
}
