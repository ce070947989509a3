//! Decoded and sampled pixels equal those of Pillow, in the fixtures of `tests/fixtures/make_fixtures.py`. `--nocapture` prints
//! the table.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use imgdex::testing::decode::{Preprocess, Sampling};
use serde::Deserialize;

use crate::support::decoders::decoder;

const MODELS: [(&str, Preprocess); 2] = [("vgg16-keras", Preprocess::KerasImagenetV1), ("vgg16", Preprocess::Imgdex1)];

#[derive(Deserialize)]
struct Fixture {
    file: String,
    decoder: Agreement,
}

/// How decoded samples may differ from those of Pillow.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Agreement {
    Exact,
    Jpeg,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixtures() -> Vec<Fixture> {
    serde_json::from_slice(&std::fs::read(folder().join("index.json")).unwrap()).unwrap()
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
    for fixture in fixtures() {
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

/// How far two JPEG decoders may differ in one sample of a drawn image with hard edges. They agree within 2 or 3 on luma, and
/// interpolate subsampled chroma differently at edges.
const JPEG_WORST: u8 = 40;
const JPEG_MEAN: f64 = 1.0;

#[tokio::test(flavor = "multi_thread")]
async fn sampled_pixels_are_those_of_pillow() {
    let mut wrong = Vec::new();
    for (model, preprocess) in MODELS {
        for (fixture, result) in pixel_differences(model, preprocess).await {
            println!("{:28} {model:12} {result:?}", fixture.file);
            let fine = match (&result, fixture.decoder) {
                (Ok((worst, _)), Agreement::Exact) => *worst == 0,
                (Ok((worst, mean)), Agreement::Jpeg) => *worst <= JPEG_WORST && *mean <= JPEG_MEAN,
                (Err(_), _) => false,
            };
            if !fine {
                wrong.push(format!("{} ({model}): {result:?}", fixture.file));
            }
        }
    }
    assert!(wrong.is_empty(), "different from Pillow:\n{}", wrong.join("\n"));
}
