//! The first frame of a GIF, on its canvas as Pillow puts it there: garbage between blocks is passed over, unknown
//! blocks too, and a file may end after the frame.

mod blocks;
mod lzw;

use image::metadata::Orientation;

use self::blocks::Frame;
use super::raster::{Limits, Raster, Samples, gathered, malformed};
use super::{Error, Format, Size};

/// The size of the canvas, checked. A frame that reaches beyond it widens it.
pub(super) fn measure(bytes: &[u8], limits: &Limits) -> Result<Size, Error> {
    Ok(Frame::first(bytes, limits)?.canvas)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let frame = Frame::first(bytes, limits)?;
    // Around the frame lies the transparent colour, or colour 0.
    let mut canvas = vec![frame.transparent.unwrap_or(0); frame.canvas.pixels() as usize];
    lzw::decode(&frame, &mut canvas)?;

    let color = |index: u8| -> [u8; 3] {
        match frame.palette {
            // Without a palette the indices are shades of grey.
            None => [index; 3],
            // What a palette does not have is black.
            Some(palette) => palette.as_chunks().0.get(usize::from(index)).copied().unwrap_or_default(),
        }
    };
    let pixels = canvas.iter().copied();
    let samples = match frame.transparent {
        None => Samples::Rgb8(gathered(frame.canvas, pixels.map(color))),
        Some(key) => Samples::Rgba8(gathered(
            frame.canvas,
            pixels.map(|index| {
                let [r, g, b] = color(index);
                [r, g, b, if index == key { 0 } else { 255 }]
            }),
        )),
    };
    Ok(Raster {
        size: frame.canvas,
        format: Format::Gif,
        samples,
        orientation: Orientation::NoTransforms,
        missing: 0.0,
    })
}

fn damaged(reason: impl Into<String>) -> Error {
    malformed(Format::Gif, reason)
}

fn cut() -> Error {
    damaged("the file ends before the image does")
}
