//! Faults, judged over windows of documents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures_util::FutureExt;

use super::*;
use crate::store::Tombstone;

const KIND: &str = "document_parsing_exception";
const WAIT: Duration = Duration::from_secs(10);

/// `a` accepted, `r` refused, `o` refused for another reason.
fn evidence(items: &str) -> Vec<Evidence> {
    let one = |item| match item {
        'a' => Evidence::Accepted,
        'r' => Evidence::Refused(KIND.to_owned()),
        _ => Evidence::Refused("other".to_owned()),
    };
    items.chars().map(one).collect()
}

fn fault(before: &str, since: &str) -> Option<Fault> {
    let mut state = State::default();
    evidence(before).into_iter().chain(evidence(since)).for_each(|item| state.record(item));
    state.fault(before.len() as u64, KIND)
}

#[test]
fn one_refusal_among_accepted_documents_is_the_document_s_fault() {
    for since in ["ar", "ra", "aaaaar", "rrrrrrrrra", "aaaaao"] {
        assert_eq!(fault("", since), Some(Fault::Document), "{since}");
    }
}

#[test]
fn refusals_alone_are_not_judged_before_the_window_is_nearly_full() {
    for count in [1, 9, 10, TRIP_AT - 1] {
        assert_eq!(fault("", &"r".repeat(count)), None, "{count}");
    }
    assert_eq!(fault("", &"r".repeat(TRIP_AT)), Some(Fault::Store));
}

#[test]
fn earlier_acceptances_say_nothing_about_the_store_now() {
    let before = "a".repeat(WINDOW);
    assert_eq!(fault(&before, &"r".repeat(32)), None);
    assert_eq!(fault(&before, &"r".repeat(TRIP_AT)), Some(Fault::Store));
}

#[test]
fn nine_in_ten_are_the_store_s_fault_although_some_are_accepted() {
    let mostly = "rrrrrrrrra".repeat(5);
    assert_eq!(fault("", &mostly), Some(Fault::Store));
    let less = "rrrrrrrraa".repeat(5);
    assert_eq!(fault("", &less), Some(Fault::Document));
}

#[test]
fn refusals_for_several_reasons_are_the_documents_fault() {
    assert_eq!(fault("", &"ro".repeat(WINDOW / 2)), Some(Fault::Document));
}

#[tokio::test]
async fn a_refusal_waits_for_evidence() {
    let breaker = std::sync::Arc::new(Breaker::default());
    let mark = breaker.record(evidence("r"));
    let mut judging = std::pin::pin!(breaker.await_fault(mark, KIND, Instant::now() + WAIT));
    assert_eq!(judging.as_mut().now_or_never(), None);
    breaker.record(evidence(&"r".repeat(TRIP_AT)));
    assert_eq!(judging.now_or_never(), Some(Fault::Store));
}

#[tokio::test]
async fn without_evidence_a_refusal_is_the_document_s_fault_in_the_end() {
    let breaker = Breaker::default();
    let mark = breaker.record(evidence("rr"));
    assert_eq!(breaker.await_fault(mark, KIND, Instant::now()).await, Fault::Document);
}

#[tokio::test]
async fn a_reset_decides_nothing_about_earlier_refusals() {
    let breaker = Breaker::default();
    let mark = breaker.record(evidence("rr"));
    breaker.reset();
    assert_eq!(breaker.await_fault(mark, KIND, Instant::now() + WAIT).now_or_never(), None);
}

#[test]
fn a_tripped_breaker_keeps_a_few_samples_for_a_while() {
    let breaker = Breaker::default();
    assert!(breaker.tripped().is_none());
    let writes: Vec<_> = (0..9).map(deletion).collect();
    breaker.trip(&writes[0], "first");
    for write in &writes {
        breaker.trip(write, "second");
    }
    let tripped = breaker.tripped().unwrap();
    assert_eq!((tripped.samples.len(), tripped.reason.as_str()), (SAMPLES, "first"));
    assert!(breaker.check_requested().now_or_never().is_some());

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

fn deletion(n: u64) -> Write {
    Write::Delete(Tombstone { id: n.to_string(), version: 1, collection: "default".to_owned(), deleted_at_ms: 0 })
}
