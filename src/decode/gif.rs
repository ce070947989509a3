//! The first frame of a GIF, on its canvas as Pillow puts it there.
//!
//! Uses the `gif` crate directly, because the `image` crate drops the colour of a transparent pixel, which a model that ignores
//! alpha sees.

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};
use image::metadata::Orientation;

use super::raster::{Limits, Raster, Samples, malformed};
use super::{Error, Format, Size};

/// A decoder that has read up to the first frame.
pub(super) struct Opened<'a> {
    decoder: Decoder<&'a [u8]>,
    /// Of the canvas. A frame that reaches beyond the canvas widens it.
    pub(super) size: Size,
    frame: Size,
    left: u32,
    top: u32,
    transparent: Option<u8>,
}

/// Reads up to the first frame, and checks the sizes.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Opened<'a>, Error> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(
        std::num::NonZeroU64::new(limits.max_pixels).unwrap_or(std::num::NonZeroU64::MIN),
    ));
    let mut decoder = options.read_info(bytes).map_err(|error| decoder_error(&error))?;
    let (canvas_width, canvas_height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let first = decoder.next_frame_info().map_err(|error| decoder_error(&error))?;
    let first = first.ok_or_else(|| malformed(Format::Gif, "it has no frame"))?;
    let (left, top) = (u32::from(first.left), u32::from(first.top));
    let frame = Size { width: first.width.into(), height: first.height.into() };
    let transparent = first.transparent;
    let size = Size { width: canvas_width.max(left + frame.width), height: canvas_height.max(top + frame.height) };
    limits.check(Format::Gif, size)?;
    limits.check(Format::Gif, frame)?;
    Ok(Opened { decoder, size, frame, left, top, transparent })
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let Opened { mut decoder, size, frame, left, top, transparent } = open(bytes, limits)?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(|error| decoder_error(&error))?;
    let palette = decoder.palette().unwrap_or_default();
    let color = |index: u8| -> [u8; 3] {
        let at = usize::from(index) * 3;
        // Pillow's palettes begin as a grey ramp, and so does an image without any.
        palette.get(at..at + 3).map_or([index; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
    };

    // Around the frame lies the transparent colour, or colour 0.
    let mut canvas = vec![transparent.unwrap_or(0); size.pixels() as usize];
    let stride = size.width as usize;
    let rows = canvas.chunks_exact_mut(stride).skip(top as usize);
    for (row, line) in rows.zip(indices.chunks_exact(frame.width as usize)) {
        row[left as usize..][..frame.width as usize].copy_from_slice(line);
    }
    let samples = match transparent {
        None => Samples::Rgb8(canvas.iter().flat_map(|&index| color(index)).collect()),
        Some(key) => Samples::Rgba8(
            canvas
                .iter()
                .flat_map(|&index| {
                    let [r, g, b] = color(index);
                    [r, g, b, if index == key { 0 } else { 255 }]
                })
                .collect(),
        ),
    };
    Ok(Raster { size, format: Format::Gif, samples, orientation: Orientation::NoTransforms, missing: 0.0 })
}

fn decoder_error(error: &DecodingError) -> Error {
    malformed(Format::Gif, error.to_string())
}
