//! Which part of an image is sampled, and how it is turned.

use image::metadata::Orientation;
use serde::{Deserialize, Serialize};

/// What is sampled of an image: all of it as it is unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Of the upright image; applied first.
    pub crop: Option<Crop>,
    /// Applied to what the crop leaves.
    pub turn: Turn,
}

/// A rectangle in fractions of the image's width and height.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crop {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// The eight ways of turning and mirroring, by their numbers in EXIF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    #[default]
    None,
    Mirror,
    Rotate180,
    UpsideDown,
    Transpose,
    Rotate90,
    Transverse,
    Rotate270,
}

impl Crop {
    /// `None` unless the rectangle has an area and lies within the image.
    pub fn new(x: f64, y: f64, width: f64, height: f64) -> Option<Self> {
        let within = |start: f64, length: f64| start >= 0.0 && length > 0.0 && start + length <= 1.0;
        (within(x, width) && within(y, height)).then_some(Self { x, y, width, height })
    }

    /// The first column and the number of columns, of an image of that width.
    pub(super) fn columns(&self, width: usize) -> (usize, usize) {
        span(self.x, self.width, width)
    }

    /// The first row and the number of rows, of an image of that height.
    pub(super) fn rows(&self, height: usize) -> (usize, usize) {
        span(self.y, self.height, height)
    }
}

/// The pixels that a part of a side touches: at least one, whatever the numbers.
fn span(start: f64, length: f64, side: usize) -> (usize, usize) {
    let first = ((start * side as f64) as usize).min(side - 1);
    let end = (((start + length) * side as f64).ceil() as usize).clamp(first + 1, side);
    (first, end - first)
}

impl From<Turn> for Orientation {
    fn from(turn: Turn) -> Self {
        match turn {
            Turn::None => Self::NoTransforms,
            Turn::Mirror => Self::FlipHorizontal,
            Turn::Rotate180 => Self::Rotate180,
            Turn::UpsideDown => Self::FlipVertical,
            Turn::Transpose => Self::Rotate90FlipH,
            Turn::Rotate90 => Self::Rotate90,
            Turn::Transverse => Self::Rotate270FlipH,
            Turn::Rotate270 => Self::Rotate270,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::format::{Format, Size};
    use crate::decode::preprocess::Preprocess;
    use crate::decode::raster::{Raster, Samples};

    #[test]
    fn a_crop_has_an_area_within_the_image() {
        assert!(Crop::new(0.0, 0.0, 1.0, 1.0).is_some());
        for (x, y, width, height) in
            [(0.0, 0.0, 0.0, 1.0), (-0.1, 0.0, 0.5, 1.0), (0.6, 0.0, 0.5, 1.0), (f64::NAN, 0.0, 0.5, 0.5)]
        {
            assert!(Crop::new(x, y, width, height).is_none(), "{x} {y} {width} {height}");
        }
    }

    #[test]
    fn a_crop_touches_at_least_one_pixel_of_any_image() {
        let tiny = Crop::new(0.999, 0.5, 0.001, 0.001).unwrap();
        assert_eq!((tiny.columns(1), tiny.rows(7)), ((0, 1), (3, 1)));
        let middle = Crop::new(0.25, 0.25, 0.5, 0.5).unwrap();
        assert_eq!((middle.columns(100), middle.rows(3)), ((25, 50), (0, 3)));
    }

    #[test]
    fn views_show_the_pixels_that_they_say() {
        // 1 2 3
        // 4 5 6
        let raster = Raster {
            size: Size { width: 3, height: 2 },
            format: Format::Png,
            samples: Samples::Grey8(vec![1, 2, 3, 4, 5, 6]),
            orientation: Orientation::NoTransforms,
            missing: 0.0,
        };
        let seen = |crop: Option<Crop>, turn, size| {
            let pixels = Preprocess::KerasImagenetV2.apply_to(&raster, &View { crop, turn }, size);
            pixels.as_rgb().chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>()
        };
        let right = Crop::new(1.0 / 3.0, 0.0, 2.0 / 3.0, 1.0);
        assert_eq!(seen(right, Turn::None, 2), [2, 3, 5, 6]);
        assert_eq!(seen(right, Turn::Mirror, 2), [3, 2, 6, 5]);
        assert_eq!(seen(right, Turn::Rotate180, 2), [6, 5, 3, 2]);
        assert_eq!(seen(right, Turn::UpsideDown, 2), [5, 6, 2, 3]);
        assert_eq!(seen(right, Turn::Transpose, 2), [2, 5, 3, 6]);
        assert_eq!(seen(right, Turn::Rotate90, 2), [5, 2, 6, 3]);
        assert_eq!(seen(right, Turn::Transverse, 2), [6, 3, 5, 2]);
        assert_eq!(seen(right, Turn::Rotate270, 2), [3, 6, 2, 5]);
    }
}
