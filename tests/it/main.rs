//! Integration tests: the real binary as a child process, real services where they matter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub
)]

/// The commands as a user runs them, on the embedded store.
mod cli;
/// The files under deploy/ against the real program.
mod deploy;
/// The network and its weights.
mod features;
/// Fetching from bad hosts, bad name servers and odd files.
mod fetch;
/// The numbered guarantees, from the queue to the index.
mod guarantees;
/// Decoded and sampled pixels.
mod images;
/// Queues, receipts and publishing against a real RabbitMQ.
mod queue;
/// Both stores: Elasticsearch and the embedded one.
mod store;
/// What the tests share.
mod support;
