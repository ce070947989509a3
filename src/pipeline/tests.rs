//! The failure table, row by row.

use strum::VariantArray;

use super::*;
use crate::embedding::Degenerate;
use crate::outcome::KillCause;
use crate::outcome::Verdict::{AwaitHost, DeadLetter, Defer, Requeue, Retry};

fn host() -> String {
    "h".to_owned()
}

fn refused(refusal: fetch::Refusal) -> Failure {
    Failure::Embed(fetch::Error::from(refusal).into())
}

fn status(status: u16) -> Failure {
    Failure::Embed(fetch::Error::Status { host: host(), status, retry_after: None }.into())
}

#[test]
fn a_fault_of_the_message_is_dead_lettered_at_once() {
    let cases = [
        (Failure::Message(message::Error::Empty), Reason::InvalidMessage),
        (refused(fetch::Refusal::Scheme { scheme: "ftp".to_owned() }), Reason::RefusedAddress),
        (refused(fetch::Refusal::LocalFile), Reason::RefusedAddress),
        (refused(fetch::Refusal::Port { port: 22 }), Reason::RefusedAddress),
        (Failure::Embed(fetch::Error::Redirect { reason: host() }.into()), Reason::RefusedRedirect),
        (Failure::Embed(fetch::Error::UnknownHost { host: host() }.into()), Reason::UnknownHost),
        (Failure::Embed(fetch::Error::TooLarge { limit: 1 }.into()), Reason::BodyTooLarge),
        (status(400), Reason::HostRefused),
        (status(451), Reason::HostRefused),
        (Failure::Embed(decode::Error::Empty.into()), Reason::NotAnImage),
        (
            Failure::Embed(decode::Error::Unsupported { format: "SVG".into(), hint: "".into() }.into()),
            Reason::UnsupportedFormat,
        ),
        (Failure::Embed(decode::Error::TooLarge { width: 9, height: 9, limit: 1 }.into()), Reason::ImageTooLarge),
        (Failure::Embed(decode::Error::TooLong { width: 9, height: 1, limit: 8 }.into()), Reason::ImageTooLarge),
        (Failure::Embed(decode::Error::Timeout { limit: Duration::ZERO }.into()), Reason::DecodeTimeout),
        (
            Failure::Embed(decode::Error::Killed { cause: KillCause::Memory, reason: host() }.into()),
            Reason::DecoderKilled,
        ),
        (Failure::Embed(decode::Error::Panicked { reason: host() }.into()), Reason::DecoderPanic),
        (Failure::Embed(extract::Error::Degenerate(Degenerate::Zero).into()), Reason::DegenerateVector),
        (Failure::Index(indexer::Error::Rejected { kind: host(), reason: host() }), Reason::DocumentRejected),
        (Failure::Index(indexer::Error::TooLarge), Reason::DocumentTooLarge),
    ];
    for (failure, reason) in cases {
        assert_eq!(failure.verdict(), DeadLetter(reason), "{failure}");
    }
}

#[test]
fn failures_that_the_host_may_correct_are_retried_within_a_budget() {
    for code in [408, 425, 429, 500, 502, 503, 599] {
        let expected = Retry { reason: Reason::HostFailed, budget: TRANSIENT_BUDGET, after: None };
        assert_eq!(status(code).verdict(), expected, "{code}");
    }
    for code in [401, 403, 404, 410] {
        let expected = Retry { reason: Reason::HostRefused, budget: REFUSED_BUDGET, after: None };
        assert_eq!(status(code).verdict(), expected, "{code}");
    }
    let timeout = fetch::NoAnswer::Timeout { host: host(), phase: "headers", limit: Duration::ZERO };
    assert!(matches!(
        Failure::Embed(fetch::Error::from(timeout).into()).verdict(),
        Retry { reason: Reason::HostFailed, .. }
    ));
}

#[test]
fn a_document_that_alone_fails_in_the_store_is_retried_within_a_budget() {
    let failure = Failure::Index(indexer::Error::Failed { held: Duration::ZERO, reason: host() });
    let expected = Retry { reason: Reason::StoreFailed, budget: TRANSIENT_BUDGET, after: None };
    assert_eq!(failure.verdict(), expected);
}

#[test]
fn the_verdict_carries_retry_after() {
    let after = Some(Duration::from_secs(7));
    let failure = Failure::Embed(fetch::Error::Status { host: host(), status: 429, retry_after: after }.into());
    assert!(matches!(failure.verdict(), Retry { after: found, .. } if found == after));
}

#[test]
fn a_failed_host_is_waited_for_and_a_busy_process_counts_no_failure() {
    let failing = Failure::Embed(fetch::Error::Failing { host: host(), failures: 4 }.into());
    let expected = AwaitHost { reason: Reason::HostFailed, longest: MAX_OUTAGE, after: OUTAGE_DELAY };
    assert_eq!(failing.verdict(), expected);
    assert_eq!(Failure::Embed(fetch::Error::Busy { host: host(), what: "a request slot" }.into()).verdict(), Defer);
}

#[test]
fn nothing_is_dead_lettered_because_a_service_is_down() {
    let failures = [
        Failure::Index(indexer::Error::Unavailable { held: Duration::ZERO, reason: host() }),
        Failure::Index(indexer::Error::Paused { reason: host() }),
        Failure::Embed(fetch::Error::Offline { reason: host() }.into()),
        Failure::Index(indexer::Error::Stopped),
        Failure::Embed(extract::Error::Model(host()).into()),
        Failure::Embed(extract::Error::Stopped.into()),
        Failure::Embed(decode::Error::Stopped.into()),
        Failure::Embed(decode::Error::Unavailable { reason: host() }.into()),
    ];
    for failure in failures {
        assert_eq!(failure.verdict(), Requeue, "{failure}");
    }
}

#[test]
fn reason_codes_are_distinct() {
    let codes: std::collections::BTreeSet<_> = Reason::VARIANTS.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes.len(), Reason::VARIANTS.len());
}
