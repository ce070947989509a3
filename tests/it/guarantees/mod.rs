//! What the program promises under faults, one test or more for each numbered guarantee of README's page on reliability.
//!
//! Counts are reduced in `make test`; `make guarantees` runs the full ones and prints what the tests report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

/// Sessions with the broker: restarts, dead sockets, cancelled consumers, missing queues, rolling restarts.
mod broker;
/// Batches of writes: each item its own fate, storms of 429, requests that are too large.
mod bulk;
/// From one delivery to one document, over kills and in any order.
mod delivery;
/// Inputs that fuzzing found interesting, replayed.
mod fuzz_corpus;
/// Slow and hostile hosts, hostile images, and the memory that they may cost.
mod hosts;
/// What is down is waited for: nothing is dead-lettered for it, and work goes on by itself.
mod pauses;
/// A message that ends the worker ends among the dead letters.
mod poison;
/// Everything at once, at random from a seed.
mod soak;
