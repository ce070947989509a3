//! The failure table, row by row.

use super::Verdict::{DeadLetter, GiveBack, Outlast, PutOff, Retry};
use super::*;
use crate::embedding::Degenerate;

fn host() -> String {
    "h".to_owned()
}

fn status(status: u16) -> Failure {
    Failure::Fetch(fetch::Error::Status { host: host(), status, retry_after: None })
}

#[test]
fn the_message_s_own_fault_is_dead_lettered_at_once() {
    let cases = [
        (Failure::Message(message::Error::Empty), Reason::InvalidMessage),
        (Failure::Fetch(fetch::Error::Scheme { scheme: "ftp".to_owned() }), Reason::RefusedAddress),
        (Failure::Fetch(fetch::Error::LocalFile), Reason::RefusedAddress),
        (Failure::Fetch(fetch::Error::Port { port: 22 }), Reason::RefusedAddress),
        (Failure::Fetch(fetch::Error::Redirect { reason: host() }), Reason::RefusedRedirect),
        (Failure::Fetch(fetch::Error::UnknownHost { host: host() }), Reason::UnknownHost),
        (Failure::Fetch(fetch::Error::TooLarge { limit: 1 }), Reason::BodyTooLarge),
        (status(400), Reason::HostRefused),
        (status(451), Reason::HostRefused),
        (Failure::Decode(decode::Error::Empty), Reason::NotAnImage),
        (Failure::Decode(decode::Error::Unsupported { format: "SVG", hint: "" }), Reason::UnsupportedFormat),
        (Failure::Decode(decode::Error::TooLarge { width: 9, height: 9, limit: 1 }), Reason::ImageTooLarge),
        (Failure::Decode(decode::Error::TooLong { width: 9, height: 1, limit: 8 }), Reason::ImageTooLarge),
        (Failure::Decode(decode::Error::Timeout { limit: Duration::ZERO }), Reason::DecodeTimeout),
        (Failure::Decode(decode::Error::Panicked { reason: host() }), Reason::DecoderPanic),
        (Failure::Extract(extract::Error::Degenerate(Degenerate::Zero)), Reason::DegenerateVector),
        (Failure::Index(index::Error::Rejected { kind: host(), reason: host() }), Reason::DocumentRejected),
        (Failure::Index(index::Error::TooLarge), Reason::DocumentTooLarge),
    ];
    for (failure, reason) in cases {
        assert_eq!(failure.verdict(), DeadLetter(reason), "{failure}");
    }
}

#[test]
fn what_the_image_host_may_mend_is_retried_within_its_budget() {
    for code in [408, 425, 429, 500, 502, 503, 599] {
        let expected = Retry { reason: Reason::HostFailed, budget: TRANSIENT_BUDGET, after: None };
        assert_eq!(status(code).verdict(), expected, "{code}");
    }
    for code in [401, 403, 404, 410] {
        let expected = Retry { reason: Reason::HostRefused, budget: REFUSED_BUDGET, after: None };
        assert_eq!(status(code).verdict(), expected, "{code}");
    }
    let timeout = fetch::Error::Timeout { host: host(), phase: "headers", limit: Duration::ZERO };
    assert!(matches!(Failure::Fetch(timeout).verdict(), Retry { reason: Reason::HostFailed, .. }));
}

#[test]
fn a_document_that_the_store_fails_on_alone_is_retried_within_its_budget() {
    let failure = Failure::Index(index::Error::Failed { held: Duration::ZERO, reason: host() });
    let expected = Retry { reason: Reason::StoreFailed, budget: TRANSIENT_BUDGET, after: None };
    assert_eq!(failure.verdict(), expected);
}

#[test]
fn the_host_s_own_wish_travels_with_the_verdict() {
    let after = Some(Duration::from_secs(7));
    let failure = Failure::Fetch(fetch::Error::Status { host: host(), status: 429, retry_after: after });
    assert!(matches!(failure.verdict(), Retry { after: found, .. } if found == after));
}

#[test]
fn a_host_that_failed_all_others_rests_and_our_own_haste_blames_nobody() {
    let failing = Failure::Fetch(fetch::Error::Failing { host: host(), turns: 4 });
    let expected = Outlast { reason: Reason::HostFailed, longest: LONGEST_OUTAGE, after: OUTAGE_REST };
    assert_eq!(failing.verdict(), expected);
    assert_eq!(Failure::Fetch(fetch::Error::Busy { host: host(), what: "a turn" }).verdict(), PutOff);
}

#[test]
fn nothing_is_dead_lettered_because_a_service_was_down() {
    let failures = [
        Failure::Index(index::Error::Unavailable { held: Duration::ZERO, reason: host() }),
        Failure::Index(index::Error::Paused { reason: host() }),
        Failure::Fetch(fetch::Error::Offline { reason: host() }),
        Failure::Index(index::Error::Stopped),
        Failure::Extract(extract::Error::Model(host())),
        Failure::Extract(extract::Error::Stopped),
        Failure::Decode(decode::Error::Stopped),
    ];
    for failure in failures {
        assert_eq!(failure.verdict(), GiveBack, "{failure}");
    }
}

#[test]
fn reason_codes_are_distinct() {
    let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes.len(), Reason::ALL.len());
}
