//! The vector registers of an instruction set, as the kernels see them, and memory aligned for them.
//!
//! A value of a type that implements [`Simd`] proves that this machine has the instructions: it is made by a check of the
//! CPU alone. That is what makes its operations safe to call.
// What a task calls must land in its body, see `Task`.
#![allow(unsafe_code, clippy::inline_always)]

mod buffer;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use self::buffer::{Buffer, LINE};
pub(crate) use self::portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::x86::{Avx2, Avx512};

/// An instruction set that this machine has.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Floats in a register. Maps and weights keep the channels in blocks of so many.
    const LANES: usize;
    /// How many tiles the multiplication sums up at a time: two registers for each, and a few to spare.
    const TILES: usize;
    /// A register.
    type Vector: Copy;

    /// Runs a task compiled with the instructions of this set.
    fn vectorize<T: Task>(self, task: T) -> T::Output;

    /// The same value in each lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// Reads [`Simd::LANES`] floats.
    ///
    /// # Safety
    /// They must be there, and the address be a multiple of their size.
    unsafe fn load(self, from: *const f32) -> Self::Vector;
    /// Writes [`Simd::LANES`] floats.
    ///
    /// # Safety
    /// They must be there and nobody else's, and the address be a multiple of their size.
    unsafe fn store(self, to: *mut f32, value: Self::Vector);
    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once where the instruction set can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The greater of `a` and `b`; `b` where `a` is no number.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
}

/// Work to be compiled once for each instruction set. Its `run`, and all that calls [`Simd`] below it, is to be
/// `#[inline(always)]`: only what lands in the body of [`Simd::vectorize`] gets the instructions.
pub(crate) trait Task {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a task with the best instructions that this machine has, for work that gives the same with any; which kernel the network
/// is told to take does not matter.
pub(crate) fn vectorize<T: Task>(task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = Avx512::detect() {
        return simd.vectorize(task);
    } else if let Some(simd) = Avx2::detect() {
        return simd.vectorize(task);
    }
    Portable.vectorize(task)
}

/// Evaluates an expression in which a constant has the value of a number that is known at run time only: 1 up to 14, the
/// largest [`Simd::TILES`], as far as `most` allows.
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

/// Asks for the cache line at an address to be brought near. A hint: any address will do.
#[inline(always)]
pub(crate) fn prefetch(at: *const f32) {
    // SAFETY: SSE is part of x86-64, and a prefetch touches no memory that it may not.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`prefetch`], but no nearer than the second level: for what is needed soon, not next.
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
