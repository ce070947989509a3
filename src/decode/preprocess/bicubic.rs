//! Pillow's `BICUBIC` (`Resample.c`), bit for bit: antialiased by widening the kernel when shrinking, coefficients in
//! fixed point, a horizontal pass rounded to bytes, then a vertical one.
#![allow(clippy::inline_always)] // What a task calls must land in its body, see `simd::Task`.

use super::lines::Lines;
use crate::decode::pixels::{INPUT_SIZE, Pixels};
use crate::simd::{self, Simd, Task};

/// Fraction bits of coefficients: 8 bits of result, 2 of head-room for the kernel's overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half the kernel's width in source pixels when nothing is shrunk.
const SUPPORT: f64 = 2.0;
/// Added once per sum, so that the final shift rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Samples that are summed up with the same coefficient at a time in the horizontal pass: a few registers full.
const ABREAST: usize = 48;
/// The most that several source lines side by side may take; a core's cache holds about as much.
const SIDE_BY_SIDE_BYTES: usize = 1 << 20;

/// The source pixels that one target pixel is made of.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes to the network's input.
pub(super) fn resize(lines: &Lines<'_>) -> Pixels {
    Pixels(if lines.is_grey() {
        let grey = simd::vectorize(Resize::<1>(lines));
        grey.into_iter().flat_map(|value| [value; 3]).collect()
    } else {
        simd::vectorize(Resize::<3>(lines)).into_boxed_slice()
    })
}

/// The sums are those of two full passes, without an intermediate image, which for a narrow and very tall source would be
/// many times larger than the source: each line is resized horizontally and added to the target lines that it is part of.
struct Resize<'a, const CHANNELS: usize>(&'a Lines<'a>);

impl<const CHANNELS: usize> Task for Resize<'_, CHANNELS> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<u8> {
        let lines = self.0;
        let (columns, rows) = (windows(lines.width()), windows(lines.height()));
        let mut group = Group::<CHANNELS>::new(lines);
        let mut resized = [[0; CHANNELS]; INPUT_SIZE];
        let mut sums = vec![HALF; INPUT_SIZE * INPUT_SIZE * CHANNELS];
        let mut oldest = 0;
        for start in (0..lines.height()).step_by(group.lines) {
            group.resize(lines, start, &columns);
            for y in start..lines.height().min(start + group.lines) {
                group.resized_line(y - start, &mut resized);
                // Windows move down with their target line, so those over a source line are neighbours.
                while oldest < INPUT_SIZE && rows[oldest].first + rows[oldest].weights.len() <= y {
                    oldest += 1;
                }
                for (window, sums) in rows.iter().zip(sums.chunks_exact_mut(INPUT_SIZE * CHANNELS)).skip(oldest) {
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

/// A few lines of the source, side by side so that a coefficient is good for neighbouring samples: for each x the pixels of
/// all lines.
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
    fn new(of: &Lines<'_>) -> Self {
        let line = of.width() * CHANNELS;
        let lines = (ABREAST / CHANNELS).min(SIDE_BY_SIDE_BYTES / line).clamp(1, of.height());
        Self {
            lines,
            source: vec![[0; CHANNELS]; of.width() * lines],
            resized: vec![[0; CHANNELS]; INPUT_SIZE * lines],
            sums: vec![0; CHANNELS * lines],
            line: vec![0; line],
        }
    }

    /// The horizontal pass for the lines from `start` on; where fewer are left, the rest is of no meaning.
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
    fn resized_line(&self, number: usize, to: &mut [[u8; CHANNELS]; INPUT_SIZE]) {
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

/// The windows of all target pixels over `length` source pixels (`precompute_coeffs`, `normalize_coeffs_8bpc`).
fn windows(length: usize) -> Vec<Window> {
    if length == INPUT_SIZE {
        // Pillow leaves out a pass that changes nothing.
        return (0..length).map(|first| Window { first, weights: vec![1 << PRECISION_BITS] }).collect();
    }
    let scale = length as f64 / INPUT_SIZE as f64;
    let filter_scale = scale.max(1.0);
    let support = SUPPORT * filter_scale;
    (0..INPUT_SIZE)
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
    fn pass<const CHANNELS: usize>(pixels: &[[u8; CHANNELS]], length: usize) -> Vec<[u8; CHANNELS]> {
        let resized = |window: &Window, line: &[[u8; CHANNELS]]| {
            let taps = || window.weights.iter().zip(&line[window.first..]);
            std::array::from_fn(|channel| {
                let sum: i32 = taps().map(|(weight, pixel)| weight * i32::from(pixel[channel])).sum();
                ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
            })
        };
        let windows = windows(length);
        windows.iter().flat_map(|window| pixels.chunks(length).map(move |line| resized(window, line))).collect()
    }

    fn two_passes<const CHANNELS: usize>(pixels: &[u8], width: usize, height: usize) -> Vec<[u8; CHANNELS]> {
        pass(&pass(pixels.as_chunks().0, width), height)
    }

    #[test]
    fn line_by_line_is_the_same_as_two_passes() {
        // The last two are so wide that there is room for few lines side by side, and for one.
        for (width, height) in
            [(1, 1), (500, 375), (31, 47), (224, 90), (100, 224), (3, 2_000), (60_000, 20), (400_000, 3)]
        {
            let samples: Vec<u8> =
                (0..width * height * 3).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let grey = samples[..width * height].to_vec();
            let expected: Vec<_> =
                two_passes::<1>(&grey, width, height).iter().flat_map(|[value]| [*value; 3]).collect();
            let resized = |samples| {
                let raster = Raster {
                    samples,
                    size: Size { width: width as u32, height: height as u32 },
                    orientation: Orientation::NoTransforms,
                    format: Format::Png,
                };
                resize(&Lines::new(&raster, Orientation::NoTransforms, Alpha::OverWhite, WideGrey::HighByte))
                    .as_rgb()
                    .to_vec()
            };
            assert!(resized(Samples::Grey8(grey)) == expected, "{width} x {height}, grey");
            let expected = two_passes::<3>(&samples, width, height);
            assert!(resized(Samples::Rgb8(samples)) == expected.as_flattened(), "{width} x {height}");
        }
    }
}
