//! Guarantee 16: a message that waits for its retry delays no other message.

use std::time::{Duration, Instant};

use super::indexed;
use crate::support::flow::{Flow, sorted};
use crate::support::rabbit::Rabbit;
use crate::support::report::{report, scaled};

const SHORT: u32 = 1;

/// The positions of the second requests for these paths, among all requests.
fn seconds(requested: &[String], paths: &[String]) -> Vec<usize> {
    let second = |path: &String| requested.iter().enumerate().filter(|(_, target)| *target == path).nth(1).unwrap().0;
    paths.iter().map(second).collect()
}

#[tokio::test]
async fn messages_that_wait_for_a_retry_are_overtaken() {
    let (long, count) = (scaled(8, 30), scaled(20, 300));
    let delays = [SHORT, long];
    let mut flow = Flow::start().await;
    flow.rabbit = Rabbit::declared(&delays).await;
    let paths =
        |delay: u32| (0..count).map(|n| format!("/late/{}/{delay}", n + u64::from(delay) * 1000)).collect::<Vec<_>>();
    let [short, long_ones] = delays.map(paths);
    let fresh: Vec<_> = (0..count).map(|number| format!("/good/{number}")).collect();
    let urls = |paths: &[String]| paths.iter().map(|path| flow.images.url(path)).collect::<Vec<_>>();

    let mut worker = flow.worker().await;
    worker.until_ready().await;
    let start = Instant::now();
    flow.publish(&urls(&long_ones), &[]).await;
    worker.until("messages that wait", count, |scrape| scrape.outcome("retried")).await;
    flow.publish(&urls(&short), &[]).await;
    flow.publish(&urls(&fresh), &[]).await;
    worker.until("messages indexed", 3 * count, indexed).await;
    let elapsed = start.elapsed();

    let requested = flow.images.requested();
    let (short_again, long_again) = (seconds(&requested, &short), seconds(&requested, &long_ones));
    let first_long = *long_again.iter().min().unwrap();
    let fresh_done = requested.iter().rposition(|target| fresh.contains(target)).unwrap();
    assert!(short_again.iter().all(|&place| place < first_long), "a short wait took as long as a long one");
    assert!(fresh_done < first_long, "a fresh message waited for a retry");
    assert!(elapsed >= Duration::from_secs(long.into()), "a wait of {long} s was over after {elapsed:?}");
    report(
        16,
        format!(
            "{count} fresh messages and {count} waiting {SHORT} s passed {count} waiting {long} s; all indexed after {elapsed:.1?}"
        ),
    );
    let all = [long_ones, short, fresh].concat();
    assert_eq!(flow.indexed_urls().await, sorted(urls(&all)));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
