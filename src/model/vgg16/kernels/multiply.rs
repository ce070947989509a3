//! The multiplication of transformed tiles by transformed weights: what the network spends its time on.
//!
//! At each point: `[tiles x inputs] * [inputs x outputs]`. A panel of weights has [`PANEL`] registers of outputs, and lies
//! input by input. Sums of a few tiles for one panel stay in registers while all inputs pass.
#![allow(unsafe_code)]

use crate::simd::{Simd, prefetch, prefetch_ahead, with_constant};

/// Registers of outputs that are summed up at a time. Two use a broadcast value twice, and leave room for many tiles.
pub(super) const PANEL: usize = 2;

/// How far before the panel's own stream is asked for, in floats: about what the weights' way from the second level takes.
const NEAR: usize = 256;

/// Where a multiplication reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Input channels.
    pub(super) inputs: usize,
    /// `[inputs / lanes][tiles][lanes]`.
    pub(super) tiles: *const f32,
    /// `[inputs][PANEL * lanes]`.
    pub(super) panel: *const f32,
    /// `[PANEL][..][lanes]`.
    pub(super) sums: *mut f32,
    /// Floats between the registers of a tile's sums.
    pub(super) apart: usize,
    /// What is needed after this panel, and how many floats of it to ask for while an input passes.
    pub(super) ahead: *const f32,
    pub(super) ahead_step: usize,
}

/// Multiplies up to [`Simd::TILES`] tiles by a panel.
///
/// # Safety
/// Everything that [`Operands`] points to must be there and aligned, `sums` be nobody else's.
///
/// # Panics
/// With more tiles.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(simd: S, tiles: usize, operands: Operands) {
    // SAFETY: the caller's.
    with_constant!(TILES = tiles, at most S::TILES, unsafe { multiply_tiles::<S, TILES>(simd, operands) });
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_tiles<S: Simd, const TILES: usize>(simd: S, operands: Operands) {
    let Operands { inputs, mut tiles, mut panel, sums, apart, mut ahead, ahead_step } = operands;
    let mut acc = [[simd.splat(0.0); PANEL]; TILES];
    for _ in 0..inputs / S::LANES {
        for lane in 0..S::LANES {
            let mut weights = [simd.splat(0.0); PANEL];
            for i in 0..PANEL {
                // SAFETY: the caller's.
                weights[i] = unsafe { simd.load(panel.add(i * S::LANES)) };
            }
            for line in 0..(PANEL * S::LANES).div_ceil(crate::simd::LINE) {
                prefetch(panel.wrapping_add(NEAR + line * crate::simd::LINE));
                prefetch_ahead(ahead.wrapping_add(line * crate::simd::LINE));
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
            unsafe { simd.store(sums.add(i * apart + tile * S::LANES), acc[tile][i]) };
        }
    }
}
