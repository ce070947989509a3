//! imgdex: search by image, native to Elasticsearch.
//!
//! # Bird's-eye view
//!
//! A producer publishes *image references* (a URL with an id and metadata) to a RabbitMQ queue. A worker takes each one,
//! fetches and decodes the image, computes its 512 VGG16 features, and writes one document per image into Elasticsearch,
//! in an index made from a versioned mapping. A search computes the features of a query image the same way and asks the
//! store for the nearest documents under one of four exact distances. Without any service the same pipeline indexes a
//! folder into an embedded store (SQLite) and searches it in memory.
//!
//! Each message is one task that walks the whole way on its own stack: [`pipeline::Pipeline::process`] is the one
//! function to read first. What a failure means is decided beside it, in [`pipeline::Failure::verdict`]; performing that
//! verdict towards the broker is [`broker::receipt`]'s business alone.
//!
//! # Map, in reading order
//!
//! | module | what it is |
//! |---|---|
//! | [`pipeline`] | `process()`, and what each failure means |
//! | [`message`] | the wire format of an image reference, and nothing else |
//! | [`fetch`] | URL to bytes; `guard` decides which addresses may be reached |
//! | [`decode`] | bytes to pixels, with limits before allocation |
//! | [`extract`] | the model thread: batching behind one `async fn` |
//! | [`model`] | manifests, weights, preprocessing, the network; `kernels` has its fused convolutions |
//! | [`embedding`], [`distance`] | the vector type; the four modes and their formulas |
//! | [`store`] | documents and hits; the embedded store and Elasticsearch |
//! | [`index`] | batches of writes, flushed and retried item by item |
//! | [`mappings`] | the versioned index mappings and applying them |
//! | [`broker`] | sessions, receipts, publishing, topology, dead letters |
//! | [`worker`] | deliveries to `process` to receipts; drain |
//! | [`server`] | `/live`, `/ready`, `/metrics` |
//! | [`memory`] | the most memory that a worker takes, term by term |
//! | [`metrics`], [`backoff`], [`shutdown`] | small leaves used by the above |
//! | [`config`], [`cli`] | settings from flags, environment and file; one file per command |
//!
//! # Invariants
//!
//! - A stage may use the noun it consumes, never the verb before it. Dependencies point one way: `cli -> worker ->
//!   pipeline -> {message, fetch, decode, extract, index} -> {model, store}`.
//! - `broker` knows no images. Only `broker::receipt` acknowledges a delivery; `broker::dead` removes dead letters on request.
//! - Nothing but `store::elasticsearch::client` speaks HTTP to Elasticsearch.
//! - Only `pipeline` knows the order of the stages.
//! - A vector is never compared with one of another model: the model's fingerprint is written into every store and
//!   checked before the first write and the first search.
//! - There is one trait, [`model::Model`]. Everything else is an enum or a struct, but in `model::kernels`: instruction sets
//!   are types there, so that each gets machine code of its own.
//! - `unsafe` stands in [`model::kernels`] and in the embedded store's scan alone, each block with its reason.
//! - Deliberately absent: statics, an actor framework, a plugin registry, retries hidden in a transport.

pub mod atomic_file;
pub mod backpressure;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dead_letter;
pub mod decode;
pub mod distance;
pub mod embedder;
pub mod embedding;
pub mod extract;
pub mod fetch;
pub mod footprint;
pub mod health;
pub mod indexer;
pub mod ingest;
pub mod machine;
pub mod message;
pub mod metrics;
pub mod model;
pub mod outcome;
pub mod pipeline;
pub mod server;
pub mod shutdown;
mod simd;
pub mod sources;
pub mod store;
pub mod transfer;
pub mod worker;
