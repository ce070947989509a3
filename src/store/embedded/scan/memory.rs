//! Memory for vectors.

use std::collections::TryReserveError;
use std::slice;

use super::LANES;

/// Float32 values in whole cache lines, so that no load of a kernel crosses from one to the next.
pub(in super::super) struct Memory {
    lines: Vec<Line>,
}

#[derive(Clone)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

impl Memory {
    /// Sets memory for this many values aside, a multiple of [`LANES`]. It is taken only as [`Self::cover`] uses it.
    ///
    /// # Errors
    /// When there is none.
    pub(in super::super) fn new(values: usize) -> Result<Self, TryReserveError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(values / LANES)?;
        Ok(Self { lines })
    }

    /// Makes it hold at least this many values; new ones are zero.
    pub(in super::super) fn cover(&mut self, values: usize) {
        let lines = values.div_ceil(LANES);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0.0; LANES]));
        }
    }

    #[allow(unsafe_code)]
    pub(in super::super) fn values(&self) -> &[f32] {
        // SAFETY: a `Line` is `LANES` values and nothing else: `repr(C)`, and its alignment equals its size (64 bytes). The
        // lines of a `Vec` follow each other, and are borrowed for as long as the result.
        unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * LANES) }
    }

    #[allow(unsafe_code)]
    pub(in super::super) fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * LANES) }
    }
}

const _: () = assert!(size_of::<Line>() == LANES * size_of::<f32>());
