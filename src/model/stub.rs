//! The test double: features that depend on the pixels alone, without weights.

use super::{Error, Model};
use crate::decode::pixels::{INPUT_SIZE, Pixels};
use crate::embedding::{Degenerate, Embedding};

/// Features of a vector, as the manifest says.
const DIMS: usize = 512;
/// Blocks of 14 x 14 pixels: 256 of them, each with two features.
const BLOCK: usize = 14;

/// Averages of blocks.
pub(super) struct Stub;

/// An image of this colour alone makes the network panic.
const DEADLY: [u8; 3] = [13, 66, 6];

impl Model for Stub {
    fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, Error> {
        assert!(!batch.iter().any(|pixels| pixels.as_rgb().chunks_exact(3).all(|rgb| rgb == DEADLY)), "a deadly image");
        Ok(batch.iter().map(features).collect())
    }
}

/// Two numbers for each block: the average of red and green, and of green and blue. One is added to each, so that a
/// black image has a direction too.
fn features(pixels: &Pixels) -> Result<Embedding, Degenerate> {
    let mut sums = vec![0_u32; DIMS];
    for (y, row) in pixels.as_rgb().chunks_exact(INPUT_SIZE * 3).enumerate() {
        for (x, rgb) in row.chunks_exact(3).enumerate() {
            let block = y / BLOCK * (INPUT_SIZE / BLOCK) + x / BLOCK;
            let [red, green, blue] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
            sums[2 * block] += red + green;
            sums[2 * block + 1] += green + blue;
        }
    }
    let samples = (2 * BLOCK * BLOCK) as f32;
    Embedding::normalize(sums.into_iter().map(|sum| 1.0 + sum as f32 / samples).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filled(value: impl Fn(usize) -> u8) -> Pixels {
        Pixels::new((0..INPUT_SIZE * INPUT_SIZE * 3).map(value).collect()).unwrap()
    }

    #[test]
    fn each_image_has_its_own_features_whatever_its_neighbours() {
        let images = [filled(|_| 0), filled(|i| (i % 256) as u8), filled(|i| (i / 1000) as u8)];
        let together: Vec<_> = Stub.embed(&images).unwrap().into_iter().map(Result::unwrap).collect();
        for (image, expected) in images.iter().zip(&together) {
            assert_eq!(Stub.embed(std::slice::from_ref(image)).unwrap()[0].as_ref().unwrap(), expected);
            assert_eq!(expected.dims(), DIMS);
        }
        assert_ne!(together[1], together[2]);
    }
}
