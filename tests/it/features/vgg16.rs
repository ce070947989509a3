//! Features of VGG16 equal an independent computation of the same network, and are the same on every kernel.
//!
//! `tests/fixtures/make_fixtures.py` makes the expected rows with Pillow and onnxruntime from the same weights.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgdex::testing::decode::Pixels;
use imgdex::testing::model::Manifest;
use imgdex::testing::model::Model;
use imgdex::testing::model::{Compute, KernelChoice, PlanChoice};
use imgdex::testing::model::{Maps, Vgg16};
use serde::Deserialize;

use crate::support::decoders::decoder;
use crate::support::model_folder;

const DIMS: usize = 512;
/// The least cosine: the pixels are the same, so only the order of additions differs.
const LEAST: f64 = 0.99999;

#[derive(Deserialize)]
struct Fixture {
    file: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixtures() -> Vec<Fixture> {
    serde_json::from_str(&std::fs::read_to_string(folder().join("index.json")).unwrap()).unwrap()
}

/// The expected features, one row per fixture.
fn expected(model: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(folder().join(format!("expected/{model}.f32"))).unwrap();
    let values: Vec<_> = bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    values.chunks(DIMS).map(<[f32]>::to_vec).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn embed(model: &str) -> BTreeMap<String, Vec<f32>> {
    #[derive(Deserialize)]
    struct Line {
        source: String,
        embedding: Vec<f32>,
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgdex"));
    command.args(["embed", "--allow-tiff", "--model", model]).current_dir(folder().join("images"));
    let output = command.args(fixtures().iter().map(|fixture| &fixture.file)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
    lines.map(|Line { source, embedding }| (source, embedding)).collect()
}

fn agrees(model: &str) {
    let (expected, found) = (expected(model), embed(model));
    let mut wrong = Vec::new();
    for (fixture, expected) in fixtures().iter().zip(&expected) {
        let cosine = cosine(&found[&fixture.file], expected);
        println!("{model:12} {:28} {cosine:.7}", fixture.file);
        if cosine < LEAST {
            wrong.push(format!("{}: {cosine}, less than {LEAST}", fixture.file));
        }
    }
    assert_eq!(found.len(), expected.len());
    assert!(wrong.is_empty(), "{model}: {wrong:#?}");
}

#[test]
fn vgg16_agrees_with_an_independent_network() {
    agrees("vgg16");
}

#[test]
fn vgg16_keras_agrees_with_an_independent_network() {
    agrees("vgg16-keras");
}

/// The decoded and sampled fixtures.
async fn pixels(manifest: &Manifest) -> Vec<Pixels> {
    let decoder = decoder(manifest.sampling());
    let mut pixels = Vec::new();
    for fixture in fixtures() {
        let bytes = std::fs::read(folder().join("images").join(&fixture.file)).unwrap();
        pixels.push(decoder.decode(bytes.into()).await.unwrap().pixels);
    }
    pixels
}

/// The features of the fixtures by a kernel, in batches of a size.
fn features(model: &mut dyn Model, pixels: &[Pixels], batch: usize) -> Vec<Vec<f32>> {
    let batches = pixels.chunks(batch).flat_map(|batch| model.embed(batch).unwrap());
    batches.map(|features| features.unwrap().as_slice().to_vec()).collect()
}

/// Every kernel that this machine has. The others are printed.
fn kernels() -> impl Iterator<Item = KernelChoice> {
    [KernelChoice::Avx512, KernelChoice::Avx2, KernelChoice::Portable].into_iter().filter(|&kernel| {
        let found = Compute { kernel, ..Compute::default() }.check();
        found.inspect_err(|error| println!("{error}")).is_ok()
    })
}

fn load(manifest: &Manifest, kernel: KernelChoice, plan: PlanChoice) -> Vgg16 {
    load_with(manifest, &Compute { kernel, plan, no_packed_file: true, threads: None })
}

fn load_with(manifest: &Manifest, compute: &Compute) -> Vgg16 {
    imgdex::testing::model::load_vgg16(manifest, &model_folder(), compute).unwrap()
}

/// Each sum is added up in the same order for any number of threads.
#[tokio::test]
async fn any_number_of_threads_gives_the_same_features() {
    let manifest = Manifest::find("vgg16").unwrap();
    let pixels = pixels(&manifest).await;
    let compute = |threads| Compute { threads: NonZeroUsize::new(threads), no_packed_file: true, ..Compute::default() };
    let alone = features(&mut load_with(&manifest, &compute(1)), &pixels[..8], 8);
    for threads in [2, 3, 5, 17, 70] {
        let mut model = load_with(&manifest, &compute(threads));
        for batch in [1, 3, 8] {
            // Far more threads than cores: an image is enough.
            let images = if threads > 5 { batch } else { 8 };
            let found = features(&mut model, &pixels[..images], batch);
            assert!(found == alone[..images], "{threads} threads, batches of {batch}");
        }
    }
}

#[tokio::test]
async fn intermediate_maps_agree_with_the_stock_network() {
    let manifest = Manifest::find("vgg16").unwrap();
    let pixels = &pixels(&manifest).await[..3];
    let values = |Maps { features, block4_pool, block5_pool }: Maps| {
        [features, block4_pool, block5_pool]
            .map(|map| (map.dims().to_vec(), map.flatten_all().unwrap().to_vec1::<f32>().unwrap()))
    };
    let stock = values(load(&manifest, KernelChoice::Candle, PlanChoice::Auto).maps(pixels).unwrap());
    for kernel in kernels() {
        let found = values(load(&manifest, kernel, PlanChoice::Fast).maps(pixels).unwrap());
        for ((dims, found), (expected_dims, expected)) in found.iter().zip(&stock) {
            assert_eq!(dims, expected_dims);
            let largest = expected.iter().copied().fold(0.0, f32::max);
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{kernel:?} {dims:?}: {worst}");
        }
    }
}

/// Every kernel that this machine has, with either plan, against Candle's own convolutions.
#[tokio::test]
async fn every_kernel_agrees_with_the_stock_convolutions_in_batches_of_any_size() {
    let manifest = Manifest::find("vgg16").unwrap();
    let pixels = pixels(&manifest).await;
    let stock = features(&mut load(&manifest, KernelChoice::Candle, PlanChoice::Auto), &pixels, 8);
    for kernel in kernels() {
        for plan in [PlanChoice::Fast, PlanChoice::Small] {
            let mut model = load(&manifest, kernel, plan);
            let (mut least, mut worst) = (1.0_f64, 0.0_f32);
            // The sizes in turn cover all images twice. Portable code is slow without optimisation.
            let mut numbers = (0..pixels.len()).cycle();
            let largest = if (kernel, plan) == (KernelChoice::Portable, PlanChoice::Small) { 8 } else { 16 };
            for size in 1..=largest {
                let numbers: Vec<_> = numbers.by_ref().take(size).collect();
                let batch: Vec<_> = numbers.iter().map(|number| pixels[*number].clone()).collect();
                let expected = numbers.iter().map(|number| &stock[*number]);
                for (found, expected) in features(&mut model, &batch, size).iter().zip(expected) {
                    least = least.min(cosine(found, expected));
                    let largest = expected.iter().copied().fold(0.0, f32::max);
                    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / largest);
                    worst = worst.max(differences.fold(0.0, f32::max));
                }
            }
            println!("{kernel:?} {plan:?}: 1 - cosine {:.1e}, element {worst:.1e}", 1.0 - least);
            assert!(least >= 0.999_999, "{kernel:?} {plan:?}: {least}");
            assert!(worst <= 1e-4, "{kernel:?} {plan:?}: {worst}");
        }
    }
}
