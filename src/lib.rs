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
//! Each message is one task that takes all stages on its own stack: [`pipeline::Pipeline::process`] is the function to read
//! first. What a failure means is decided beside it, in [`pipeline::Failure::verdict`]; [`broker::receipt`] performs that
//! verdict towards the broker.
//!
//! # Map
//!
//! A module imports only modules that stand below it here. `tests/it/architecture.rs` checks that, with the exact list of what
//! each module imports.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line: `args` to settings, one file per command in `commands`, exit codes, output |
//! | **what runs** | |
//! | [`worker`] | deliveries to `process` to receipts; when consumption pauses; drain |
//! | [`server`] | `/live`, `/ready`, `/metrics` |
//! | [`ingest`] | the pipeline fed from sources instead of deliveries |
//! | [`transfer`] | export and import of documents as files |
//! | [`sources`] | what the SOURCE arguments of commands stand for: files, folders, lists, URLs |
//! | [`dead_letter`] | what a message in one of our queues says about itself |
//! | [`footprint`] | the most memory that a worker takes, term by term |
//! | **the flow** | |
//! | [`pipeline`] | READ FIRST: `process()`, and what each failure means |
//! | [`embedder`] | the one way from a URL or bytes to an embedding: fetch, decode, extract |
//! | [`indexer`] | batches of writes, sent, split and retried item by item; when the store is to blame |
//! | [`message`] | the wire format of an image reference, and nothing else |
//! | [`fetch`] | URL to bytes; `access` says what may be reached, `limits` bounds what is shared |
//! | [`extract`] | the model thread: batching behind one `async fn` |
//! | **what it knows** | |
//! | [`store`] | documents, tombstones, queries and hits; the embedded store and Elasticsearch with its mappings |
//! | [`model`] | manifests, weights, the networks; `vgg16` has the fused convolutions |
//! | [`decode`] | bytes to pixels, with limits before allocation; `preprocess` samples them for a model |
//! | [`broker`] | sessions, receipts, publishing, topology, browsing of queues; knows no images |
//! | **leaves** | |
//! | [`metrics`] | every metric, declared once |
//! | [`outcome`] | `Outcome`, `Verdict` and `Reason` of a message, shared by stages, broker and metrics |
//! | [`config`] | settings from flags, environment and file |
//! | [`embedding`], [`distance`] | the vector type; the four modes and their formulas |
//! | [`backpressure`] | back-off, resizable semaphore, window of the last outcomes |
//! | [`excerpt`], [`error_chain`] | the beginning of a text from outside; an error with its causes |
//! | `simd` | instruction sets behind one trait, and memory aligned for them |
//! | [`health`], [`machine`], [`clock`], [`atomic_file`], [`shutdown`] | conditions of readiness; cores and memory; time; files written as a whole; signals |
//!
//! # Invariants
//!
//! - `outcome` imports nothing, `metrics` only `outcome`. No stage imports `pipeline`. `broker` knows no images: it imports
//!   neither `message` nor a stage. `model` never imports `store`.
//! - Only `pipeline` and `embedder` know the order of the stages.
//! - Only `broker::receipt` acknowledges a delivery; `broker::browse` removes dead letters on request.
//! - Nothing but `store::elasticsearch::client` speaks HTTP to Elasticsearch.
//! - A deletion is a document, [`store::Tombstone`]; which of two writes of an id stands is [`store::Revision::replaces`] and
//!   nothing else.
//! - A vector is never compared with one of another model: the model's fingerprint is written into every store and
//!   checked before the first write and the first search.
//! - `model::load` is the only match over architectures.
//! - Traits are few, and each has several implementations: [`model::Model`]; instruction sets and the work compiled for them
//!   in `simd`; Winograd's algorithms and the forward pass of any instruction set in `model::vgg16::kernels`.
//! - On Linux the bytes of an image are read by [`decode`]'s processes alone, which can do nothing else.
//! - `unsafe` stands in `simd`, in `model::vgg16::kernels`, in the embedded store's scan, in `decode::jpeg::libjpeg` and at the start
//!   of a decoding process alone, each block with its reason.
//! - Deliberately absent: statics, an actor framework, a plugin registry, retries hidden in a transport.

mod atomic_file;
mod backpressure;
mod broker;
mod cli;
mod clock;
mod config;
mod dead_letter;
mod decode;
mod distance;
mod embedder;
mod embedding;
mod error_chain;
mod excerpt;
mod extract;
mod fetch;
mod footprint;
mod health;
mod indexer;
mod ingest;
mod machine;
mod message;
mod metrics;
mod model;
mod outcome;
mod pipeline;
mod server;
mod shutdown;
mod simd;
mod sources;
mod store;
pub mod testing;
mod transfer;
mod worker;

pub use cli::main;
