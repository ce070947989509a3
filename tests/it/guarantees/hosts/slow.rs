//! Hosts that drip, and those beside them.

use std::time::{Duration, Instant};

use super::until_indexed;
use crate::support::flow::Flow;
use crate::support::http::{Act, WebHost, answer};
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::report::{report, scaled};

/// Names under which the host of good images is known: a few requests at a time for each.
const NAMES: usize = 20;
/// Of ten messages so many are of the host that drips.
const DRIPS_OF_TEN: usize = 3;
/// How long a good image takes. Long, so that the messages in hand bound the rate, and not what the machine computes.
const GOOD: Duration = Duration::from_secs(1);

/// A host of good images.
async fn good() -> WebHost {
    let image = std::fs::read("tests/fixtures/images/baseline-420.jpg").unwrap();
    WebHost::start(move |_| {
        let whole = answer("200 OK", &format!("Content-Length: {}\r\n", image.len()), &image);
        vec![Act::Drip(whole[..1].to_vec(), GOOD), Act::Send(whole[1..].to_vec())]
    })
    .await
}

/// A host that sends a byte now and then, for longer than anyone waits.
async fn drip() -> WebHost {
    let pause = Duration::from_millis(200);
    WebHost::start(move |_| vec![Act::Send(answer("200 OK", "", b"")), Act::Drip(vec![7; 1000], pause)]).await
}

/// How many messages of the host that drips come with so many good ones.
fn drips(images: usize) -> usize {
    images * DRIPS_OF_TEN / (10 - DRIPS_OF_TEN)
}

/// Messages of good images, and where there is a host that drips, of that too, evenly mixed.
fn mixed(images: usize, good: &WebHost, drip: Option<&WebHost>) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..images {
        lines.push(good.url_as(&format!("good{}", number % NAMES), &format!("/{number}")));
        if let Some(drip) = drip {
            lines.extend((drips(number)..drips(number + 1)).map(|number| drip.url_as("drip", &format!("/{number}"))));
        }
    }
    lines
}

/// Lets a new worker index good images, with the host that drips or without; how many it did in a second.
async fn rate(flow: &Flow, images: usize, drip: Option<&WebHost>) -> (Worker, f64) {
    let good = good().await;
    flow.publish(&mixed(images, &good, drip), &[]).await;
    let ports = [Some(&good), drip].map(|host| host.unwrap_or(&good).port().to_string());
    let flags = ["--model", "stub", "--allow-port", &ports[0], "--allow-port", &ports[1], "--drain-deadline", "1"];
    let worker = flow.worker_with(&flags).await;
    worker.until_ready().await;
    let start = Instant::now();
    until_indexed(&worker, images as u64).await;
    (worker, images as f64 / start.elapsed().as_secs_f64())
}

/// Stops the worker, and checks that every message of the host that drips still waits for its turn.
async fn assert_none_lost(flow: &Flow, mut worker: Worker, drips: usize) {
    assert_eq!(worker.terminate().await, Some(0));
    poll::until_equal("waiting messages", drips as u32, async || {
        let mut waiting = 0;
        for queue in flow.rabbit.queues() {
            waiting += flow.rabbit.ready(&queue).await;
        }
        waiting
    })
    .await;
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0, "dead letters");
}

#[tokio::test]
async fn a_host_that_drips_does_not_hold_up_the_others() {
    let images = scaled(240, 3_000);
    let alone = Flow::start().await;
    let (_, undisturbed) = rate(&alone, images, None).await;

    let (flow, drip) = (Flow::start().await, drip().await);
    let (worker, disturbed) = rate(&flow, images, Some(&drip)).await;
    let scrape = worker.scrape().await;
    let retries = scrape.by("retries_total", "cause");
    // Nothing has waited for the first drips, which still hold where that is not too long ago. Nobody is blamed for waiting.
    assert!(images > 1_000 || (drip.open() > 0 && !retries.contains_key("host")), "{retries:?}");
    assert_none_lost(&flow, worker, drips(images)).await;
    let kept = disturbed / undisturbed;
    assert!(kept > scaled(0.6, 0.8), "{disturbed:.0} a second, alone {undisturbed:.0}");
    report(
        19,
        format!(
            "{images} good images beside {} of a host that drips: {disturbed:.0} a second, alone {undisturbed:.0} ({:.0} % \
             kept); {} put off meanwhile, none lost or blamed",
            drips(images),
            100.0 * kept,
            retries.get("busy").copied().unwrap_or_default()
        ),
    );
}
