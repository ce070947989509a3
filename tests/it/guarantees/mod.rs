//! The numbered guarantees of the docs/reliability.md, each with at least one test.
//!
//! A worker runs as a child process between a real RabbitMQ and a real Elasticsearch. `make test` runs reduced counts;
//! `make guarantees` runs the full ones and prints what the tests report.

mod broker;
mod bulk;
mod delivery;
mod fuzz_corpus;
mod hosts;
mod pauses;
mod poison;
mod soak;
