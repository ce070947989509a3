//! Single convolutions of odd shapes, in every kernel that this machine has.

use std::num::NonZeroUsize;

use fastrand::Rng;

use super::super::convolve::{ConvolutionPass, Input, Scratch, points_len};
use super::super::geometry::{Convolution, Tile};
use super::super::maps::{Map, SharedFloats};
use super::super::pack::pack_convolution;
use super::super::threads::Threads;
use crate::simd::Buffer;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd};

/// Largest error of an output, as a part of the largest sum of what is added up, signs aside. Tiles of seven lose about
/// two digits.
const TOLERANCE: f64 = 3e-5;

/// A convolution of a shape that no network has.
struct Shape {
    inputs: usize,
    outputs: usize,
    size: usize,
    pool: bool,
    tile: Tile,
    images: usize,
    block: usize,
    threads: usize,
}

impl Shape {
    fn any(rng: &mut Rng) -> Self {
        Self {
            inputs: 16 * rng.usize(1..=3),
            outputs: 32 * rng.usize(1..=3),
            size: rng.usize(1..=30),
            pool: rng.bool(),
            tile: if rng.bool() { Tile::Four } else { Tile::Seven },
            images: rng.usize(1..=3),
            block: rng.usize(1..=40),
            threads: rng.usize(1..=3),
        }
    }
}

/// `[image][output][row][column]`, directly, in double precision, and the largest sum of absolute values.
fn direct(shape: &Shape, input: &[f32], weights: &[f32], bias: &[f32]) -> (Vec<f64>, f64) {
    let &Shape { inputs, outputs, size, pool, images, .. } = shape;
    let at = |image: usize, channel: usize, y: usize, x: usize| {
        // Positions are counted from one, so that the border has numbers too.
        let inside = (1..=size).contains(&y) && (1..=size).contains(&x);
        if inside { f64::from(input[((image * inputs + channel) * size + y - 1) * size + x - 1]) } else { 0.0 }
    };
    let (mut full, mut largest) = (vec![0.0; images * outputs * size * size], 0.0_f64);
    for (number, value) in full.iter_mut().enumerate() {
        let (x, y) = (number % size, number / size % size);
        let (output, image) = (number / size / size % outputs, number / size / size / outputs);
        let mut sum = f64::from(bias[output]);
        let mut absolute = sum.abs();
        for channel in 0..inputs {
            for tap in 0..9 {
                let weight = f64::from(weights[(output * inputs + channel) * 9 + tap]);
                let product = weight * at(image, channel, y + tap / 3, x + tap % 3);
                sum += product;
                absolute += product.abs();
            }
        }
        largest = largest.max(absolute);
        *value = sum.max(0.0);
    }
    if !pool {
        return (full, largest);
    }
    let half = size / 2;
    let pooled = (0..images * outputs * half * half).map(|number| {
        let (x, y, plane) = (number % half * 2, number / half % half * 2, number / half / half);
        let at = |dy, dx| full[(plane * size + y + dy) * size + x + dx];
        at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1))
    });
    (pooled.collect(), largest)
}

/// The same by a kernel.
fn fused<S: Simd>(simd: S, shape: &Shape, input: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let &Shape { inputs, outputs, size, pool, tile, images, block, threads } = shape;
    let points = tile.points() * inputs * outputs;
    let convolution = Convolution {
        inputs,
        outputs,
        size,
        pool,
        tile,
        group: 32,
        block: block.next_multiple_of(4),
        weights: 0..points,
        bias: points..points + outputs,
    };
    let mut packed = Buffer::new(points + outputs);
    pack_convolution::<S>(&convolution, weights, &mut packed[..points]);
    packed[points..points + outputs].copy_from_slice(bias);

    let map = Map::bordered(size, inputs, S::LANES, convolution.extent());
    let mut source = Buffer::new(map.image() * images);
    for (number, value) in input.iter().enumerate() {
        let (x, y, plane) = (number % size, number / size % size, number / size / size);
        let (channel, image) = (plane % inputs, plane / inputs);
        let offset = map.position(image, y, x) + channel / S::LANES * map.plane() + channel % S::LANES;
        source[offset] = *value;
    }
    let target_map = Map::bare(convolution.output_size(), outputs, S::LANES);
    let mut target = Buffer::new(target_map.image() * images);
    let mut shared_points = Buffer::new(points_len::<S>(&convolution, convolution.block));
    let threads = Threads::new(NonZeroUsize::new(threads)).unwrap();
    let (source, target_shared, shared_points) =
        (SharedFloats::new(&mut source), SharedFloats::new(&mut target), SharedFloats::new(&mut shared_points));
    threads.run(|worker| {
        let pass = ConvolutionPass {
            convolution: &convolution,
            packed: &packed,
            input: Input::Map(source, map),
            target: (target_shared, target_map),
            images,
            from_image: 0,
            to_image: 0,
            shared_points,
        };
        pass.run(simd, worker, &mut Scratch::new());
    });
    let mut values = Vec::new();
    target_map.copy_out(&target, images, &mut values);
    values
}

fn check<S: Simd>(simd: S) {
    let mut worst = 0.0_f64;
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::any(&mut rng);
        let mut floats = |count: usize, scale: f32| (0..count).map(|_| (rng.f32() - 0.5) * scale).collect::<Vec<_>>();
        let input = floats(shape.images * shape.inputs * shape.size * shape.size, 100.0);
        let weights = floats(shape.outputs * shape.inputs * 9, 0.1);
        let bias = floats(shape.outputs, 10.0);
        let (expected, largest) = direct(&shape, &input, &weights, &bias);
        let found = fused(simd, &shape, &input, &weights, &bias);
        assert_eq!(expected.len(), found.len());
        let error = expected.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs() / largest).fold(0.0, f64::max);
        let Shape { inputs, outputs, size, pool, tile, images, block, threads } = shape;
        assert!(
            error < TOLERANCE,
            "seed {seed}: {error:e} with {inputs} inputs, {outputs} outputs, size {size}, pool {pool}, {tile:?}, {images} \
             images, block {block}, {threads} threads"
        );
        worst = worst.max(error);
    }
    println!("worst error {worst:.1e}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx512_agrees_with_direct_convolutions() {
    match Avx512::detect() {
        Some(simd) => check(simd),
        None => println!("this machine has no AVX-512"),
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx2_agrees_with_direct_convolutions() {
    match Avx2::detect() {
        Some(simd) => check(simd),
        None => println!("this machine has no AVX2"),
    }
}

#[test]
fn portable_code_agrees_with_direct_convolutions() {
    check(Portable);
}
