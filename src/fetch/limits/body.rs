//! The bytes of one image: capped while they arrive, counted as held until they are dropped.

use std::sync::Arc;

use bytes::Bytes;

use crate::fetch::error::Error;
use crate::fetch::limits::memory::{MemoryBudget, Reservation};

/// The least that the capacity grows by at a time.
const MIN_GROWTH: usize = 64 << 10;
/// The most capacity ahead of the bytes that have arrived.
const MAX_GROWTH: usize = 4 << 20;

/// A growing body. The fields drop in order: the bytes before the reservation that counts them.
pub(in crate::fetch) struct Body {
    bytes: Vec<u8>,
    limit: u64,
    /// The announced length, else the limit.
    expected: u64,
    reservation: Reservation,
}

impl Body {
    /// An empty body that takes at most `limit` bytes.
    pub(in crate::fetch) fn new(limit: u64, budget: &Arc<MemoryBudget>) -> Self {
        Self { bytes: Vec::new(), limit, expected: limit, reservation: budget.reservation() }
    }

    /// Records the announced length, or refuses it at once. Reserves nothing.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(in crate::fetch) fn announce(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        self.expected = bytes;
        Ok(())
    }

    /// Appends a piece. Waits while there is no memory for it.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(in crate::fetch) async fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        let needed = self.bytes.len() + piece.len();
        if needed as u64 > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        if needed > self.bytes.capacity() {
            self.grow(needed).await;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Doubles a small body, so that its bytes are not moved too often; a large one grows by a fixed step.
    async fn grow(&mut self, needed: usize) {
        let (length, capacity) = (self.bytes.len(), self.bytes.capacity());
        let ahead = length.clamp(MIN_GROWTH, MAX_GROWTH);
        let expected = usize::try_from(self.expected).unwrap_or(usize::MAX);
        let room = (length + ahead).min(expected).max(needed);
        self.reservation.grow(room - capacity).await;
        self.bytes.reserve_exact(room - length);
    }

    pub(in crate::fetch) fn finish(mut self) -> Bytes {
        self.bytes.shrink_to_fit();
        self.reservation.shrink_to(self.bytes.capacity());
        self.reservation.metrics().fetched(self.bytes.len() as u64);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use futures_util::FutureExt;

    use super::*;
    use crate::metrics::Metrics;

    const LIMIT: usize = 32 << 20;

    /// Pushes so many bytes in small pieces, and checks how much is held for those that have arrived.
    fn fill(body: &mut Body, bytes: usize, metrics: &Metrics) {
        let piece = vec![7; 10_000];
        while body.bytes.len() < bytes {
            let length = piece.len().min(bytes - body.bytes.len());
            body.push(&piece[..length]).now_or_never().unwrap().unwrap();
            let (arrived, held) = (body.bytes.len(), metrics.held_bytes() as usize);
            assert_eq!(held, body.bytes.capacity());
            let most = (2 * arrived).max(arrived + MIN_GROWTH).min(arrived + MAX_GROWTH).min(LIMIT);
            assert!(held <= most, "{held} bytes held where {arrived} have arrived");
        }
    }

    #[test]
    fn little_more_is_held_than_has_arrived_and_no_more_in_the_end() {
        let metrics = Arc::new(Metrics::new("test", "test").unwrap());
        let budget = Arc::new(MemoryBudget::new(LIMIT as u64, Arc::clone(&metrics)));
        for (length, announced) in [(1, true), (1, false), (123_456, true), (123_456, false), (LIMIT, false)] {
            let mut body = Body::new(LIMIT as u64, &budget);
            if announced {
                body.announce(length as u64).unwrap();
            }
            assert_eq!(metrics.held_bytes(), 0, "an announcement reserves nothing");
            fill(&mut body, length, &metrics);
            let bytes = body.finish();
            assert_eq!((bytes.len(), metrics.held_bytes() as usize), (length, length));
        }
        assert_eq!(metrics.held_bytes(), 0);
    }
}
