#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hostile;
mod jpeg;

use super::*;
use crate::decode::preprocess::Preprocess;
use crate::decode::preprocess::view::{Crop, Turn};

fn stage() -> Decoder {
    let settings = Settings {
        max_pixels: 1_000_000,
        max_file_bytes: 1 << 20,
        allow_tiff: false,
        accept_truncated: 0,
        permits: 1,
        isolation: Isolation::Threads,
    };
    let metrics = Arc::new(Metrics::new("vgg16", "portable").unwrap());
    Decoder::new(settings, Sampling { preprocess: Preprocess::Imgdex2, size: 224 }, metrics)
}

#[tokio::test]
async fn an_image_comes_out_sampled_with_its_size_and_format() {
    let bytes = hostile::fixture("3000x50.png");
    let picture = stage().decode(bytes.into()).await.unwrap();
    assert_eq!(picture.size, Size { width: 3000, height: 50 });
    assert_eq!(picture.format, Format::Png);
    assert_eq!((picture.pixels.size(), picture.pixels.as_rgb().len()), (224, 224 * 224 * 3));
}

#[tokio::test]
async fn one_decoding_gives_all_that_is_asked_for() {
    let request = |size, view| Request::Pixels { sampling: Sampling { preprocess: Preprocess::Imgdex2, size }, view };
    let crop = Crop::new(0.25, 0.25, 0.5, 0.5);
    let requests = vec![request(8, View::default()), request(16, View { crop, turn: Turn::Mirror })];
    let decoded = stage().run(hostile::fixture("rgb.png").into(), requests).await.unwrap();
    let sizes: Vec<_> = decoded.products.iter().map(|product| product.as_bytes().len()).collect();
    assert_eq!(sizes, [8 * 8 * 3, 16 * 16 * 3]);
}
