//! Weights to the form that the kernels read, computed in double precision.

use rayon::prelude::*;

use super::ConvWeights;
use super::first_layer::TAPS;
use super::geometry::{Convolution, Tile};
use super::multiply::PANEL;
use super::plan::Layout;
use super::transform::{Algorithm, F4, F7};
use crate::simd::Simd;

/// Packs the weights of the whole network.
///
/// # Panics
/// When the weights are not those of VGG16.
pub(super) fn pack<S: Simd>(layout: &Layout, weights: &[ConvWeights], packed: &mut [f32]) {
    assert_eq!(weights.len(), layout.convolutions.len() + 1, "VGG16 has thirteen convolutions");
    pack_first::<S>(&weights[0].weights, &mut packed[layout.first.clone()]);
    packed[layout.first_bias.clone()].copy_from_slice(&weights[0].bias);
    for (convolution, ConvWeights { weights, bias }) in layout.convolutions.iter().zip(&weights[1..]) {
        let &Convolution { inputs, outputs, .. } = convolution;
        assert_eq!((weights.len(), bias.len()), (inputs * outputs * 9, outputs));
        packed[convolution.bias.clone()].copy_from_slice(bias);
        pack_convolution::<S>(convolution, weights, &mut packed[convolution.weights.clone()]);
    }
}

/// From weights `[output][channel][row][column]` to `[panel][tap][output]`.
fn pack_first<S: Simd>(weights: &[f32], packed: &mut [f32]) {
    assert_eq!(weights.len(), packed.len());
    let width = PANEL * S::LANES;
    for (output, taps) in weights.chunks_exact(TAPS).enumerate() {
        for (tap, &weight) in taps.iter().enumerate() {
            packed[(output / width * TAPS + tap) * width + output % width] = weight;
        }
    }
}

/// Transforms weights `[output][input][row][column]`.
pub(super) fn pack_convolution<S: Simd>(convolution: &Convolution, weights: &[f32], packed: &mut [f32]) {
    match convolution.tile {
        Tile::Four => transform::<S, F4, 4, 6>(convolution, weights, packed),
        Tile::Seven => transform::<S, F7, 7, 9>(convolution, weights, packed),
    }
}

/// Packs groups of outputs in parallel: `[group][point][panel][input][output]`.
fn transform<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
    convolution: &Convolution,
    weights: &[f32],
    packed: &mut [f32],
) {
    let &Convolution { inputs, group, .. } = convolution;
    let width = PANEL * S::LANES;
    let groups = packed.par_chunks_exact_mut(A * A * inputs * group).zip(weights.par_chunks_exact(group * inputs * 9));
    groups.for_each(|(packed, weights)| {
        for (number, filter) in weights.as_chunks::<9>().0.iter().enumerate() {
            let (output, input) = (number / inputs, number % inputs);
            let at = (output / width * inputs + input) * width + output % width;
            for (point, value) in filter_points::<F, M, A>(filter).as_flattened().iter().enumerate() {
                packed[point * inputs * group + at] = *value as f32;
            }
        }
    });
}

/// `filter * g * transposed filter` for the weights `g` of one input and output.
fn filter_points<F: Algorithm<M, A>, const M: usize, const A: usize>(weights: &[f32; 9]) -> [[f64; A]; A] {
    let matrix = const { F::MATRICES.filter };
    let dot = |row: &[f64; 3], column: [f64; 3]| row[0] * column[0] + row[1] * column[1] + row[2] * column[2];
    let columns: [[f64; 3]; A] = std::array::from_fn(|i| {
        std::array::from_fn(|x| dot(&matrix[i], std::array::from_fn(|y| f64::from(weights[y * 3 + x]))))
    });
    std::array::from_fn(|i| std::array::from_fn(|j| dot(&matrix[j], columns[i])))
}
