//! The vector kernels: one query against many rows, bound by the memory and not by arithmetic.
//!
//! All unsafe code of the embedded store is in here, in [`Memory`], in the calls of kernels that need processor features,
//! and in their loads.

mod memory;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use self::memory::Memory;

/// Rows are padded to a multiple of this many values: one AVX-512 register, one cache line.
pub(super) const LANES: usize = 16;

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

/// Code for one set of processor features, which this processor has: only [`Self::available`] makes one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(Features);

#[derive(Clone, Copy, Debug)]
enum Features {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// The fastest on this processor.
    pub(super) fn best() -> Self {
        Self::available().next().unwrap_or(Self(Features::Portable))
    }

    /// All that this processor can run, the fastest first.
    fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = [
            (is_x86_feature_detected!("avx512f"), Features::Avx512),
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), Features::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let special = [];
        special.into_iter().chain([(true, Features::Portable)]).filter(|(has, _)| *has).map(|(_, one)| Self(one))
    }

    /// Sums over the query and each row, in float32. `rows` is as many rows as `sums` has places, each as long as `query`,
    /// which is a multiple of [`LANES`] and not empty.
    ///
    /// In whatever order a kernel adds, at most `dims / LANES + LANES` roundings lie between a term and its sum; see
    /// [`relative_error`].
    #[allow(unsafe_code)]
    pub(super) fn run(self, sum: Sum, query: &[f32], rows: &[f32], sums: &mut [f32]) {
        debug_assert!(!query.is_empty() && query.len().is_multiple_of(LANES));
        debug_assert_eq!(query.len() * sums.len(), rows.len());
        match (self.0, sum) {
            // SAFETY: `available` found AVX-512F on this processor.
            #[cfg(target_arch = "x86_64")]
            (Features::Avx512, Sum::Dot) => unsafe { x86::avx512::dot(query, rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Features::Avx512, Sum::L1) => unsafe { x86::avx512::l1(query, rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Features::Avx512, Sum::SquaredL2) => unsafe { x86::avx512::squared_l2(query, rows, sums) },
            // SAFETY: `available` found AVX2 and FMA on this processor.
            #[cfg(target_arch = "x86_64")]
            (Features::Avx2, Sum::Dot) => unsafe { x86::avx2::dot(query, rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Features::Avx2, Sum::L1) => unsafe { x86::avx2::l1(query, rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Features::Avx2, Sum::SquaredL2) => unsafe { x86::avx2::squared_l2(query, rows, sums) },
            (Features::Portable, Sum::Dot) => portable::dot(query, rows, sums),
            (Features::Portable, Sum::L1) => portable::l1(query, rows, sums),
            (Features::Portable, Sum::SquaredL2) => portable::squared_l2(query, rows, sums),
        }
    }
}

/// How far a sum of [`Kernel::run`] may be from the exact one, relative to the sum of the absolute values of its terms.
///
/// Each rounding changes a value by at most `EPSILON / 2`; the whole `EPSILON` leaves room for the roundings within a term,
/// those of the caller that scales the sum, and second-order terms (Higham, Accuracy and Stability of Numerical
/// Algorithms, 2002, section 4.2).
pub(super) fn relative_error(dims: usize) -> f32 {
    (dims.div_ceil(LANES) + LANES) as f32 * f32::EPSILON
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
                    let mut values = vec![0.0; count * stride];
                    for vector in values.chunks_exact_mut(stride) {
                        vector[..dims].fill_with(|| random.f32() * 2.0 - 1.0);
                    }
                    values
                };
                let (query, rows) = (vectors(1), vectors(count));
                for kernel in Kernel::available() {
                    for sum in [Sum::Dot, Sum::L1, Sum::SquaredL2] {
                        let mut sums = vec![f32::NAN; count];
                        kernel.run(sum, &query, &rows, &mut sums);
                        for (found, row) in sums.iter().zip(rows.chunks_exact(stride)) {
                            let (expected, absolute) = exact(sum, &query, row);
                            let bound = f64::from(relative_error(dims)) * absolute;
                            let error = (f64::from(*found) - expected).abs();
                            assert!(error <= bound, "{kernel:?} {sum:?} of {dims}: {found} instead of {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn memory_is_zero_aligned_and_writable() {
        let mut memory = Memory::new(64).unwrap();
        assert!(memory.values().is_empty());
        memory.cover(17);
        assert_eq!(memory.values(), [0.0; 32]);
        assert_eq!(memory.values().as_ptr().addr() % 64, 0);
        memory.values_mut()[31] = 1.5;
        memory.cover(16);
        memory.cover(33);
        assert_eq!(memory.values()[30..34], [0.0, 1.5, 0.0, 0.0]);
    }
}
