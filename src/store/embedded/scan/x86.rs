//! Kernels for AVX-512 and AVX2.
//!
//! Four accumulators: additions to one wait for each other (4 cycles), and four keep more loads going than the memory
//! answers.

/// A kernel: `$step` takes an accumulator and a register of the query and the row each.
macro_rules! kernel {
    ($name:ident, $features:literal, |$sum:ident, $query:ident, $row:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        pub(in super::super) fn $name(query: &[f32], rows: &[f32], sums: &mut [f32]) {
            let (query_groups, query_rest) = query.as_chunks::<{ 4 * WIDTH }>();
            for (row, sum) in rows.chunks_exact(query.len()).zip(sums) {
                let (row_groups, row_rest) = row.as_chunks::<{ 4 * WIDTH }>();
                let mut accumulators = [zero(); 4];
                for (query, row) in query_groups.iter().zip(row_groups) {
                    let parts = query.as_chunks::<WIDTH>().0.iter().zip(row.as_chunks::<WIDTH>().0);
                    for (accumulator, (query, row)) in accumulators.iter_mut().zip(parts) {
                        let ($sum, $query, $row) = (*accumulator, load(query), load(row));
                        *accumulator = $step;
                    }
                }
                let rest = query_rest.as_chunks::<WIDTH>().0.iter().zip(row_rest.as_chunks::<WIDTH>().0);
                for (query, row) in rest {
                    let ($sum, $query, $row) = (accumulators[0], load(query), load(row));
                    accumulators[0] = $step;
                }
                *sum = total(accumulators);
            }
        }
    };
}

pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_abs_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps,
        _mm512_setzero_ps, _mm512_sub_ps,
    };

    const WIDTH: usize = 16;

    kernel!(dot, "avx512f", |sum, q, r| _mm512_fmadd_ps(q, r, sum));
    kernel!(l1, "avx512f", |sum, q, r| _mm512_add_ps(sum, _mm512_abs_ps(_mm512_sub_ps(q, r))));
    kernel!(squared_l2, "avx512f", |sum, q, r| {
        let difference = _mm512_sub_ps(q, r);
        _mm512_fmadd_ps(difference, difference, sum)
    });

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> __m512 {
        _mm512_setzero_ps()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code)]
    fn load(values: &[f32; WIDTH]) -> __m512 {
        // SAFETY: reads 16 values, which is what the reference promises; no alignment is needed.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn total([a, b, c, d]: [__m512; 4]) -> f32 {
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
    }
}

pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps, _mm256_andnot_ps,
        _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_sub_ps,
    };

    const WIDTH: usize = 8;

    kernel!(dot, "avx2,fma", |sum, q, r| _mm256_fmadd_ps(q, r, sum));
    // The sign bit of -0.0 is the only one set, so what it is not is the absolute value.
    kernel!(l1, "avx2,fma", |sum, q, r| {
        _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0), _mm256_sub_ps(q, r)))
    });
    kernel!(squared_l2, "avx2,fma", |sum, q, r| {
        let difference = _mm256_sub_ps(q, r);
        _mm256_fmadd_ps(difference, difference, sum)
    });

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn zero() -> __m256 {
        _mm256_setzero_ps()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    #[allow(unsafe_code)]
    fn load(values: &[f32; WIDTH]) -> __m256 {
        // SAFETY: reads 8 values, which is what the reference promises; no alignment is needed.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn total([a, b, c, d]: [__m256; 4]) -> f32 {
        let eight = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
