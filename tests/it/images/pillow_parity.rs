//! Decoded and sampled pixels equal those of Pillow, in the fixtures of `tests/fixtures/make_fixtures.py`. `--nocapture` prints
//! the table.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use image::{DynamicImage, RgbImage};
use imgdex::testing::decode::{Limits, Raster, Samples, decode};
use imgdex::testing::decode::{Preprocess, Sampling};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::support::decoders::decoder;

const MODELS: [(&str, Preprocess); 2] = [("vgg16-keras", Preprocess::KerasImagenetV2), ("vgg16", Preprocess::Imgdex2)];

#[derive(Deserialize)]
struct Fixture {
    file: String,
    /// SHA-256 of the whole image in RGB.
    rgb: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixtures(list: &str) -> Vec<Fixture> {
    serde_json::from_slice(&std::fs::read(folder().join(list)).unwrap()).unwrap()
}

/// The largest difference of a channel, and the mean over all.
fn difference(ours: &[u8], expected: &[u8]) -> (u8, f64) {
    assert_eq!(ours.len(), expected.len());
    let differences = || ours.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    (differences().max().unwrap(), differences().map(f64::from).sum::<f64>() / ours.len() as f64)
}

/// The largest and the mean difference of sampled pixels from those of Pillow, or the error, for each fixture.
async fn pixel_differences(model: &str, preprocess: Preprocess) -> Vec<(Fixture, Result<(u8, f64), String>)> {
    let decoder = decoder(Sampling { preprocess, size: 224 });
    let mut rows = Vec::new();
    for fixture in fixtures("index.json") {
        let bytes = Bytes::from(std::fs::read(folder().join("images").join(&fixture.file)).unwrap());
        let expected = folder().join("expected").join(format!("{}.{model}.png", fixture.file));
        let expected = image::open(expected).unwrap().into_rgb8();
        let result = match decoder.decode(bytes).await {
            Ok(picture) => Ok(difference(picture.pixels.as_rgb(), &expected)),
            Err(error) => Err(error.to_string()),
        };
        rows.push((fixture, result));
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn sampled_pixels_are_those_of_pillow() {
    let mut wrong = String::new();
    for (model, preprocess) in MODELS {
        for (fixture, result) in pixel_differences(model, preprocess).await {
            println!("{:28} {model:12} {result:?}", fixture.file);
            if !matches!(result, Ok((0, _))) {
                writeln!(wrong, "{} ({model}): {result:?}", fixture.file).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "different from Pillow:\n{wrong}");
}

/// As Pillow's `convert("RGB")`: alpha dropped, 16-bit grey clipped. It turns TIFF when it loads it.
fn whole_rgb(file: &str, raster: Raster) -> RgbImage {
    let rgb = match raster.samples {
        Samples::Grey8(grey) => grey.iter().flat_map(|&grey| [grey; 3]).collect(),
        Samples::Grey16(grey) => grey.iter().flat_map(|&grey| [grey.min(255) as u8; 3]).collect(),
        Samples::Rgb8(rgb) => rgb,
        Samples::Rgba8(rgba) => rgba.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
    };
    let mut image = DynamicImage::ImageRgb8(RgbImage::from_raw(raster.size.width, raster.size.height, rgb).unwrap());
    if Path::new(file).extension().is_some_and(|extension| extension == "tiff") {
        image.apply_orientation(raster.orientation);
    }
    image.into_rgb8()
}

/// A sample that the models do not take from these images counts, too.
#[test]
fn whole_images_are_those_of_pillow() {
    let limits = |accept_truncated| Limits { max_pixels: 1_000_000, allow_tiff: true, accept_truncated };
    let (mut compared, mut wrong) = (0, String::new());
    for (list, images) in [("index.json", "images"), ("jpeg.json", "jpeg")] {
        for Fixture { file, rgb } in fixtures(list) {
            let bytes = std::fs::read(folder().join(images).join(&file)).unwrap();
            // Pillow decodes these with `LOAD_TRUNCATED_IMAGES`.
            let cut = file.starts_with("cut-");
            let decoded = decode(&bytes, &limits(if cut { 100 } else { 0 }));
            assert_eq!(decoded.as_ref().is_ok_and(|raster| raster.missing > 0.0), cut, "{file}");
            assert_eq!(decode(&bytes, &limits(0)).is_err(), cut, "{file}");
            let found = decoded.map(|raster| format!("{:x}", Sha256::digest(whole_rgb(&file, raster).as_raw())));
            compared += 1;
            match found {
                Ok(found) if found == rgb => {}
                other => writeln!(wrong, "{images}/{file}: {other:?}").unwrap(),
            }
        }
    }
    assert!(compared > 150, "{compared} fixtures");
    assert!(wrong.is_empty(), "different from Pillow:\n{wrong}");
}
