//! How fast this machine could multiply and add, for comparison.

use std::hint::black_box;
use std::time::Instant;

use super::maps::Shared;
use super::threads::Team;
use crate::simd::Buffer;
use crate::simd::{Simd, Task};

/// Independent sums: at least the latency of a multiplication times how many start at once, 8 or on some aarch64 16.
const SUMS: usize = if cfg!(target_arch = "aarch64") { 20 } else { 12 };
/// Multiplications of each sum in a measurement: some hundredths of a second.
const ROUNDS: usize = 5_000_000;
/// Measurements, of which the best counts.
const TRIES: usize = 5;

/// Floating-point operations per second, a multiplication and an addition being two, when all threads do nothing else.
pub(super) fn peak<S: Simd>(simd: S, team: &Team) -> f64 {
    let operations = (ROUNDS * SUMS * S::LANES * 2 * team.size()) as f64;
    let run = |_| {
        let start = Instant::now();
        team.run(|_| simd.vectorize(Sums));
        operations / start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(run).fold(0.0, f64::max)
}

struct Sums;

impl Task for Sums {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (factor, term) = (simd.splat(black_box(0.999_999)), simd.splat(black_box(1e-9)));
        let mut sums = [simd.splat(black_box(1.0)); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, term);
            }
        }
        let total = sums.into_iter().fold(simd.splat(0.0), |total, sum| simd.add(total, sum));
        let mut result = Buffer::new(S::LANES);
        let to = Shared::new(&mut result).part(0, S::LANES);
        // SAFETY: the buffer has a register's floats, aligned.
        #[allow(unsafe_code)]
        unsafe {
            simd.store(to, total);
        }
        black_box(&result[..]);
    }
}
