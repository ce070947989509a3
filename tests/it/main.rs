//! Integration tests: the real binary as a child process, real services where they matter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub
)]

/// Both stores against float64 results of numpy.
mod agreement;
/// Queues, receipts and publishing against a real RabbitMQ.
mod broker;
/// The commands as a user runs them, on the embedded store.
mod cli;
/// Inputs that fuzzing found interesting, replayed.
mod corpus;
/// The files under deploy/ against the real program.
mod deploy;
/// The Elasticsearch store against a real server.
mod elastic;
/// The embedded store: versions, damage, kills, a second process, and what a search finds.
mod embedded;
/// Features equal those of Keras.
mod features;
/// Fetching from bad hosts, bad name servers and odd files.
mod fetch;
/// From the queue to the index: the real worker between a real RabbitMQ and a real Elasticsearch.
mod flow;
/// The numbered promises under faults.
mod guarantees;
/// Batches of writes against a scripted Elasticsearch.
mod index;
/// Weights from damaged files and broken downloads.
mod model;
/// Sampled pixels equal those of Pillow.
mod parity;
mod support;
