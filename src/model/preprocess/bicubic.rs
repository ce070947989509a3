//! Pillow's `BICUBIC` (`Resample.c`), bit for bit: antialiased by widening the kernel when shrinking, coefficients in
//! fixed point, a horizontal pass rounded to bytes, then a vertical one.

use super::line::Lines;
use crate::model::{INPUT_SIZE, Pixels};

/// Fraction bits of coefficients: 8 bits of result, 2 of head-room for the kernel's overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half the kernel's width in source pixels when nothing is shrunk.
const SUPPORT: f64 = 2.0;
/// Added once per sum, so that the final shift rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The source pixels that one target pixel is made of.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes to the network's input.
///
/// Source lines are taken one at a time: each is resized horizontally and added to the target lines that it is part of.
/// The sums are those of two full passes, without an intermediate image, which for a narrow and very tall source would
/// be many times larger than the source.
pub(super) fn resize(lines: &Lines<'_>) -> Pixels {
    let channels = if lines.is_grey() { 1 } else { 3 };
    let (columns, rows) = (windows(lines.width()), windows(lines.height()));
    let mut buffer = vec![0; lines.width() * channels];
    let mut resized = vec![0; INPUT_SIZE * channels];
    let mut sums = vec![HALF; INPUT_SIZE * INPUT_SIZE * channels];
    let mut oldest = 0;
    for y in 0..lines.height() {
        horizontal(lines.line(y, channels, &mut buffer), &columns, channels, &mut resized);
        // Windows move down with their target line, so those over a source line are neighbours.
        while oldest < INPUT_SIZE && rows[oldest].first + rows[oldest].weights.len() <= y {
            oldest += 1;
        }
        let stride = INPUT_SIZE * channels;
        for (window, sums) in rows.iter().zip(sums.chunks_exact_mut(stride)).skip(oldest) {
            let Some(tap) = y.checked_sub(window.first) else { break };
            if let Some(&weight) = window.weights.get(tap) {
                for (sum, &value) in sums.iter_mut().zip(&resized) {
                    *sum += i32::from(value) * weight;
                }
            }
        }
    }
    let rgb = sums.chunks_exact(channels).flat_map(|pixel| {
        let color = |channel: usize| clip(pixel[channel.min(channels - 1)]);
        [color(0), color(1), color(2)]
    });
    Pixels(rgb.collect())
}

fn horizontal(source: &[u8], columns: &[Window], channels: usize, resized: &mut [u8]) {
    for (target, window) in resized.chunks_exact_mut(channels).zip(columns) {
        let taps = source[window.first * channels..].chunks_exact(channels).zip(&window.weights);
        let mut sums = [HALF; 3];
        for (pixel, &weight) in taps {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, sum) in target.iter_mut().zip(sums) {
            *value = clip(sum);
        }
    }
}

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
