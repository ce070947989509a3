//! The memory that large images share: as much as one of the largest takes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, SMALL, pixel_memory};

/// A semaphore's permits are 32-bit numbers, so one stands for so many bytes.
const UNIT: u64 = 1 << 20;

#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Room for one image of so many pixels, or several that have as many together.
    pub fn new(max_pixels: u64) -> Self {
        Self(Arc::new(Semaphore::new(units(max_pixels) as usize)))
    }

    /// Waits until there is memory for that many pixels; the memory of small images is not shared. It is given back when the result
    /// is dropped.
    pub async fn acquire(&self, pixels: u64) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if pixels <= SMALL {
            return Ok(None);
        }
        let room = Arc::clone(&self.0).acquire_many_owned(units(pixels)).await;
        room.map(Some).map_err(|_| Error::Stopped)
    }
}

/// The memory of an image's pixels in [`UNIT`]s, at most the largest number that a semaphore counts.
fn units(pixels: u64) -> u32 {
    u32::try_from(pixel_memory(pixels).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn large_images_share_the_memory_of_one_and_small_ones_need_not_wait() {
        let room = Room::new(100_000_000);
        let half = room.acquire(50_000_000).await.unwrap();
        let other = room.acquire(49_000_000).await.unwrap();
        assert!(room.acquire(SMALL + 1).now_or_never().is_none(), "a third one beside them");
        assert!(room.acquire(SMALL).now_or_never().is_some());
        drop((half, other));
        let _largest = room.acquire(100_000_000).await.unwrap();
        // An image too large to be counted is never decoded beside another.
        let unlimited = Room::new(u64::MAX);
        let _any = unlimited.acquire(1 << 60).await.unwrap();
        assert!(unlimited.acquire(1 << 60).now_or_never().is_none());
    }
}
