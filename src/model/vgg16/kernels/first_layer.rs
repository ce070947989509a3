//! The network's first convolution, from three channels to 64: too few inputs for tiles to be worth it. It is done
//! directly, patch by patch, on the way into the second one, so that its output never leaves the cache.
#![allow(unsafe_code)]

use super::maps::Shared;
use super::multiply::PANEL;
use crate::simd::{Simd, Task, with_constant};

/// Height and width of the image.
pub(super) const SIZE: usize = 224;
/// Channels of the image.
pub(super) const INPUTS: usize = 3;
/// Channels of the first convolution's output.
pub(super) const OUTPUTS: usize = 64;
/// Weights of an output.
pub(super) const TAPS: usize = INPUTS * 9;
/// Height of an image in its border of zeros; its width with a few more.
const ROWS: usize = SIZE + 2;
const ROW: usize = SIZE + 16;

/// Floats of a bordered image.
pub(super) const IMAGE: usize = INPUTS * ROWS * ROW;

/// Copies an image, `[channel][row][column]`, into its border of zeros.
pub(super) fn border(image: &[f32], bordered: &mut [f32]) {
    for (from, to) in image.chunks_exact(SIZE * SIZE).zip(bordered.chunks_exact_mut(ROWS * ROW)) {
        for (from, to) in from.chunks_exact(SIZE).zip(to[ROW..].chunks_exact_mut(ROW)) {
            to[1..=SIZE].copy_from_slice(from);
        }
    }
}

/// The convolution.
#[derive(Clone, Copy)]
pub(super) struct First<'a> {
    /// `[panel][tap][output]`
    pub(super) weights: &'a [f32],
    pub(super) bias: &'a [f32],
}

impl<'a> First<'a> {
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
    /// Where in the border of the map it begins.
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

    /// Floats from a block of channels to the next. A line lies between, or they might meet in the same sets of the cache.
    pub(super) fn plane(&self, lanes: usize) -> usize {
        self.rows * self.row(lanes) + crate::simd::LINE
    }
}

/// The work of computing a patch.
pub(super) struct Fill<'a> {
    first: First<'a>,
    /// Bordered.
    image: &'a [f32],
    patch: Patch,
    to: &'a mut [f32],
}

impl Task for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { first, image, patch, to } = self;
        // What the blocks marked unsafe below rest on, besides the lengths that they check.
        let aligned = |floats: &[f32]| floats.as_ptr().addr().is_multiple_of(S::LANES * size_of::<f32>());
        assert!(aligned(first.weights) && aligned(first.bias) && aligned(to), "registers are read and written whole");
        let (row, plane) = (patch.row(S::LANES), patch.plane(S::LANES));
        let to = Shared::new(to);
        // The border of the map is one wide: its first row and column are the map's -1.
        let inside = |start: usize, len: usize| start.max(1)..(start + len).min(SIZE + 1);
        let (rows, columns) = (inside(patch.top, patch.rows), inside(patch.left, patch.columns));
        for panel in 0..OUTPUTS / (PANEL * S::LANES) {
            let weights = &first.weights[panel * TAPS * PANEL * S::LANES..][..TAPS * PANEL * S::LANES];
            let bias = &first.bias[panel * PANEL * S::LANES..][..PANEL * S::LANES];
            for y in 0..patch.rows {
                let start = panel * PANEL * plane + y * row;
                let is_row = rows.contains(&(patch.top + y));
                let (before, after) = if is_row {
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

/// Clears some registers.
///
/// # Safety
/// The offset must be a multiple of a register.
#[inline(always)]
unsafe fn zero<S: Simd>(simd: S, to: Shared<'_>, offset: usize, registers: usize) {
    let to = to.part(offset, registers * S::LANES);
    for i in 0..registers {
        // SAFETY: the part has so many registers.
        unsafe { simd.store(to.add(i * S::LANES), simd.splat(0.0)) };
    }
}

/// Computes `count` neighbouring outputs of a panel; `from` is where the inputs of the first begin. Weights and biases lie on
/// whole lines.
///
/// # Safety
/// So many registers must be writable and aligned at `to.0`, and [`PANEL`] times, `to.1` floats apart.
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
    // SAFETY, here and below: the assertions above. Weights and biases lie on whole lines, a register
    // after the other.
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
