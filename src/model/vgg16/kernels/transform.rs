//! Tiles of feature maps to the points at which they are multiplied, and back.
//!
//! A tile is `M` x `M` outputs, and `A` x `A` inputs with `A = M + 2`. In between it is `A` x `A` points; at each point the tiles
//! of all channels are multiplied by a matrix of weights.
#![allow(unsafe_code)]

use super::winograd::{Matrices, derive};
use crate::simd::Simd;

/// Winograd's algorithm for tiles of one size.
pub(super) trait Algorithm<const M: usize, const A: usize> {
    const MATRICES: Matrices<M, A>;
    /// The number of the first pair of points: 1 if zero is a point.
    const PAIRS: usize;
}

/// Tiles of 7 x 7, which divide every map of the network: 1.65 multiplications for an output, where a direct convolution has
/// 9. Tiles of 8 x 8 have fewer, but their transforms cost as much as that saves.
pub(super) struct F7;

impl Algorithm<7, 9> for F7 {
    const MATRICES: Matrices<7, 9> = derive(&[1.0 / 4.0, 2.0 / 3.0, 11.0 / 10.0, 2.0], false);
    const PAIRS: usize = 0;
}

/// Tiles of 4 x 4: 2.25 multiplications for an output, but transformed weights take less than half of the memory.
pub(super) struct F4;

impl Algorithm<4, 6> for F4 {
    const MATRICES: Matrices<4, 6> = derive(&[std::f64::consts::FRAC_1_SQRT_2, std::f64::consts::SQRT_2], true);
    const PAIRS: usize = 1;
}

/// Adds `coefficient * value` to a sum that may be empty. The coefficients are constants, so the
/// compiler leaves nothing of the choice.
#[inline(always)]
#[allow(clippy::float_cmp)] // 1 and -1 are exact; any other coefficient is multiplied.
fn term<S: Simd>(simd: S, sum: Option<S::Vector>, coefficient: f64, value: S::Vector) -> Option<S::Vector> {
    let factor = || simd.splat(coefficient as f32);
    if coefficient == 0.0 {
        return sum;
    }
    Some(match sum {
        None if coefficient == 1.0 => value,
        None => simd.mul(value, factor()),
        Some(sum) if coefficient == 1.0 => simd.add(sum, value),
        Some(sum) if coefficient == -1.0 => simd.sub(sum, value),
        Some(sum) => simd.mul_add(value, factor(), sum),
    })
}

/// The product of every second coefficient of a row, from `first` on, with the values.
#[inline(always)]
fn every_second<S: Simd, const A: usize>(simd: S, row: &[f64; A], values: &[S::Vector; A], first: usize) -> S::Vector {
    let mut sum = None;
    let mut i = first;
    while i < A {
        sum = term(simd, sum, row[i], values[i]);
        i += 2;
    }
    sum.unwrap_or(simd.splat(0.0))
}

/// One line of inputs to the points.
#[inline(always)]
fn to_points<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
    simd: S,
    inputs: &[S::Vector; A],
) -> [S::Vector; A] {
    let rows = const { F::MATRICES.input };
    let mut points = *inputs;
    let mut row = F::PAIRS;
    while row < A - 1 {
        let even = every_second(simd, &rows[row], inputs, 0);
        let odd = every_second(simd, &rows[row], inputs, 1);
        points[row] = simd.add(even, odd);
        points[row + 1] = simd.sub(even, odd);
        row += 2;
    }
    // Zero and infinity have even or odd coefficients only.
    if F::PAIRS == 1 {
        points[0] = every_second(simd, &rows[0], inputs, 0);
    }
    points[A - 1] = every_second(simd, &rows[A - 1], inputs, F::PAIRS);
    points
}

/// One line of points to the outputs.
#[inline(always)]
fn to_outputs<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
    simd: S,
    points: &[S::Vector; A],
) -> [S::Vector; M] {
    let rows = const { F::MATRICES.output };
    // The powers of a pair's points are equal where even, opposite where odd.
    let (mut sums, mut differences) = (*points, *points);
    let mut plus = F::PAIRS;
    while plus < A - 1 {
        sums[plus] = simd.add(points[plus], points[plus + 1]);
        differences[plus] = simd.sub(points[plus], points[plus + 1]);
        plus += 2;
    }
    let mut outputs = [simd.splat(0.0); M];
    let mut k = 0;
    while k < M {
        let mut sum = if k == M - 1 { Some(points[A - 1]) } else { None };
        if k == 0 && F::PAIRS == 1 {
            sum = Some(points[0]);
        }
        let mut plus = F::PAIRS;
        while plus < A - 1 {
            let pair = if k % 2 == 0 { sums[plus] } else { differences[plus] };
            sum = term(simd, sum, rows[k][plus], pair);
            plus += 2;
        }
        outputs[k] = sum.unwrap_or(simd.splat(0.0));
        k += 1;
    }
    outputs
}

/// Transforms one block of channels of a tile. `row` floats lie between the rows of the input, `point` floats between the
/// points of the output, which are in the order of rows.
///
/// # Safety
/// `A` rows of `A` registers must be readable at `from`; `A * A` points be writable at `to`, and `A * A` registers at
/// `scratch`. All are aligned.
#[inline(always)]
pub(super) unsafe fn input<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
    simd: S,
    (from, row): (*const f32, usize),
    (to, point): (*mut f32, usize),
    scratch: *mut f32,
) {
    for y in 0..A {
        let mut line = [simd.splat(0.0); A];
        for x in 0..A {
            // SAFETY: the caller's.
            line[x] = unsafe { simd.load(from.add(y * row + x * S::LANES)) };
        }
        let points = to_points::<S, F, M, A>(simd, &line);
        for x in 0..A {
            // SAFETY: the caller's.
            unsafe { simd.store(scratch.add((x * A + y) * S::LANES), points[x]) };
        }
    }
    for x in 0..A {
        let mut line = [simd.splat(0.0); A];
        for y in 0..A {
            // SAFETY: the caller's.
            line[y] = unsafe { simd.load(scratch.add((x * A + y) * S::LANES)) };
        }
        let points = to_points::<S, F, M, A>(simd, &line);
        for y in 0..A {
            // SAFETY: the caller's.
            unsafe { simd.store(to.add((y * A + x) * point), points[y]) };
        }
    }
}

/// Transforms one block of channels of a tile back, and calls `emit` with row, column and value of each output.
///
/// # Safety
/// `A * A` points must be readable at `from`, `point` floats from one to the next; `A * M` registers be writable at `scratch`. All are
/// aligned.
#[inline(always)]
pub(super) unsafe fn output<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
    simd: S,
    (from, point): (*const f32, usize),
    scratch: *mut f32,
    mut emit: impl FnMut(usize, usize, S::Vector),
) {
    for y in 0..A {
        let mut line = [simd.splat(0.0); A];
        for x in 0..A {
            // SAFETY: the caller's.
            line[x] = unsafe { simd.load(from.add((y * A + x) * point)) };
        }
        let outputs = to_outputs::<S, F, M, A>(simd, &line);
        for x in 0..M {
            // SAFETY: the caller's.
            unsafe { simd.store(scratch.add((x * A + y) * S::LANES), outputs[x]) };
        }
    }
    for x in 0..M {
        let mut line = [simd.splat(0.0); A];
        for y in 0..A {
            // SAFETY: the caller's.
            line[y] = unsafe { simd.load(scratch.add((x * A + y) * S::LANES)) };
        }
        let outputs = to_outputs::<S, F, M, A>(simd, &line);
        for y in 0..M {
            emit(y, x, outputs[y]);
        }
    }
}
