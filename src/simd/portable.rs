//! Arrays that the compiler turns into the registers that every CPU of the target has: SSE2 on x86-64, NEON on aarch64.
#![allow(unsafe_code)]

use super::{Simd, WithSimd};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Floats in a register of 128 bits.
const LANES: usize = 4;

#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Register([f32; LANES]);

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Register {
    Register([f(0), f(1), f(2), f(3)])
}

impl Simd for Portable {
    const LANES: usize = LANES;
    // x86-64 has 16 registers, aarch64 32.
    const TILES: usize = if cfg!(target_arch = "aarch64") { 12 } else { 6 };
    type Vector = Register;

    #[inline]
    fn vectorize<T: WithSimd>(self, task: T) -> T::Output {
        task.with_simd(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Register {
        Register([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Register {
        // SAFETY: the caller's.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Register) {
        // SAFETY: the caller's.
        unsafe { *to.cast() = value }
    }

    #[inline(always)]
    fn add(self, a: Register, b: Register) -> Register {
        each(|i| a.0[i] + b.0[i])
    }

    #[inline(always)]
    fn sub(self, a: Register, b: Register) -> Register {
        each(|i| a.0[i] - b.0[i])
    }

    #[inline(always)]
    fn mul(self, a: Register, b: Register) -> Register {
        each(|i| a.0[i] * b.0[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Register, b: Register, c: Register) -> Register {
        // Where there is no such instruction, `f32::mul_add` is a slow function.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            each(|i| a.0[i].mul_add(b.0[i], c.0[i]))
        } else {
            each(|i| a.0[i] * b.0[i] + c.0[i])
        }
    }

    #[inline(always)]
    fn max(self, a: Register, b: Register) -> Register {
        each(|i| if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] })
    }

    #[inline(always)]
    fn abs(self, a: Register) -> Register {
        each(|i| a.0[i].abs())
    }

    #[inline(always)]
    fn sum(self, a: Register) -> f32 {
        // The barrier keeps the registers before this sum whole, which the compiler would otherwise split in two.
        let Register([a, b, c, d]) = std::hint::black_box(a);
        (a + c) + (b + d)
    }
}
