//! Guarantees 6 and 20: many large images at once stay within the budget of bytes and the bound of memory.

use std::io::{Cursor, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, Rgb, RgbImage};
use imgdex::testing::decode;
use imgdex::testing::footprint::{Bound, Settings};

use super::bombs::{Png, deflated_zeros};
use super::{mib, until_indexed};
use crate::support::decoders::{PeakMemory, resident_with_decoders};
use crate::support::flow::Flow;
use crate::support::http::{WebHost, send};
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::report::{report, scaled};

/// Host names of the web server, since each host gets only a few requests at a time.
const NAMES: usize = 20;
const PREFETCH: usize = 80;
/// The pause between two scrapes.
const PAUSE: Duration = Duration::from_millis(10);

/// A host that serves one image under any name and path.
async fn host(headers: &'static str, body: Vec<u8>) -> WebHost {
    WebHost::start(move |_| send("200 OK", headers, &body)).await
}

fn urls(host: &WebHost, images: usize) -> Vec<String> {
    (0..images).map(|number| host.url_as(&format!("host{}", number % NAMES), &format!("/{number}"))).collect()
}

/// A ready worker that fetches from this host within these limits, with the queue full of its images.
async fn worker(flow: &Flow, host: &WebHost, images: usize, limits: &[(&str, u64)]) -> Worker {
    flow.publish(&urls(host, images), &[]).await;
    let mut flags = ["--model", "stub", "--allow-port", &host.port().to_string()].map(ToOwned::to_owned).to_vec();
    for (flag, value) in limits.iter().chain(&[("--prefetch", PREFETCH as u64)]) {
        flags.extend([(*flag).to_owned(), value.to_string()]);
    }
    flow.worker_with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn files_in_flight_stay_within_their_budget_and_the_process_within_its_bound() {
    const LARGEST: u64 = 32 << 20;
    const BUDGET: u64 = 64 << 20;
    const SIDE: u32 = 3_300;
    let images = scaled(40, 200);
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([x as u8, y as u8, 7])).write_to(&mut file, ImageFormat::Bmp).unwrap();
    let size = file.get_ref().len() as u64;
    assert!((LARGEST * 9 / 10..=LARGEST).contains(&size), "{size} bytes");
    // Compressed, so that many bodies arrive at once.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(file.get_ref()).unwrap();
    let host = host("Content-Encoding: gzip\r\n", packed.finish().unwrap()).await;

    let flow = Flow::start().await;
    let pixels = u64::from(SIDE * SIDE);
    let limits = [("--max-image-bytes", LARGEST), ("--max-inflight-bytes", BUDGET), ("--max-image-pixels", pixels)];
    let worker = worker(&flow, &host, images, &limits).await;
    let before = resident_with_decoders(worker.pid());
    let memory = PeakMemory::of(worker.pid());
    let mut most = 0;
    let indexing = until_indexed(&worker, images as u64);
    poll::throughout(indexing, PAUSE, async || most = most.max(worker.scrape().await.value("inflight_bytes", &[])))
        .await;
    assert!(most > size && most <= BUDGET + LARGEST, "{} MiB of files were held at once", mib(most));

    let bulk = imgdex::testing::indexer::Settings::default();
    let bound = Bound::of(&Settings {
        prefetch: PREFETCH,
        max_image_bytes: LARGEST,
        max_inflight_bytes: BUDGET,
        max_image_pixels: pixels,
        cores: std::thread::available_parallelism().unwrap().get(),
        threads: 1,
        bulk_bytes: bulk.max_bytes,
        bulks_in_flight: bulk.in_flight,
    });
    // Without the first term: the stub model has no network, and `before` includes the program.
    let bound = bound.total() - bound.terms()[0].1;
    let peak = memory.bytes() - before;
    assert!(peak <= bound, "the worker took {} MiB, more than {}", mib(peak), mib(bound));
    report(
        6,
        format!(
            "{images} images of {} MiB from {NAMES} hosts at once: at most {} MiB of files held (budget {} and one of {}), {} MiB \
             of memory taken (bound {})",
            mib(size),
            mib(most),
            mib(BUDGET),
            mib(LARGEST),
            mib(peak),
            mib(bound)
        ),
    );
}

#[tokio::test]
async fn the_largest_images_are_decoded_in_the_memory_of_one() {
    const SIDE: u32 = 6_000;
    const LARGEST: u64 = 4 << 20;
    let images = scaled(4, 20);
    let pixels = u64::from(SIDE * SIDE);
    // Eight bytes for each pixel, and one before each line.
    let png = Png { width: SIDE, height: SIDE, depth: 16, colour: 6 }
        .with(&[(*b"IDAT", deflated_zeros(pixels * 8 + u64::from(SIDE)))]);
    let host = host("", png).await;

    let flow = Flow::start().await;
    let worker = worker(&flow, &host, images, &[("--max-image-bytes", LARGEST), ("--max-image-pixels", pixels)]).await;
    let before = resident_with_decoders(worker.pid());
    let memory = PeakMemory::of(worker.pid());
    until_indexed(&worker, images as u64).await;
    // One at a time, since all of them are large.
    let bound = decode::memory(pixels, 1, LARGEST);
    let peak = memory.bytes() - before;
    assert!(peak <= bound, "the worker took {} MiB, more than {}", mib(peak), mib(bound));
    report(
        20,
        format!(
            "{images} images of {} million pixels at once: {} MiB of memory taken (bound of one decoder {})",
            pixels / 1_000_000,
            mib(peak),
            mib(bound)
        ),
    );
}
