//! A raster as lines of RGB, cropped and turned, without a second copy of the image.

use image::metadata::Orientation;

use super::view::Crop;
use crate::decode::raster::{Raster, Samples};

/// The treatment of transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpha {
    /// The colour underneath shows, as after Pillow's `convert("RGB")`.
    Drop,
    /// As after Pillow's `Image.alpha_composite` onto opaque white.
    OverWhite,
}

/// The treatment of 16-bit grey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WideGrey {
    /// Values over 255 become 255, as after Pillow's `convert("RGB")` of mode `I;16`.
    Clip,
    /// The high byte.
    HighByte,
}

/// The lines of an image or a part of it, turned or not. Every such view is a start and two strides.
pub(super) struct Lines<'a> {
    samples: &'a Samples,
    width: usize,
    height: usize,
    origin: isize,
    step_x: isize,
    step_y: isize,
    alpha: Alpha,
    wide_grey: WideGrey,
}

impl<'a> Lines<'a> {
    /// The image as it is stored.
    pub(super) fn new(raster: &'a Raster, alpha: Alpha, wide_grey: WideGrey) -> Self {
        let (width, height) = (raster.size.width as usize, raster.size.height as usize);
        Self { samples: &raster.samples, width, height, origin: 0, step_x: 1, step_y: width as isize, alpha, wide_grey }
    }

    /// Turned or mirrored.
    pub(super) fn turned(self, orientation: Orientation) -> Self {
        match orientation {
            Orientation::NoTransforms => self,
            Orientation::FlipHorizontal => self.mirrored(),
            Orientation::FlipVertical => self.upside_down(),
            Orientation::Rotate180 => self.mirrored().upside_down(),
            Orientation::Rotate90FlipH => self.transposed(),
            Orientation::Rotate90 => self.upside_down().transposed(),
            Orientation::Rotate270 => self.mirrored().transposed(),
            Orientation::Rotate270FlipH => self.mirrored().upside_down().transposed(),
        }
    }

    /// A part of the image, with at least one pixel.
    pub(super) fn cropped(self, crop: &Crop) -> Self {
        let (left, width) = crop.columns(self.width);
        let (top, height) = crop.rows(self.height);
        Self { origin: self.origin + left as isize * self.step_x + top as isize * self.step_y, width, height, ..self }
    }

    fn mirrored(self) -> Self {
        let last = self.width as isize - 1;
        Self { origin: self.origin + last * self.step_x, step_x: -self.step_x, ..self }
    }

    fn upside_down(self) -> Self {
        let last = self.height as isize - 1;
        Self { origin: self.origin + last * self.step_y, step_y: -self.step_y, ..self }
    }

    fn transposed(self) -> Self {
        Self { width: self.height, height: self.width, step_x: self.step_y, step_y: self.step_x, ..self }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Whether the three channels are always equal, so that one is enough.
    pub(super) fn is_grey(&self) -> bool {
        matches!(self.samples, Samples::Grey8(_) | Samples::Grey16(_))
    }

    /// One line of the view, in `channels` bytes per pixel: one for grey, else three. `buffer` has room for it, and is used
    /// where the samples are in another order.
    pub(super) fn line<'b>(&'b self, y: usize, channels: usize, buffer: &'b mut [u8]) -> &'b [u8] {
        if self.step_x == 1
            && let Samples::Grey8(bytes) | Samples::Rgb8(bytes) = self.samples
        {
            let start = (self.origin + y as isize * self.step_y) as usize;
            return &bytes[start * channels..][..self.width * channels];
        }
        for (x, pixel) in buffer.chunks_exact_mut(channels).enumerate() {
            pixel.copy_from_slice(&self.pixel(x, y)[..channels]);
        }
        buffer
    }

    /// The colour of one pixel of the view.
    pub(super) fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (self.origin + x as isize * self.step_x + y as isize * self.step_y) as usize;
        match self.samples {
            Samples::Grey8(grey) => [grey[at]; 3],
            Samples::Grey16(grey) => [self.narrow(grey[at]); 3],
            Samples::Rgb8(rgb) => [rgb[3 * at], rgb[3 * at + 1], rgb[3 * at + 2]],
            Samples::Rgba8(rgba) => {
                let (colour, alpha) = ([rgba[4 * at], rgba[4 * at + 1], rgba[4 * at + 2]], rgba[4 * at + 3]);
                match self.alpha {
                    Alpha::Drop => colour,
                    Alpha::OverWhite => colour.map(|value| over_white(value, alpha)),
                }
            }
        }
    }

    fn narrow(&self, grey: u16) -> u8 {
        match self.wide_grey {
            WideGrey::Clip => grey.min(255) as u8,
            WideGrey::HighByte => (grey >> 8) as u8,
        }
    }
}

/// One channel of Pillow's `alpha_composite` onto opaque white (`AlphaComposite.c`): weights with 7 extra bits, then a
/// rounded division by 255.
fn over_white(value: u8, alpha: u8) -> u8 {
    const PRECISION_BITS: u32 = 7;
    let weight = u32::from(alpha) << PRECISION_BITS;
    let rest = (255 << PRECISION_BITS) - weight;
    let sum = u32::from(value) * weight + 255 * rest + (0x80 << PRECISION_BITS);
    ((((sum >> 8) + sum) >> 8) >> PRECISION_BITS) as u8
}
