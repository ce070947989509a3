//! The vector registers of an instruction set, and memory aligned for them.
//!
//! A value of a type that implements [`Simd`] proves that this machine has the instructions: only a check of the CPU makes one.
//! That makes its operations safe to call.
// Everything that a task calls must be inlined into its body, see `WithSimd`.
#![allow(unsafe_code, clippy::inline_always)]

mod buffer;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use strum::{IntoStaticStr, VariantArray};

pub(crate) use self::buffer::{Buffer, CACHE_LINE};
pub(crate) use self::portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::x86::{Avx2, Avx512};

/// The instruction sets that code is compiled for, the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum InstructionSet {
    Avx512,
    /// With FMA.
    Avx2,
    /// What every CPU of the target has.
    Portable,
}

impl InstructionSet {
    /// The fastest that this machine has.
    pub fn best() -> Self {
        Self::VARIANTS.iter().copied().find(|set| set.is_available()).unwrap_or(Self::Portable)
    }

    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Its name in settings and metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Runs a task compiled with these instructions.
    pub(crate) fn dispatch<T: WithSimd>(self, task: T) -> Result<T::Output, Unavailable> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Ok(Avx512::detect().ok_or(Unavailable(self))?.vectorize(task)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Ok(Avx2::detect().ok_or(Unavailable(self))?.vectorize(task)),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => Err(Unavailable(self)),
            Self::Portable => Ok(Portable.vectorize(task)),
        }
    }
}

/// The machine lacks an instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this machine has no instructions for kernel `{}`; it has: {}", .0.name(), available())]
pub struct Unavailable(pub InstructionSet);

fn available() -> String {
    let available = InstructionSet::VARIANTS.iter().filter(|set| set.is_available());
    available.map(|set| set.name()).collect::<Vec<_>>().join(", ")
}

/// Runs a task with the best instructions that this machine has.
pub(crate) fn dispatch<T: WithSimd>(task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = Avx512::detect() {
        return simd.vectorize(task);
    } else if let Some(simd) = Avx2::detect() {
        return simd.vectorize(task);
    }
    Portable.vectorize(task)
}

/// Work that is compiled once for each instruction set. Its `with_simd`, and every function below it that calls [`Simd`], must be
/// `#[inline(always)]`: only the body of [`Simd::vectorize`] is compiled with the instructions.
pub(crate) trait WithSimd {
    type Output;
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this machine has.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Floats in a register. Maps and weights keep the channels in blocks of this size.
    const LANES: usize;
    /// How many tiles the multiplication sums up at a time: two registers for each, and a few to spare.
    const TILES: usize;
    /// A register.
    type Vector: Copy;

    /// Runs a task compiled with the instructions of this set.
    fn vectorize<T: WithSimd>(self, task: T) -> T::Output;

    /// The same value in each lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// Reads [`Simd::LANES`] floats.
    ///
    /// # Safety
    /// The floats must be readable, and the address a multiple of their size together.
    unsafe fn load(self, from: *const f32) -> Self::Vector;
    /// Writes [`Simd::LANES`] floats.
    ///
    /// # Safety
    /// The floats must be writable, no other thread may use them, and the address must be a multiple of their size together.
    unsafe fn store(self, to: *mut f32, value: Self::Vector);
    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once where the instruction set can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The greater of `a` and `b`; `b` where `a` is not a number.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `|a|`
    fn abs(self, a: Self::Vector) -> Self::Vector;
    /// The sum of the lanes, with `log2(LANES)` roundings between a lane and the sum.
    fn sum(self, a: Self::Vector) -> f32;
}

/// Evaluates an expression with a constant whose value is a number known only at run time: from 1 to 14, the largest
/// [`Simd::TILES`], and at most `most`.
macro_rules! with_constant {
    ($constant:ident = $number:expr, at most $most:expr, $value:expr) => {
        with_constant!($constant, $number, $most, $value, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    ($constant:ident, $number:expr, $most:expr, $value:expr, $($literal:literal)*) => {
        match $number {
            $($literal if $literal <= $most => {
                const $constant: usize = $literal;
                $value
            })*
            other => panic!("{other} registers at a time"),
        }
    };
}
pub(crate) use with_constant;

/// Hints that the cache line at an address is needed next. Any address is allowed.
#[inline(always)]
pub(crate) fn prefetch(at: *const f32) {
    // SAFETY: SSE is part of x86-64, and a prefetch faults at no address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`prefetch`], into the second level of the cache only: for lines that are needed soon, not next.
#[inline(always)]
pub(crate) fn prefetch_ahead(at: *const f32) {
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
