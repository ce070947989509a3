//! Pillow's `BICUBIC` (`Resample.c`), bit for bit: antialiased by widening the kernel when shrinking, coefficients in
//! fixed point, a horizontal pass rounded to bytes, then a vertical one.
#![allow(clippy::inline_always)] // Everything that a task calls must be inlined into its body, see `simd::WithSimd`.

use super::lines::Lines;
use crate::decode::pixels::Pixels;
use crate::simd::{self, Simd, WithSimd};

/// Fraction bits of coefficients: 8 bits of result, 2 of head-room for the kernel's overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half the kernel's width in source pixels when nothing is shrunk.
const SUPPORT: f64 = 2.0;
/// Added once per sum, so that the final shift rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Samples that the horizontal pass multiplies by the same coefficient at a time: a few registers full.
const ABREAST: usize = 48;
/// The most bytes of several source lines side by side: about what the cache of a core holds.
const SIDE_BY_SIDE_BYTES: usize = 1 << 20;

/// The size for which the code is compiled once more: the input of VGG16 and most other networks.
const USUAL_SIZE: usize = 224;

/// The source pixels that make up one target pixel.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes to `size` x `size` pixels.
pub(super) fn resize(lines: &Lines<'_>, size: usize) -> Pixels {
    let rgb = if lines.is_grey() {
        let grey = simd::dispatch(Resize::<1> { lines, size });
        grey.into_iter().flat_map(|value| [value; 3]).collect()
    } else {
        simd::dispatch(Resize::<3> { lines, size }).into_boxed_slice()
    };
    Pixels { size, rgb }
}

/// The sums are those of two full passes, but without an intermediate image, which for a narrow and very tall source would be
/// many times larger than the source: each line is resized horizontally and added to the target lines that it is part of.
struct Resize<'a, const CHANNELS: usize> {
    lines: &'a Lines<'a>,
    size: usize,
}

impl<const CHANNELS: usize> WithSimd for Resize<'_, CHANNELS> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        // Loops of a constant length are a few per cent faster with three channels.
        if CHANNELS == 3 && self.size == USUAL_SIZE { self.resize(USUAL_SIZE) } else { self.resize(self.size) }
    }
}

impl<const CHANNELS: usize> Resize<'_, CHANNELS> {
    #[inline(always)]
    fn resize(&self, size: usize) -> Vec<u8> {
        let lines = self.lines;
        let (columns, rows) = (windows(lines.width(), size), windows(lines.height(), size));
        let mut group = Group::<CHANNELS>::new(lines, size);
        let mut resized = vec![[0; CHANNELS]; size];
        let mut sums = vec![HALF; size * size * CHANNELS];
        let mut oldest = 0;
        for start in (0..lines.height()).step_by(group.lines) {
            group.resize(lines, start, &columns);
            for y in start..lines.height().min(start + group.lines) {
                group.resized_line(y - start, &mut resized);
                // Windows move down with their target line, so those that contain a source line are neighbours.
                while oldest < size && rows[oldest].first + rows[oldest].weights.len() <= y {
                    oldest += 1;
                }
                for (window, sums) in rows.iter().zip(sums.chunks_exact_mut(size * CHANNELS)).skip(oldest) {
                    let Some(tap) = y.checked_sub(window.first) else { break };
                    if let Some(&weight) = window.weights.get(tap) {
                        add(sums, resized.as_flattened(), weight);
                    }
                }
            }
        }
        sums.iter().map(|&sum| clip(sum)).collect()
    }
}

/// A few lines of the source side by side, so that neighbouring samples have the same coefficient: for each x the pixels of all
/// lines.
struct Group<const CHANNELS: usize> {
    lines: usize,
    /// `[x][line]`
    source: Vec<[u8; CHANNELS]>,
    /// The same, resized horizontally.
    resized: Vec<[u8; CHANNELS]>,
    /// `[line][channel]` of one x.
    sums: Vec<i32>,
    /// Room for one line.
    line: Vec<u8>,
}

impl<const CHANNELS: usize> Group<CHANNELS> {
    fn new(source: &Lines<'_>, size: usize) -> Self {
        let line = source.width() * CHANNELS;
        let lines = (ABREAST / CHANNELS).min(SIDE_BY_SIDE_BYTES / line).clamp(1, source.height());
        Self {
            lines,
            source: vec![[0; CHANNELS]; source.width() * lines],
            resized: vec![[0; CHANNELS]; size * lines],
            sums: vec![0; CHANNELS * lines],
            line: vec![0; line],
        }
    }

    /// The horizontal pass for the lines from `start` on. If fewer lines are left, the rest keeps old values.
    #[inline(always)]
    fn resize(&mut self, lines: &Lines<'_>, start: usize, columns: &[Window]) {
        for (number, y) in (start..lines.height()).take(self.lines).enumerate() {
            let (pixels, _) = lines.line(y, CHANNELS, &mut self.line).as_chunks::<CHANNELS>();
            for (to, pixel) in self.source[number..].iter_mut().step_by(self.lines).zip(pixels) {
                *to = *pixel;
            }
        }
        for (to, window) in self.resized.chunks_exact_mut(self.lines).zip(columns) {
            self.sums.fill(HALF);
            let pixels = self.source[window.first * self.lines..].chunks_exact(self.lines);
            for (pixels, &weight) in pixels.zip(&window.weights) {
                add(&mut self.sums, pixels.as_flattened(), weight);
            }
            for (value, &sum) in to.as_flattened_mut().iter_mut().zip(&self.sums) {
                *value = clip(sum);
            }
        }
    }

