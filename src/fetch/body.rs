//! The bytes of one image: capped while they arrive, counted as held until they are dropped.

use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use crate::metrics::Metrics;

/// The most that is reserved because a header announces it; a lie costs no more than this.
const TRUSTED_CAPACITY: u64 = 1 << 20;

/// A growing body.
pub(super) struct Held {
    bytes: Vec<u8>,
    limit: u64,
    metrics: Arc<Metrics>,
}

impl Held {
    /// An empty body that takes at most `limit` bytes.
    pub(super) fn new(limit: u64, metrics: Arc<Metrics>) -> Self {
        Self { bytes: Vec::new(), limit, metrics }
    }

    /// Makes room for what the sender announces, or refuses it at once.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(super) fn announce(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        self.bytes.reserve(bytes.min(TRUSTED_CAPACITY) as usize);
        Ok(())
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        if (self.bytes.len() + piece.len()) as u64 > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        self.bytes.extend_from_slice(piece);
        self.metrics.hold_bytes(signed(piece.len()));
        Ok(())
    }

    /// The whole body.
    pub(super) fn finish(mut self) -> Bytes {
        self.bytes.shrink_to_fit();
        self.metrics.fetched(self.bytes.len() as u64);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.hold_bytes(-signed(self.bytes.len()));
    }
}

/// A length as the gauge takes it; no allocation is longer than `isize::MAX`.
fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
