//! What must hold for any input: one check per fuzz target. The fuzzer calls them with what it makes up,
//! `tests/it/guarantees/fuzz_corpus.rs` with the inputs that were kept. A check that does not hold panics.

pub mod bulk_answer;
pub mod decode;
pub mod guard;
pub mod message;
