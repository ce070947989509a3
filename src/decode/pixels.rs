//! What a network takes.

/// Width and height of a network input in pixels.
pub const INPUT_SIZE: usize = 224;
/// A network input in bytes.
pub const INPUT_BYTES: usize = INPUT_SIZE * INPUT_SIZE * 3;

/// One network input: 224 x 224 RGB, 8 bits, row by row, before means are subtracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels(pub(super) Box<[u8]>);

impl Pixels {
    /// Takes [`INPUT_BYTES`]; `None` if there are more or fewer.
    pub fn new(rgb: Vec<u8>) -> Option<Self> {
        (rgb.len() == INPUT_BYTES).then(|| Self(rgb.into_boxed_slice()))
    }

    /// The bytes: R, G, B of the first pixel, and so on.
    pub fn as_rgb(&self) -> &[u8] {
        &self.0
    }
}
