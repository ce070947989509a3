//! What the tests share: one file per subject.

/// A scripted Elasticsearch.
pub mod bulk_stub;
pub mod dns;
pub mod http;
