//! Features equal those of Keras: `imgdex embed` against an independent computation of the same network.
//!
//! `tests/fixtures/make_fixtures.py` makes the expected rows with Pillow and onnxruntime from the same weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgdex::decode::{Decoder, Settings};
use imgdex::model::manifest::Manifest;
use serde::Deserialize;

use crate::support::model_folder;

const DIMS: usize = 512;

#[derive(Deserialize)]
struct Fixture {
    file: String,
    /// `exact` where the decoded pixels agree, `jpeg` where two decoders round differently.
    decoder: String,
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
        let least = if fixture.decoder == "exact" { 0.99999 } else { 0.999 };
        let cosine = cosine(&found[&fixture.file], expected);
        println!("{model:12} {:28} {:6} {cosine:.7}", fixture.file, fixture.decoder);
        if cosine < least {
            wrong.push(format!("{}: {cosine}, less than {least}", fixture.file));
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

#[tokio::test]
async fn a_batch_equals_its_images_one_by_one() {
    let manifest = Manifest::find("vgg16").unwrap();
    let decoder = Decoder::new(Settings {
        preprocess: manifest.preprocess(),
        max_pixels: 1_000_000,
        allow_tiff: true,
        permits: 2,
        timeout: std::time::Duration::from_mins(1),
    });
    let mut batch = Vec::new();
    for fixture in fixtures().iter().step_by(7).take(8) {
        let bytes = std::fs::read(folder().join("images").join(&fixture.file)).unwrap();
        batch.push(decoder.decode(bytes.into()).await.unwrap().pixels);
    }
    assert_eq!(batch.len(), 8);
    let mut model = imgdex::model::load(&manifest, &model_folder(), None).unwrap();
    let together = model.embed(&batch).unwrap();
    for (pixels, together) in batch.iter().zip(together) {
        let alone = model.embed(std::slice::from_ref(pixels)).unwrap().remove(0).unwrap();
        let cosine = cosine(alone.as_slice(), together.unwrap().as_slice());
        assert!(cosine >= 0.999_999, "{cosine}");
    }
}
