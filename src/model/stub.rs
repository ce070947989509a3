//! The test double: features that depend only on the pixels, without weights.

use super::manifest::Manifest;
use super::{Error, Model};
use crate::decode::pixels::Pixels;
use crate::embedding::{Degenerate, Embedding};

/// Averages of square blocks of pixels, two features each.
pub(super) struct Stub {
    dims: usize,
}

impl Stub {
    pub(super) fn new(manifest: &Manifest) -> Self {
        Self { dims: manifest.dims }
    }

    /// Two numbers for each block: the average of red and green, and of green and blue. One is added to each, so that a black
    /// image has a direction too.
    fn features(&self, pixels: &Pixels) -> Result<Embedding, Degenerate> {
        let size = pixels.size();
        let blocks = (self.dims / 2).isqrt();
        let mut sums = vec![0_u32; self.dims];
        for (y, row) in pixels.as_rgb().chunks_exact(size * 3).enumerate() {
            for (x, rgb) in row.chunks_exact(3).enumerate() {
                let block = y * blocks / size * blocks + x * blocks / size;
                let [red, green, blue] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
                sums[2 * block] += red + green;
                sums[2 * block + 1] += green + blue;
            }
        }
        let samples = (2 * (size / blocks).pow(2)) as f32;
        Embedding::normalize(sums.into_iter().map(|sum| 1.0 + sum as f32 / samples).collect())
    }
}

/// An image that has only this colour makes the network panic.
const DEADLY: [u8; 3] = [13, 66, 6];

impl Model for Stub {
    fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, Error> {
        assert!(!batch.iter().any(|pixels| pixels.as_rgb().chunks_exact(3).all(|rgb| rgb == DEADLY)), "a deadly image");
        Ok(batch.iter().map(|pixels| self.features(pixels)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filled(value: impl Fn(usize) -> u8) -> Pixels {
        Pixels::new(224, (0..224 * 224 * 3).map(value).collect()).unwrap()
    }

    #[test]
    fn features_of_an_image_do_not_depend_on_the_rest_of_the_batch() {
        let images = [filled(|_| 0), filled(|i| (i % 256) as u8), filled(|i| (i / 1000) as u8)];
        let mut stub = Stub::new(&Manifest::find("stub").unwrap());
        let together: Vec<_> = stub.embed(&images).unwrap().into_iter().map(Result::unwrap).collect();
        for (image, expected) in images.iter().zip(&together) {
            assert_eq!(stub.embed(std::slice::from_ref(image)).unwrap()[0].as_ref().unwrap(), expected);
            assert_eq!(expected.dims(), 512);
        }
        assert_ne!(together[1], together[2]);
    }
}
