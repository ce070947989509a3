//! From the queue to the index: the real worker between a real RabbitMQ and a real Elasticsearch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod books;
mod letters;
mod readiness;
mod stops;
mod versions;