    /// One of the resized lines, by its number in the group.
    #[inline(always)]
    fn resized_line(&self, number: usize, to: &mut [[u8; CHANNELS]]) {
        for (to, pixel) in to.iter_mut().zip(self.resized[number..].iter().step_by(self.lines)) {
            *to = *pixel;
        }
    }
}

#[inline(always)]
fn add(sums: &mut [i32], samples: &[u8], weight: i32) {
    for (sum, &sample) in sums.iter_mut().zip(samples) {
        *sum += i32::from(sample) * weight;
    }
}

#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The windows of `size` target pixels over `length` source pixels (`precompute_coeffs`, `normalize_coeffs_8bpc`).
fn windows(length: usize, size: usize) -> Vec<Window> {
    if length == size {
        // Pillow leaves out a pass that changes nothing.
        return (0..length).map(|first| Window { first, weights: vec![1 << PRECISION_BITS] }).collect();
    }
    let scale = length as f64 / size as f64;
    let filter_scale = scale.max(1.0);
    let support = SUPPORT * filter_scale;
    (0..size)
        .map(|target| {
            let center = (target as f64 + 0.5) * scale;
            // Float to integer saturates at 0, as Pillow clamps.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(length);
            let inverse = 1.0 / filter_scale;
            let kernel: Vec<f64> =
                (0..end - first).map(|x| cubic(((x + first) as f64 - center + 0.5) * inverse)).collect();
            let total: f64 = kernel.iter().sum();
            let fixed = |weight: f64| {
                let scaled = if total == 0.0 { weight } else { weight / total } * f64::from(1 << PRECISION_BITS);
                // Rounds half away from zero.
                (scaled + 0.5f64.copysign(scaled)) as i32
            };
            Window { first, weights: kernel.into_iter().map(fixed).collect() }
        })
        .collect()
}

/// The cubic convolution kernel with `a = -0.5` (Keys, "Cubic Convolution Interpolation for Digital Image
/// Processing", 1981), in Pillow's order of operations.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use image::metadata::Orientation;

    use super::super::lines::{Alpha, WideGrey};
    use super::*;
    use crate::decode::raster::{Raster, Samples};
    use crate::decode::{Format, Size};

    /// One pass over the whole image, `[line][x]`, along its lines; the result lies the other way, `[x][line]`.
    fn pass<const CHANNELS: usize>(pixels: &[[u8; CHANNELS]], length: usize, size: usize) -> Vec<[u8; CHANNELS]> {
        let resized = |window: &Window, line: &[[u8; CHANNELS]]| {
            let taps = || window.weights.iter().zip(&line[window.first..]);
            std::array::from_fn(|channel| {
                let sum: i32 = taps().map(|(weight, pixel)| weight * i32::from(pixel[channel])).sum();
                ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
            })
        };
        let windows = windows(length, size);
        windows.iter().flat_map(|window| pixels.chunks(length).map(move |line| resized(window, line))).collect()
    }

    fn two_passes<const CHANNELS: usize>(
        pixels: &[u8],
        (width, height): (usize, usize),
        size: usize,
    ) -> Vec<[u8; CHANNELS]> {
        pass(&pass(pixels.as_chunks().0, width, size), height, size)
    }

    #[test]
    fn line_by_line_is_the_same_as_two_passes() {
        // Lines of 60,000 pixels leave room for few side by side, and those of 400,000 for one.
        for (width, height, size) in [
            (1, 1, 224),
            (500, 375, 224),
            (31, 47, 224),
            (224, 90, 224),
            (100, 224, 224),
            (3, 2_000, 224),
            (60_000, 20, 224),
            (400_000, 3, 224),
            (500, 375, 336),
            (336, 20, 336),
            (40, 30, 7),
        ] {
            let samples: Vec<u8> =
                (0..width * height * 3).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let grey = samples[..width * height].to_vec();
            let expected: Vec<_> =
                two_passes::<1>(&grey, (width, height), size).iter().flat_map(|[value]| [*value; 3]).collect();
            let resized = |samples| {
                let raster = Raster {
                    samples,
                    size: Size { width: width as u32, height: height as u32 },
                    orientation: Orientation::NoTransforms,
                    missing: 0.0,
                    format: Format::Png,
                };
                let lines = Lines::new(&raster, Alpha::OverWhite, WideGrey::HighByte);
                resize(&lines, size).as_rgb().to_vec()
            };
            assert!(resized(Samples::Grey8(grey)) == expected, "{width} x {height} to {size}, grey");
            let expected = two_passes::<3>(&samples, (width, height), size);
            assert!(resized(Samples::Rgb8(samples)) == expected.as_flattened(), "{width} x {height} to {size}");
        }
    }
}
