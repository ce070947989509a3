//! Elasticsearch and the embedded store, and their agreement.

mod elasticsearch;
mod embedded;
mod score_agreement;
