//! Floats in whole cache lines, aligned for every register.
#![allow(unsafe_code)]

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

/// Floats in a cache line.
pub(crate) const CACHE_LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; CACHE_LINE]);

const _: () = assert!(size_of::<Line>() == CACHE_LINE * size_of::<f32>());

const ZERO: Line = Line([0.0; CACHE_LINE]);

/// Floats that begin as zeros, aligned for every register. Its length is a whole number of cache lines.
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// At least `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![ZERO; len.div_ceil(CACHE_LINE)])
    }

    /// An empty buffer with room for `len` floats. The system hands the pages out as [`Buffer::grow`] writes to them.
    ///
    /// # Errors
    /// When the system grants no such memory.
    pub(crate) fn with_capacity(len: usize) -> Result<Self, TryReserveError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(CACHE_LINE))?;
        Ok(Self(lines))
    }

    /// Makes it at least `len` floats long; the new ones are zeros.
    pub(crate) fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(CACHE_LINE);
        if let Some(more) = lines.checked_sub(self.0.len()) {
            self.0.reserve_exact(more);
            self.0.resize(lines, ZERO);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is `CACHE_LINE` floats without padding, and lines of a `Vec` follow each other.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * CACHE_LINE) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * CACHE_LINE) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_its_floats_as_it_grows() {
        let mut buffer = Buffer::with_capacity(64).unwrap();
        assert!(buffer.is_empty());
        buffer.grow(17);
        assert_eq!(*buffer, [0.0; 32]);
        assert_eq!(buffer.as_ptr().addr() % 64, 0);
        buffer[31] = 1.5;
        buffer.grow(16);
        buffer.grow(33);
        assert_eq!(buffer[30..34], [0.0, 1.5, 0.0, 0.0]);
        assert_eq!(*Buffer::new(1), [0.0; 16]);
    }
}
