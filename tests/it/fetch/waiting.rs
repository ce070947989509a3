//! Waiting for a slot of the host or for memory does not count as time of the host.

use std::time::Duration;

use futures_util::future::join_all;
use imgdex::testing::fetch::{Error, Settings, Timeouts};

use super::{PATIENT, Subject, reaching};
use crate::support::http::{Act, WebHost, answer, send};
use crate::support::poll;

const LARGEST: usize = 1 << 20;

/// A body that comes in pieces, with pauses between them.
fn in_pieces(body: &[u8], pieces: usize, pause: Duration) -> Vec<Act> {
    let start = Act::Send(answer("200 OK", &format!("Content-Length: {}\r\n", body.len()), b""));
    let pieces = body.chunks(body.len().div_ceil(pieces)).flat_map(|piece| {
        let (last, rest) = piece.split_last().unwrap();
        [Act::Send(rest.to_vec()), Act::Drip(vec![*last], pause)]
    });
    std::iter::once(start).chain(pieces).collect()
}

#[tokio::test]
async fn waiting_for_a_slot_is_no_time_of_the_host() {
    let host = WebHost::start(|_| in_pieces(b"image", 3, Duration::from_millis(100))).await;
    let timeouts = Timeouts { total: Duration::from_millis(1500), ..PATIENT };
    let subject = Subject::new(Settings { per_host: 1, timeouts, ..reaching(&[&host]) });
    let url = host.url("/");
    let start = std::time::Instant::now();
    for result in join_all((0..8).map(|_| subject.get(&url))).await {
        assert_eq!(&result.unwrap()[..], b"image");
    }
    assert!(start.elapsed() > timeouts.total, "the last waited for less than a fetch may take");
}

#[tokio::test]
async fn bodies_share_their_memory_and_all_arrive() {
    let body = vec![7; LARGEST];
    let host = WebHost::start(move |_| in_pieces(&body, 8, Duration::from_millis(5))).await;
    let subject = Subject::new(Settings {
        max_bytes: LARGEST as u64,
        max_bytes_held: LARGEST as u64,
        per_host: 40,
        ..reaching(&[&host])
    });
    let url = host.url("/");
    let mut most = 0;
    let fetches = join_all((0..40).map(|_| async { subject.get(&url).await.unwrap().len() }));
    let watching = async {
        loop {
            most = most.max(subject.metric("inflight_bytes"));
            tokio::task::yield_now().await;
        }
    };
    let lengths = tokio::select! { lengths = fetches => lengths, never = watching => never };
    assert_eq!(lengths, [LARGEST; 40]);
    // At least the budget is used, and at most one body more.
    assert!((LARGEST as u64..=2 * LARGEST as u64).contains(&most), "{most} bytes were held at once");
    assert_eq!(subject.metric("inflight_bytes"), 0);
}

#[tokio::test]
async fn a_host_that_hangs_up_while_we_wait_for_memory_is_not_counted_as_failed() {
    let whole = vec![7; LARGEST];
    let host = WebHost::start(move |request| {
        if request.target() == "/whole" {
            return send("200 OK", "", &whole);
        }
        let begun = answer("200 OK", "Content-Length: 1000000\r\n", &[7; 1000]);
        vec![Act::Send(begun), Act::Drip(vec![7], Duration::from_millis(1500)), Act::Reset]
    })
    .await;
    let settings = Settings { max_bytes: LARGEST as u64, max_bytes_held: LARGEST as u64, ..reaching(&[&host]) };
    let subject = Subject::new(Settings { defer: true, ..settings });
    // One body uses the budget, one is beyond it, and both are held.
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(subject.get(&host.url("/whole")).await.unwrap());
    }
    let hurried = host.url("/hurried");
    let hung_up = async {
        let done = async || if host.requests().len() == 3 { host.open() } else { 1 };
        poll::until_equal("open connections", 0, done).await;
        kept.clear();
    };
    let (result, ()) = tokio::join!(subject.get(&hurried), hung_up);
    assert!(matches!(result, Err(Error::Busy { what: "memory", .. })), "{result:?}");
    assert_eq!(host.requests().len(), 3, "deferred, not tried again at once");
}

#[tokio::test]
async fn a_budget_smaller_than_one_image_is_refused() {
    let settings = Settings { max_bytes: 1001, max_bytes_held: 1000, ..Settings::default() };
    let metrics = std::sync::Arc::new(imgdex::testing::Metrics::new("test", "test").unwrap());
    let error = imgdex::testing::fetch::Fetcher::new(&settings, metrics).err().expect("it could not be used");
    assert!(error.to_string().contains("1000 bytes, which is less than one may have, 1001"), "{error}");
}
