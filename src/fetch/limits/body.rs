//! The bytes of one image: capped while they arrive, counted as held until they are dropped.

use std::sync::Arc;

use bytes::Bytes;

use crate::fetch::Error;
use crate::fetch::limits::memory::{Budget, Share};

/// The least room that is made at a time.
const LEAST_ROOM: usize = 64 << 10;
/// The most room that is made ahead of what has come.
const MOST_AHEAD: usize = 4 << 20;

/// A growing body. The bytes go before the share that counts them.
pub(in crate::fetch) struct Held {
    bytes: Vec<u8>,
    /// The most that is taken.
    limit: u64,
    /// The most that can still be meant to come.
    expected: u64,
    share: Share,
}

impl Held {
    /// An empty body that takes at most `limit` bytes.
    pub(in crate::fetch) fn new(limit: u64, budget: &Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), limit, expected: limit, share: budget.share() }
    }

    /// Notes what the sender announces, or refuses it at once. Nothing is reserved for it.
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

    /// Appends a piece. Waits where there is no memory for it.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(in crate::fetch) async fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        let needed = self.bytes.len() + piece.len();
        if needed as u64 > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        if needed > self.bytes.capacity() {
            self.make_room(needed).await;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Doubles while that is little, so that few bytes are moved often.
    async fn make_room(&mut self, needed: usize) {
        let (length, capacity) = (self.bytes.len(), self.bytes.capacity());
        let ahead = length.clamp(LEAST_ROOM, MOST_AHEAD);
        let expected = usize::try_from(self.expected).unwrap_or(usize::MAX);
        let room = (length + ahead).min(expected).max(needed);
        self.share.grow(room - capacity).await;
        self.bytes.reserve_exact(room - length);
    }

    /// The whole body.
    pub(in crate::fetch) fn finish(mut self) -> Bytes {
        self.bytes.shrink_to_fit();
        self.share.shrink_to(self.bytes.capacity());
        self.share.metrics().fetched(self.bytes.len() as u64);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Held {
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

    /// Pushes so many bytes in small pieces; the most that was held for one byte that had come.
    fn fill(body: &mut Held, bytes: usize, metrics: &Metrics) {
        let piece = vec![7; 10_000];
        while body.bytes.len() < bytes {
            let length = piece.len().min(bytes - body.bytes.len());
            body.push(&piece[..length]).now_or_never().unwrap().unwrap();
            let (came, held) = (body.bytes.len(), metrics.held_bytes() as usize);
            assert_eq!(held, body.bytes.capacity());
            let most = (2 * came).max(came + LEAST_ROOM).min(came + MOST_AHEAD).min(LIMIT);
            assert!(held <= most, "{held} bytes held where {came} have come");
        }
    }

    #[test]
    fn never_much_more_is_held_than_has_come_and_in_the_end_no_more() {
        let metrics = Arc::new(Metrics::new("test", "test").unwrap());
        let budget = Arc::new(Budget::new(LIMIT as u64, Arc::clone(&metrics)));
        for (length, announced) in [(1, true), (1, false), (123_456, true), (123_456, false), (LIMIT, false)] {
            let mut body = Held::new(LIMIT as u64, &budget);
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
