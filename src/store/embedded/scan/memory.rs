//! Memory for vectors.

use std::io;
use std::slice;

use memmap2::{MmapMut, MmapOptions};

/// Zeroed float32 values that begin at a page, in huge pages where the system has them: with pages of 4 KiB the
/// processor's prefetching stops every other vector. What was never written takes no memory.
pub(in super::super) struct Memory {
    bytes: MmapMut,
}

impl Memory {
    /// # Errors
    /// When the system has no such memory.
    pub(in super::super) fn new(values: usize) -> io::Result<Self> {
        let bytes = MmapOptions::new().len(values * size_of::<f32>()).map_anon()?;
        // A system without huge pages refuses the advice, which is no failure.
        #[cfg(target_os = "linux")]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        Ok(Self { bytes })
    }

    #[allow(unsafe_code)]
    pub(in super::super) fn values(&self) -> &[f32] {
        let values = self.bytes.len() / size_of::<f32>();
        // SAFETY: a mapping begins at a page and so is aligned for f32, is private to this process, has that many values,
        // all of whose bit patterns are valid, and lives and stays unchanged as long as `self` is borrowed.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr().cast(), values) }
    }

    #[allow(unsafe_code)]
    pub(in super::super) fn values_mut(&mut self) -> &mut [f32] {
        let values = self.bytes.len() / size_of::<f32>();
        // SAFETY: as above; `self` is borrowed mutably, so there is no other reference.
        unsafe { slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), values) }
    }
}
