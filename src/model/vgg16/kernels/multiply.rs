//! The multiplication of transformed tiles by transformed weights, on which the network spends most of its time.
//!
//! At each point: `[tiles x inputs] * [inputs x outputs]`. A panel of weights has [`PANEL`] registers of outputs, and lies
//! input by input. The sums of a few tiles for one panel stay in registers over all inputs.
#![allow(unsafe_code)]

use crate::simd::{CACHE_LINE, Simd, prefetch, prefetch_ahead, with_constant};

/// Registers of outputs that are summed up at a time. With two, a broadcast value is used twice and registers are left for many
/// tiles.
pub(super) const PANEL: usize = 2;

/// How far ahead the panel itself is prefetched, in floats: about as long as weights take from the second level of the cache.
const NEAR: usize = 256;

/// The addresses of a multiplication.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub(super) inputs: usize,
    /// `[inputs / lanes][tiles][lanes]`.
    pub(super) tiles: *const f32,
    /// `[inputs][PANEL * lanes]`.
    pub(super) panel: *const f32,
    /// `[PANEL][..][lanes]`.
    pub(super) sums: *mut f32,
    /// Floats from a register of a tile's sums to the next.
    pub(super) stride: usize,
    /// What is needed after this panel, and how many floats of it to prefetch for each input.
    pub(super) ahead: *const f32,
    pub(super) ahead_step: usize,
}

/// Multiplies up to [`Simd::TILES`] tiles by a panel.
///
/// # Safety
/// Everything that [`Operands`] points to must be valid and aligned, and no other thread may use `sums`.
///
/// # Panics
/// With more than [`Simd::TILES`].
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(simd: S, tiles: usize, operands: Operands) {
    // SAFETY: the caller's.
    with_constant!(TILES = tiles, at most S::TILES, unsafe { multiply_tiles::<S, TILES>(simd, operands) });
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_tiles<S: Simd, const TILES: usize>(simd: S, operands: Operands) {
    let Operands { inputs, mut tiles, mut panel, sums, stride, mut ahead, ahead_step } = operands;
    let mut acc = [[simd.splat(0.0); PANEL]; TILES];
    for _ in 0..inputs / S::LANES {
        for lane in 0..S::LANES {
            let mut weights = [simd.splat(0.0); PANEL];
            for i in 0..PANEL {
                // SAFETY: the caller's.
                weights[i] = unsafe { simd.load(panel.add(i * S::LANES)) };
            }
            for line in 0..(PANEL * S::LANES).div_ceil(CACHE_LINE) {
                prefetch(panel.wrapping_add(NEAR + line * CACHE_LINE));
                prefetch_ahead(ahead.wrapping_add(line * CACHE_LINE));
            }
            ahead = ahead.wrapping_add(ahead_step);
            for tile in 0..TILES {
                // SAFETY: the caller's.
                let value = simd.splat(unsafe { *tiles.add(tile * S::LANES + lane) });
                for i in 0..PANEL {
                    acc[tile][i] = simd.mul_add(value, weights[i], acc[tile][i]);
                }
            }
            panel = panel.wrapping_add(PANEL * S::LANES);
        }
        tiles = tiles.wrapping_add(TILES * S::LANES);
    }
    for tile in 0..TILES {
        for i in 0..PANEL {
            // SAFETY: the caller's.
            unsafe { simd.store(sums.add(i * stride + tile * S::LANES), acc[tile][i]) };
        }
    }
}
