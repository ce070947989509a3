//! Integration tests: the real binary as a child process, real services where they matter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

/// Both stores against float64 results of numpy.
mod agreement;
/// The files under deploy/ against the real program.
mod deploy;
/// The Elasticsearch store against a real server.
mod elastic;
/// Fetching from bad hosts, bad name servers and odd files.
mod fetch;
/// Batches of writes against a scripted Elasticsearch.
mod index;
/// Pixels and features equal those of Pillow and Keras.
mod parity;
mod support;
