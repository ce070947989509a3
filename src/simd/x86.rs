//! The vector instructions of x86-64 beyond what every such CPU has.
#![allow(unsafe_code)] // SAFETY of every block: a value of these types exists only where the CPU has the instructions. What `load`
// and `store` need of their address is for their callers to grant, as the trait says.

use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_store_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_store_ps, _mm512_sub_ps,
};

use super::{Simd, Task};

/// Defines the type that proves an instruction set, and its operations by their intrinsics.
macro_rules! instruction_set {
    (
        $(#[$doc:meta])*
        $name:ident: $features:literal if $detected:expr,
        $tiles:literal tiles, $lanes:literal lanes of $vector:ty,
        $splat:ident $load:ident $store:ident $add:ident $sub:ident $mul:ident $mul_add:ident $max:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(());

        impl $name {
            /// The proof, where the CPU gives it.
            pub(crate) fn detect() -> Option<Self> {
                $detected.then_some(Self(()))
            }
        }

        impl Simd for $name {
            const LANES: usize = $lanes;
            const TILES: usize = $tiles;
            type Vector = $vector;

            #[inline]
            fn vectorize<T: Task>(self, task: T) -> T::Output {
                #[target_feature(enable = $features)]
                fn run<T: Task>(simd: $name, task: T) -> T::Output {
                    task.run(simd)
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
        }
    };
}

instruction_set! {
    /// Proof that the CPU has AVX-512, with its 32 registers.
    Avx512: "avx512f" if is_x86_feature_detected!("avx512f"),
    14 tiles, 16 lanes of __m512,
    _mm512_set1_ps _mm512_load_ps _mm512_store_ps
    _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_fmadd_ps _mm512_max_ps
}

instruction_set! {
    /// Proof that the CPU has AVX2 and FMA, with their 16 registers.
    Avx2: "avx2,fma" if (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
    6 tiles, 8 lanes of __m256,
    _mm256_set1_ps _mm256_load_ps _mm256_store_ps
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_fmadd_ps _mm256_max_ps
}
