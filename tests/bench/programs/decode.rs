//! What decoding costs: `decode processes|threads FILE...` decodes and samples each file many times and prints milliseconds of CPU
//! time for each image, those of the decoding processes included. For tests/bench/decode.py.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use imgdex::testing::Metrics;
use imgdex::testing::decode::{Decoder, Isolation, Preprocess, Sampling, Settings};

/// Images in one round: enough for clock ticks of 10 ms.
const IMAGES: usize = 500;
const PERMITS: usize = 2;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let isolation = match arguments.next().expect("processes or threads").as_str() {
        "processes" => Isolation::Processes { program: std::env::var_os("IMGDEX_BIN").expect("IMGDEX_BIN").into() },
        "threads" => Isolation::Threads,
        other => panic!("{other} is neither processes nor threads"),
    };
    let settings = Settings {
        max_pixels: 100_000_000,
        max_file_bytes: 32 << 20,
        allow_tiff: true,
        accept_truncated: 0,
        permits: PERMITS,
        isolation,
    };
    let metrics = Arc::new(Metrics::new("vgg16", "none").unwrap());
    let decoder = Decoder::new(settings, Sampling { preprocess: Preprocess::Imgdex2, size: 224 }, metrics);
    for path in arguments {
        let file = Bytes::from(fs::read(&path).unwrap());
        decode(&decoder, &file, PERMITS * 2).await;
        let before = cpu_ms();
        decode(&decoder, &file, IMAGES).await;
        println!("{path}\t{:.3}", (cpu_ms() - before) / IMAGES as f64);
    }
}

async fn decode(decoder: &Decoder, file: &Bytes, images: usize) {
    let decoding = stream::iter(0..images).map(|_| decoder.decode(file.clone())).buffer_unordered(PERMITS * 2);
    decoding.for_each(async |picture| drop(picture.unwrap())).await;
}

/// CPU time of this process and its children so far.
fn cpu_ms() -> f64 {
    let of = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2)).into_iter();
        fields.flatten().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>()
    };
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let ticks = of("self") + children.map(|pids| pids.split_whitespace().map(of).sum::<f64>()).sum::<f64>();
    ticks * 10.0
}
