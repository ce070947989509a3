//! Documents out of a store and into one, as files.

pub mod ndjson;
