//! The fastest that this machine can multiply and add, for comparison.

use std::hint::black_box;
use std::time::Instant;

use super::maps::SharedFloats;
use super::threads::Threads;
use crate::simd::{Buffer, Simd, WithSimd};

/// Independent sums: at least the latency of a multiplication times how many start at once, 8 or on some aarch64 16.
const SUMS: usize = if cfg!(target_arch = "aarch64") { 20 } else { 12 };
/// Multiplications of each sum in a measurement, which takes some hundredths of a second.
const ROUNDS: usize = 5_000_000;
/// Measurements; the best counts.
const TRIES: usize = 5;

/// See [`super::peak()`].
pub(super) struct Peak<'a>(pub(super) &'a Threads);

impl WithSimd for Peak<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let operations = (ROUNDS * SUMS * S::LANES * 2 * self.0.count()) as f64;
        let run = |_| {
            let start = Instant::now();
            self.0.run(|_| simd.vectorize(Sums));
            operations / start.elapsed().as_secs_f64()
        };
        (0..TRIES).map(run).fold(0.0, f64::max)
    }
}

struct Sums;

impl WithSimd for Sums {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (factor, term) = (simd.splat(black_box(0.999_999)), simd.splat(black_box(1e-9)));
        let mut sums = [simd.splat(black_box(1.0)); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, term);
            }
        }
        let total = sums.into_iter().fold(simd.splat(0.0), |total, sum| simd.add(total, sum));
        let mut result = Buffer::new(S::LANES);
        let to = SharedFloats::new(&mut result).part(0, S::LANES);
        // SAFETY: the buffer has a register's floats, aligned.
        #[allow(unsafe_code)]
        unsafe {
            simd.store(to, total);
        }
        black_box(&result[..]);
    }
}
