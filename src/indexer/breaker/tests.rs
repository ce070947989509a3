//! Verdicts over windows of documents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures_util::FutureExt;

use super::*;

const KIND: &str = "document_parsing_exception";
const WAIT: Duration = Duration::from_secs(10);

/// `t` taken, `r` refused, `o` refused for another reason.
fn evidence(items: &str) -> Vec<Evidence> {
    let one = |item| match item {
        't' => Evidence::Taken,
        'r' => Evidence::Refused(KIND.to_owned()),
        _ => Evidence::Refused("other".to_owned()),
    };
    items.chars().map(one).collect()
}

fn window(items: &str) -> Window {
    let mut window = Window::default();
    for item in evidence(items) {
        window.record(item);
    }
    window
}

fn blame(before: &str, since: &str) -> Option<Blame> {
    window(&(before.to_owned() + since)).blame(before.len() as u64, KIND)
}

#[test]
fn one_refusal_among_documents_that_are_taken_is_its_own_fault() {
    for since in ["tr", "rt", "tttttr", "rrrrrrrrrt", "ttttto"] {
        assert_eq!(blame("", since), Some(Blame::Document), "{since}");
    }
}

#[test]
fn refusals_alone_are_not_judged_before_the_window_is_nearly_full() {
    for count in [1, 9, 10, TRIP_AT - 1] {
        assert_eq!(blame("", &"r".repeat(count)), None, "{count}");
    }
    assert_eq!(blame("", &"r".repeat(TRIP_AT)), Some(Blame::Index));
}

#[test]
fn what_was_taken_before_says_nothing_about_the_index_now() {
    let before = "t".repeat(WINDOW);
    assert_eq!(blame(&before, &"r".repeat(32)), None);
    assert_eq!(blame(&before, &"r".repeat(TRIP_AT)), Some(Blame::Index));
}

#[test]
fn nine_in_ten_are_the_index_s_fault_although_some_are_taken() {
    let mostly = "rrrrrrrrrt".repeat(5);
    assert_eq!(blame("", &mostly), Some(Blame::Index));
    let less = "rrrrrrrrtt".repeat(5);
    assert_eq!(blame("", &less), Some(Blame::Document));
}

#[test]
fn several_reasons_are_the_documents_fault() {
    assert_eq!(blame("", &"ro".repeat(WINDOW / 2)), Some(Blame::Document));
}

#[test]
fn the_window_is_bounded() {
    assert_eq!(window(&"t".repeat(10_000)).items.len(), WINDOW);
}

#[tokio::test]
async fn a_refusal_waits_for_evidence() {
    let breaker = std::sync::Arc::new(Breaker::default());
    let mark = breaker.record(evidence("r"));
    let mut judging = std::pin::pin!(breaker.await_blame(mark, KIND, Instant::now() + WAIT));
    assert_eq!(judging.as_mut().now_or_never(), None);
    breaker.record(evidence(&"r".repeat(TRIP_AT)));
    assert_eq!(judging.now_or_never(), Some(Blame::Index));
}

#[tokio::test]
async fn without_evidence_it_is_the_document_s_fault_in_the_end() {
    let breaker = Breaker::default();
    let mark = breaker.record(evidence("rr"));
    assert_eq!(breaker.await_blame(mark, KIND, Instant::now()).await, Blame::Document);
}

#[tokio::test]
async fn a_reset_decides_nothing_about_what_was_refused_before() {
    let breaker = Breaker::default();
    let mark = breaker.record(evidence("rr"));
    breaker.reset();
    assert_eq!(breaker.await_blame(mark, KIND, Instant::now() + WAIT).now_or_never(), None);
}

#[test]
fn a_tripped_breaker_keeps_a_few_samples_for_a_while() {
    let breaker = Breaker::default();
    assert!(breaker.tripped().is_none());
    let writes: Vec<_> = (0..9).map(|n| Write::Delete { id: n.to_string(), version: 1 }).collect();
    breaker.trip(&writes[0], "first");
    for write in &writes {
        breaker.trip(write, "second");
    }
    let tripped = breaker.tripped().unwrap();
    assert_eq!((tripped.samples.len(), tripped.reason.as_str()), (SAMPLES, "first"));
    assert!(breaker.doubted().now_or_never().is_some());

    breaker.state.send_modify(|state| {
        let tripped = state.tripped.as_mut().unwrap();
        tripped.since = tripped.since.checked_sub(SAMPLES_LIFE).unwrap();
    });
    assert!(breaker.tripped().is_none());
    breaker.trip(&writes[8], "third");
    assert_eq!(breaker.tripped().unwrap().samples.len(), 1);
    breaker.reset();
    assert!(breaker.tripped().is_none());
}
