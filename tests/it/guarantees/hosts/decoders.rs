//! Guarantee 26: images that are made to break decoders cost their own dead letter, and hardly any time of the others.

use std::time::Instant;

use imgdex::testing::broker::headers;

use super::{mib, until_indexed};
use crate::support::bombs;
use crate::support::decoders::{PeakMemory, decoders_of, resident_with_decoders, runs};
use crate::support::flow::{Flow, sorted};
use crate::support::http::{WebHost, send};
use crate::support::poll;
use crate::support::rabbit::text_header;
use crate::support::report::{report, scaled};

/// Good images for each bad one.
const GOOD: usize = 10;

#[tokio::test]
async fn good_images_among_bombs_keep_their_rate() {
    let bombs: Vec<_> = bombs::all();
    let rounds = scaled(1, 4);
    let count = bombs.len() * rounds;
    let files: Vec<_> = bombs.iter().map(|bomb| bomb.file.clone()).collect();
    let host = WebHost::start(move |request| {
        let number: usize = request.target().trim_start_matches('/').parse().unwrap();
        send("200 OK", "", &files[number % files.len()])
    })
    .await;
    let flow = Flow::start().await;
    let port = host.port().to_string();
    let worker = flow.worker_with(&["--model", "stub", "--allow-port", &port]).await;

    let alone = flow.images.urls("good", count * GOOD);
    let start = Instant::now();
    flow.publish(&alone, &[]).await;
    until_indexed(&worker, alone.len() as u64).await;
    let alone_took = start.elapsed();

    let before = resident_with_decoders(worker.pid());
    let memory = PeakMemory::of(worker.pid());
    let mixed: Vec<_> = (0..count * GOOD).map(|number| flow.images.url(&format!("/good/mixed-{number}"))).collect();
    let among: Vec<_> = mixed
        .chunks(GOOD)
        .enumerate()
        .flat_map(|(number, good)| {
            std::iter::once(host.url(&format!("/{number}")).to_string()).chain(good.iter().cloned()).collect::<Vec<_>>()
        })
        .collect();
    let start = Instant::now();
    flow.publish(&among, &[]).await;
    until_indexed(&worker, (alone.len() + mixed.len()) as u64).await;
    let mixed_took = start.elapsed();
    poll::until("the dead letters", async || match worker.scrape().await.outcome("dead") {
        found if found == count as u64 => Ok(()),
        found => Err(format!("{found} of {count}")),
    })
    .await;

    let reasons: Vec<_> = flow
        .rabbit
        .take_all(&flow.rabbit.dead(), count as u32)
        .await
        .iter()
        .map(|letter| text_header(&letter.properties, headers::REASON).unwrap())
        .collect();
    let known = ["decoder_killed", "malformed_image", "unsupported_format", "image_too_large"];
    assert!(reasons.iter().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");
    assert_eq!(flow.indexed_urls().await, sorted([alone, mixed].concat()));
    let peak = memory.bytes() - before;
    let bound = imgdex::testing::decode::memory(100_000_000, 2, 32 << 20);
    assert!(peak < bound, "{} MiB, more than {}", mib(peak), mib(bound));
    let kept = alone_took.as_secs_f64() / mixed_took.as_secs_f64();
    // A half in the small run: its times are those of a few seconds on a busy machine.
    assert!(kept >= scaled(0.5, 0.8), "{kept:.2} of the rate: {alone_took:?} alone, {mixed_took:?} among bombs");
    let killed = reasons.iter().filter(|reason| *reason == "decoder_killed").count();
    report(
        26,
        format!(
            "{} good images among {count} bombs ({killed} of them killed a decoder): {:.0} % of the rate is kept, {} MiB",
            count * GOOD,
            kept * 100.0,
            mib(peak)
        ),
    );
}

#[tokio::test]
async fn a_worker_that_is_killed_leaves_no_decoder_behind() {
    let flow = Flow::start().await;
    let mut worker = flow.worker().await;
    let urls = flow.images.urls("good", 40);
    flow.publish(&urls, &[]).await;
    until_indexed(&worker, 1).await;
    let decoders = decoders_of(worker.pid());
    assert!(!decoders.is_empty());
    worker.kill();
    poll::until("the end of the decoders", async || {
        let left: Vec<_> = decoders.iter().filter(|pid| runs(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
    })
    .await;
}
