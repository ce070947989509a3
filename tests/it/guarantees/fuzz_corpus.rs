//! Guarantee 20: the checks of tests/fuzz hold for every input of the fuzz corpus.

use std::fs;
use std::path::Path;

use crate::support::report::report;

#[path = "../../fuzz/checks/mod.rs"]
mod checks;

/// Runs the check of a fuzz target on every input of its corpus. A panic names the input.
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in &inputs {
        let bytes = fs::read(input).unwrap();
        let checked = std::panic::catch_unwind(|| check(&bytes));
        assert!(checked.is_ok(), "{} breaks the check of {target}", input.display());
    }
    inputs.len()
}

#[test]
fn messages_are_references_or_refused() {
    replay("message", checks::message::check);
}

#[test]
fn answers_to_bulk_requests_are_read_without_guessing() {
    replay("bulk_answer", checks::bulk_answer::check);
}

#[test]
fn addresses_and_urls_are_judged_as_registered() {
    replay("guard", checks::guard::check);
}

#[test]
fn images_are_decoded_within_limits_or_refused() {
    let images = replay("decode", checks::decode::check);
    report(20, format_args!("{images} files of the fuzz corpus decoded or refused, none a panic"));
}
