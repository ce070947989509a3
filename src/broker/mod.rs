//! Sessions, receipts, publishing and the topology of exchange and queues. Knows no images.
//!
//! [`consumer`] opens one consuming session after the other. Each delivery becomes a [`receipt::Receipt`], and nothing else
//! acknowledges it. [`quarantine`] hands out messages that were redelivered too often, one at a time. [`publish`] is the
//! producer's side. [`browse`] looks into queues, and replays or removes dead letters.
//!
//! A file imports only files to its left: `error`, `confirm`, [`headers`], [`topology`], `connection`, `session`,
//! [`receipt`], [`quarantine`], [`consumer`]. [`publish`] and [`browse`] have connections of their own and no session.

pub mod browse;
mod confirm;
mod connection;
pub mod consumer;
mod error;
pub mod headers;
pub mod publish;
pub mod quarantine;
pub mod receipt;
mod session;
pub mod topology;

pub use connection::Settings;
pub use error::Error;
