//! Guarantee 19: a slow-drip host does not slow down the other hosts.

use std::time::{Duration, Instant};

use super::until_indexed;
use crate::support::flow::Flow;
use crate::support::http::{Act, WebHost, answer};
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::report::{report, scaled};

/// Host names of the good images, since each host gets only a few requests at a time.
const NAMES: usize = 20;
/// How many of ten messages are of the slow-drip host.
const DRIPS_OF_TEN: usize = 3;
/// How long a good image takes: so long that the messages in flight bound the rate, and not the CPU.
const GOOD: Duration = Duration::from_secs(1);

/// A web server of good images.
async fn good() -> WebHost {
    let image = std::fs::read("tests/fixtures/images/baseline-420.jpg").unwrap();
    WebHost::start(move |_| {
        let whole = answer("200 OK", &format!("Content-Length: {}\r\n", image.len()), &image);
        vec![Act::Drip(whole[..1].to_vec(), GOOD), Act::Send(whole[1..].to_vec())]
    })
    .await
}

/// A slow-drip host: one byte every 200 ms, for longer than any time-out.
async fn drip() -> WebHost {
    let pause = Duration::from_millis(200);
    WebHost::start(move |_| vec![Act::Send(answer("200 OK", "", b"")), Act::Drip(vec![7; 1000], pause)]).await
}

/// How many slow-drip images there are among this many good ones.
fn drips(images: usize) -> usize {
    images * DRIPS_OF_TEN / (10 - DRIPS_OF_TEN)
}

/// Messages of good images, evenly mixed with those of the slow-drip host, if there is one.
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

/// Lets a new worker index good images, with or without the slow-drip host. Returns their rate per second.
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

/// Stops the worker, and checks that every message of the slow-drip host is still in a queue.
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
async fn a_slow_drip_host_does_not_slow_down_the_others() {
    let images = scaled(240, 3_000);
    let alone = Flow::start().await;
    let (_, undisturbed) = rate(&alone, images, None).await;

    let (flow, drip) = (Flow::start().await, drip().await);
    let (worker, disturbed) = rate(&flow, images, Some(&drip)).await;
    let scrape = worker.scrape().await;
    let retries = scrape.by("retries_total", "cause");
    // In a short run the first slow-drip fetches are still open, and no attempt is counted for those that wait.
    assert!(images > 1_000 || (drip.open() > 0 && !retries.contains_key("host")), "{retries:?}");
    assert_none_lost(&flow, worker, drips(images)).await;
    let kept = disturbed / undisturbed;
    assert!(kept > scaled(0.6, 0.8), "{disturbed:.0} a second, alone {undisturbed:.0}");
    report(
        19,
        format!(
            "{images} good images beside {} of a slow-drip host: {disturbed:.0} a second, alone {undisturbed:.0} ({:.0} % \
             kept); {} deferred meanwhile, none lost, no attempt counted",
            drips(images),
            100.0 * kept,
            retries.get("busy").copied().unwrap_or_default()
        ),
    );
}
