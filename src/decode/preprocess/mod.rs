//! Decoded images to network input, as each model was trained or measured.
//!
//! Both ways reproduce Pillow's integer arithmetic, so that vectors are interchangeable with those of a Python
//! pipeline: on the same decoded samples there is no difference at all.

mod bicubic;
mod lines;

use self::lines::{Alpha, Lines, WideGrey};
use super::Format;
use super::pixels::{INPUT_SIZE, Pixels};
use super::raster::Raster;
use image::metadata::Orientation;

/// A way of sampling a decoded image; the manifest names it by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preprocess {
    /// `keras-imagenet-v1`: as `keras.utils.load_img` does it.
    KerasImagenetV1,
    /// `imgdex-1`: orientation applied, alpha over white, antialiased bicubic.
    Imgdex1,
}

impl Preprocess {
    /// The way that a manifest names, if there is such a one.
    pub fn from_id(id: &str) -> Option<Self> {
        [Self::KerasImagenetV1, Self::Imgdex1].into_iter().find(|way| way.id() == id)
    }

    /// Its name in manifests.
    pub fn id(self) -> &'static str {
        match self {
            Self::KerasImagenetV1 => "keras-imagenet-v1",
            Self::Imgdex1 => "imgdex-1",
        }
    }

    /// Samples an image to 224 x 224 RGB.
    pub fn apply(self, raster: &Raster) -> Pixels {
        match self {
            Self::KerasImagenetV1 => {
                // Pillow turns TIFF when it loads it, other formats only when asked, and Keras does not ask.
                let orientation = match raster.format {
                    Format::Tiff => raster.orientation,
                    _ => Orientation::NoTransforms,
                };
                nearest(&Lines::new(raster, orientation, Alpha::Drop, WideGrey::Clip))
            }
            Self::Imgdex1 => {
                let lines = Lines::new(raster, raster.orientation, Alpha::OverWhite, WideGrey::HighByte);
                bicubic::resize(&lines)
            }
        }
    }
}

/// Pillow's `NEAREST`: the sample under each target pixel's centre. The position is accumulated in doubles, as Pillow's
/// `ImagingScaleAffine` does, which at many widths differs from the exact floor.
fn nearest(lines: &Lines<'_>) -> Pixels {
    let (columns, rows) = (positions(lines.width()), positions(lines.height()));
    let mut rgb = Vec::with_capacity(INPUT_SIZE * INPUT_SIZE * 3);
    for &y in &rows {
        for &x in &columns {
            rgb.extend(lines.pixel(x, y));
        }
    }
    Pixels(rgb.into_boxed_slice())
}

fn positions(length: usize) -> [usize; INPUT_SIZE] {
    let step = length as f64 / INPUT_SIZE as f64;
    let mut at = step * 0.5;
    [(); INPUT_SIZE].map(|()| {
        let position = at as usize;
        at += step;
        position.min(length - 1)
    })
}
