//! The layout of feature maps, and memory that several threads fill.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// Floats that several threads write at the same time, each to its own places. The code that dereferences the pointers has to
/// keep these apart.
#[derive(Clone, Copy)]
pub(super) struct SharedFloats<'a> {
    start: *mut f32,
    len: usize,
    marker: PhantomData<&'a mut [f32]>,
}

// SAFETY: it hands out pointers only.
unsafe impl Send for SharedFloats<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedFloats<'_> {}

impl<'a> SharedFloats<'a> {
    pub(super) fn new(floats: &'a mut [f32]) -> Self {
        Self { start: floats.as_mut_ptr(), len: floats.len(), marker: PhantomData }
    }

    /// The address of `len` floats from an offset on.
    #[inline(always)]
    pub(super) fn part(self, offset: usize, len: usize) -> *mut f32 {
        assert!(offset <= self.len && len <= self.len - offset, "{len} floats at {offset} of {}", self.len);
        self.start.wrapping_add(offset)
    }
}

/// The layout of feature maps: `[image][channel / lanes][row][column][lane]`, in the border of zeros
/// that the next convolution needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    /// Height and width of the maps.
    pub(super) size: usize,
    pub(super) channels: usize,
    pub(super) lanes: usize,
    /// Width of the border above and to the left.
    border: usize,
    rows: usize,
    columns: usize,
}

impl Map {
    /// A map to be read by tiles that have `extent` outputs along its height and width, and one more input on every side.
    pub(super) fn bordered(size: usize, channels: usize, lanes: usize, extent: usize) -> Self {
        let rows = extent + 2;
        // Rows of a multiple of 4 KiB would all share a few sets of the cache.
        let columns = if (rows * lanes * size_of::<f32>()).is_multiple_of(4096) { rows + 1 } else { rows };
        Self { size, channels, lanes, border: 1, rows, columns }
    }

    /// A map without a border.
    pub(super) fn bare(size: usize, channels: usize, lanes: usize) -> Self {
        Self { size, channels, lanes, border: 0, rows: size, columns: size }
    }

    /// Floats from a row to the next.
    pub(super) fn row(&self) -> usize {
        self.columns * self.lanes
    }

    /// Floats from a block of channels to the next.
    pub(super) fn plane(&self) -> usize {
        self.rows * self.row()
    }

    /// Floats from an image to the next.
    pub(super) fn image(&self) -> usize {
        self.channels / self.lanes * self.plane()
    }

    /// The offset of a position in an image's first block of channels.
    pub(super) fn position(&self, image: usize, y: usize, x: usize) -> usize {
        image * self.image() + (y + self.border) * self.row() + (x + self.border) * self.lanes
    }

    /// Appends the maps of that many images as `[image][channel][row][column]`.
    pub(super) fn copy_out(&self, floats: &[f32], images: usize, to: &mut Vec<f32>) {
        to.reserve(images * self.channels * self.size * self.size);
        for image in 0..images {
            for channel in 0..self.channels {
                let offset = channel / self.lanes * self.plane() + channel % self.lanes;
                for y in 0..self.size {
                    let row = &floats[self.position(image, y, 0) + offset..];
                    to.extend(row.iter().step_by(self.lanes).take(self.size));
                }
            }
        }
    }
}
