#![no_main]

#[path = "../checks/bulk_answer.rs"]
mod bulk_answer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulk_answer::check(bytes));
