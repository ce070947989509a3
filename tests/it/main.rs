//! Integration tests: the program as a child process, with a real RabbitMQ and a real Elasticsearch where they matter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub
)]

/// The direction of imports between the modules of the program.
mod architecture;
/// The commands on the embedded store: output, exit codes, settings.
mod cli;
/// The files under deploy/ fit the program.
mod deploy;
/// Features of the network, and import and packing of its weights.
mod features;
/// Fetching from slow, lying and malicious hosts, name servers and files.
mod fetch;
/// The numbered guarantees of docs/reliability.md: a worker between queue and index, under faults.
mod guarantees;
/// Decoded and sampled pixels equal those of Pillow.
mod images;
/// Queues, receipts and publishing.
mod queue;
/// Elasticsearch and the embedded store.
mod store;
/// Servers, stubs, faults and child processes for the tests.
mod support;
