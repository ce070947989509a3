//! Decoded images to network input, as each model was trained or measured.
//!
//! Both ways reproduce Pillow's integer arithmetic, so that vectors are interchangeable with those of a Python pipeline: the same
//! decoded samples give the same bytes.

mod bicubic;
mod lines;
pub mod view;

use image::metadata::Orientation;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use self::lines::{Alpha, Lines, WideGrey};
use self::view::View;
use super::Format;
use super::pixels::Pixels;
use super::raster::Raster;

/// A way from image files to network input; the manifest names it by its id, which changes with anything that changes a pixel. JPEG
/// is decoded as libjpeg-turbo does it (accurate integer IDCT, fancy upsampling) by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum Preprocess {
    /// As `keras.utils.load_img` samples.
    #[serde(rename = "keras-imagenet-v2")]
    #[strum(serialize = "keras-imagenet-v2")]
    KerasImagenetV2,
    /// Orientation applied, alpha over white, antialiased bicubic.
    #[serde(rename = "imgdex-2")]
    #[strum(serialize = "imgdex-2")]
    Imgdex2,
}

/// How an image becomes the input of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    pub preprocess: Preprocess,
    /// Width and height of the network input in pixels.
    pub size: usize,
}

impl Sampling {
    /// The size of a network input in memory.
    pub fn bytes(self) -> usize {
        self.size * self.size * 3
    }
}

impl Preprocess {
    /// Its name in manifests.
    pub fn id(self) -> &'static str {
        self.into()
    }

    /// Samples the whole image to `size` x `size` RGB.
    pub fn apply(self, raster: &Raster, size: usize) -> Pixels {
        self.apply_to(raster, &View::default(), size)
    }

    /// Samples what the view shows of the image, which is upright where this way of sampling makes it so.
    pub fn apply_to(self, raster: &Raster, view: &View, size: usize) -> Pixels {
        let lines = match self {
            Self::KerasImagenetV2 => {
                // Pillow turns TIFF when it loads it, other formats only when asked, and Keras does not ask.
                let orientation = match raster.format {
                    Format::Tiff => raster.orientation,
                    _ => Orientation::NoTransforms,
                };
                Lines::new(raster, Alpha::Drop, WideGrey::Clip).turned(orientation)
            }
            Self::Imgdex2 => Lines::new(raster, Alpha::OverWhite, WideGrey::HighByte).turned(raster.orientation),
        };
        let lines = match &view.crop {
            Some(crop) => lines.cropped(crop),
            None => lines,
        };
        let lines = lines.turned(view.turn.into());
        match self {
            Self::KerasImagenetV2 => nearest(&lines, size),
            Self::Imgdex2 => bicubic::resize(&lines, size),
        }
    }
}

/// Pillow's `NEAREST`: the sample under each target pixel's centre. The position is accumulated in doubles, as Pillow's
/// `ImagingScaleAffine` does, which at many widths differs from the exact floor.
fn nearest(lines: &Lines<'_>, size: usize) -> Pixels {
    let (columns, rows) = (positions(lines.width(), size), positions(lines.height(), size));
    let mut rgb = Vec::with_capacity(size * size * 3);
    for &y in &rows {
        for &x in &columns {
            rgb.extend(lines.pixel(x, y));
        }
    }
    Pixels { size, rgb: rgb.into_boxed_slice() }
}

fn positions(length: usize, size: usize) -> Vec<usize> {
    let step = length as f64 / size as f64;
    let mut at = step * 0.5;
    let next = || {
        let position = at as usize;
        at += step;
        position.min(length - 1)
    };
    std::iter::repeat_with(next).take(size).collect()
}
