//! The input of a network.

/// A square image in RGB, 8 bits, row by row, before means are subtracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    pub(super) size: usize,
    pub(super) rgb: Box<[u8]>,
}

impl Pixels {
    /// `size` is width and height; `None` if there are not three bytes for each pixel.
    pub fn new(size: usize, rgb: Vec<u8>) -> Option<Self> {
        (rgb.len() == size * size * 3).then(|| Self { size, rgb: rgb.into_boxed_slice() })
    }

    /// Width and height.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes: R, G, B of the first pixel, and so on.
    pub fn as_rgb(&self) -> &[u8] {
        &self.rgb
    }
}
