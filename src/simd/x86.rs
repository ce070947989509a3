//! The vector instructions of x86-64 beyond what every such CPU has.
#![allow(unsafe_code)] // SAFETY of every block: a value of these types exists only where the CPU has the instructions. The callers of
// `load` and `store` vouch for the address, as the trait says.

use std::arch::x86_64::{
    __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps,
    _mm256_andnot_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_max_ps,
    _mm256_mul_ps, _mm256_set1_ps, _mm256_store_ps, _mm256_sub_ps, _mm512_abs_ps, _mm512_add_ps, _mm512_fmadd_ps,
    _mm512_load_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_store_ps, _mm512_sub_ps,
};

use super::{Simd, WithSimd};

/// Defines the type that proves an instruction set, and its operations by their intrinsics.
macro_rules! instruction_set {
    (
        $(#[$doc:meta])*
        $name:ident: $features:literal if $detected:expr,
        $tiles:literal tiles, $lanes:literal lanes of $vector:ty,
        $splat:ident $load:ident $store:ident $add:ident $sub:ident $mul:ident $mul_add:ident $max:ident $abs:ident $sum:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(());

        impl $name {
            /// The proof, if the CPU has the instructions.
            pub(crate) fn detect() -> Option<Self> {
                $detected.then_some(Self(()))
            }
        }

        impl Simd for $name {
            const LANES: usize = $lanes;
            const TILES: usize = $tiles;
            type Vector = $vector;

            #[inline]
            fn vectorize<T: WithSimd>(self, task: T) -> T::Output {
                #[target_feature(enable = $features)]
                fn run<T: WithSimd>(simd: $name, task: T) -> T::Output {
                    task.with_simd(simd)
                }
                unsafe { run(self, task) }
            }

            #[inline(always)]
            fn splat(self, value: f32) -> $vector {
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> $vector {
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, value: $vector) {
                unsafe { $store(to, value) }
            }

            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                unsafe { $mul(a, b) }
            }

            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                unsafe { $mul_add(a, b, c) }
            }

            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                unsafe { $max(a, b) }
            }

            #[inline(always)]
            fn abs(self, a: $vector) -> $vector {
                unsafe { $abs(a) }
            }

            #[inline(always)]
            fn sum(self, a: $vector) -> f32 {
                unsafe { $sum(a) }
            }
        }
    };
}

instruction_set! {
    /// Proof that the CPU has AVX-512, with its 32 registers.
    Avx512: "avx512f" if is_x86_feature_detected!("avx512f"),
    14 tiles, 16 lanes of __m512,
    _mm512_set1_ps _mm512_load_ps _mm512_store_ps
    _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_fmadd_ps _mm512_max_ps _mm512_abs_ps _mm512_reduce_add_ps
}

instruction_set! {
    /// Proof that the CPU has AVX2 and FMA, with their 16 registers.
    Avx2: "avx2,fma" if (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
    6 tiles, 8 lanes of __m256,
    _mm256_set1_ps _mm256_load_ps _mm256_store_ps
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_fmadd_ps _mm256_max_ps abs_256 sum_256
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn abs_256(a: __m256) -> __m256 {
    // -0.0 is the sign bit alone, which this clears.
    _mm256_andnot_ps(_mm256_set1_ps(-0.0), a)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_256(a: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
