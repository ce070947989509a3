//! Sums over one query and many rows, bound by the memory and not by arithmetic.
//!
//! All unsafe code of the embedded store is in here: the loads of registers.
#![allow(clippy::inline_always)] // Everything that a task calls must be inlined into its body, see `simd::WithSimd`.

use crate::simd::{CACHE_LINE, Simd, WithSimd};

/// Rows are padded to a multiple of this many values: one cache line, and the widest register.
pub(super) const LANES: usize = CACHE_LINE;
/// Registers that a sum is split over: an addition waits for the one before it (4 cycles), and four at a time load faster than the
/// memory delivers.
const ACCUMULATORS: usize = 4;

/// What is summed up over the values of two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// Products.
    Dot,
    /// Absolute differences.
    L1,
    /// Squared differences.
    SquaredL2,
}

/// Sums over a query and each of many rows, in float32.
///
/// With any instructions, at most `dims / LANES + LANES` roundings lie between a term and its sum; see [`relative_error`].
pub(super) struct RowSums<'a> {
    pub(super) sum: Sum,
    /// Aligned to a cache line, and padded to a multiple of [`LANES`].
    pub(super) query: &'a [f32],
    /// One row for each of `sums`, aligned and padded as the query.
    pub(super) rows: &'a [f32],
    pub(super) sums: &'a mut [f32],
}

impl WithSimd for RowSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.sum {
            Sum::Dot => self.add_up(simd, |sum, q, r| simd.mul_add(q, r, sum)),
            Sum::L1 => self.add_up(simd, |sum, q, r| simd.add(sum, simd.abs(simd.sub(q, r)))),
            Sum::SquaredL2 => self.add_up(simd, |sum, q, r| {
                let difference = simd.sub(q, r);
                simd.mul_add(difference, difference, sum)
            }),
        }
    }
}

impl RowSums<'_> {
    /// `add` adds the terms of a register of the query and one of a row to an accumulator.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn add_up<S: Simd>(self, simd: S, add: impl Fn(S::Vector, S::Vector, S::Vector) -> S::Vector) {
        let Self { query, rows, sums, .. } = self;
        let aligned = |values: &[f32]| values.as_ptr().addr().is_multiple_of(LANES * size_of::<f32>());
        assert!(aligned(query) && aligned(rows) && query.len().is_multiple_of(LANES), "whole registers are read");
        assert_eq!(query.len() * sums.len(), rows.len());
        let (registers, query) = (query.len() / S::LANES, query.as_ptr());
        for (row, sum) in rows.chunks_exact(registers * S::LANES).zip(sums) {
            let row = row.as_ptr();
            let step = |accumulator: S::Vector, register: usize| {
                let at = register * S::LANES;
                // SAFETY: the query and each row are `registers` registers long; both begin at a cache line, as the assertions
                // above check, and a register is a whole part of one.
                let (query, row) = unsafe { (simd.load(query.add(at)), simd.load(row.add(at))) };
                add(accumulator, query, row)
            };
            let [mut a, mut b, mut c, mut d] = [simd.splat(0.0); ACCUMULATORS];
            for group in 0..registers / ACCUMULATORS {
                let first = group * ACCUMULATORS;
                a = step(a, first);
                b = step(b, first + 1);
                c = step(c, first + 2);
                d = step(d, first + 3);
            }
            for register in registers / ACCUMULATORS * ACCUMULATORS..registers {
                a = step(a, register);
            }
            *sum = simd.sum(simd.add(simd.add(a, b), simd.add(c, d)));
        }
    }
}

/// The largest error of a sum in [`RowSums`], relative to the sum of the absolute values of its terms.
///
/// A register has at least a quarter of [`LANES`] values, and there are [`ACCUMULATORS`] of them: an accumulated value has at most
/// `dims / LANES + 3` terms, and a few more roundings until it is part of the sum. Each rounding changes a value by at most
/// `EPSILON / 2`. The whole `EPSILON` leaves room for the roundings within a term, those of the caller that scales the sum, and
/// second-order terms (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2).
pub(super) fn relative_error(dims: usize) -> f32 {
    (dims.div_ceil(LANES) + LANES) as f32 * f32::EPSILON
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;
    use crate::simd::{Buffer, InstructionSet};

    fn exact(sum: Sum, query: &[f32], row: &[f32]) -> (f64, f64) {
        let term = |(&q, &r): (&f32, &f32)| {
            let (q, r) = (f64::from(q), f64::from(r));
            match sum {
                Sum::Dot => q * r,
                Sum::L1 => (q - r).abs(),
                Sum::SquaredL2 => (q - r).powi(2),
            }
        };
        let terms = || query.iter().zip(row).map(term);
        (terms().sum(), terms().map(f64::abs).sum())
    }

    #[test]
    fn every_kernel_agrees_with_float64_within_its_bound() {
        let mut random = fastrand::Rng::with_seed(1);
        for dims in [1usize, 3, 15, 16, 17, 31, 48, 63, 64, 65, 80, 96, 127, 300, 512, 1000] {
            let stride = dims.next_multiple_of(LANES);
            for count in [0, 1, 2, 3, 7, 64] {
                let mut vectors = |count: usize| {
                    let mut values = Buffer::new(count * stride);
                    for vector in values.chunks_exact_mut(stride) {
                        vector[..dims].fill_with(|| random.f32() * 2.0 - 1.0);
                    }
                    values
                };
                let (query, rows) = (vectors(1), vectors(count));
                for set in InstructionSet::VARIANTS.iter().filter(|set| set.is_available()) {
                    for sum in [Sum::Dot, Sum::L1, Sum::SquaredL2] {
                        let mut sums = vec![f32::NAN; count];
                        let task = RowSums { sum, query: &query, rows: &rows, sums: &mut sums };
                        assert_eq!(set.dispatch(task), Ok(()));
                        for (found, row) in sums.iter().zip(rows.chunks_exact(stride)) {
                            let (expected, absolute) = exact(sum, &query, row);
                            let bound = f64::from(relative_error(dims)) * absolute;
                            let error = (f64::from(*found) - expected).abs();
                            assert!(error <= bound, "{set:?} {sum:?} of {dims}: {found} instead of {expected}");
                        }
                    }
                }
            }
        }
    }
}
