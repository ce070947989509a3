//! Decoding on threads of this process, where the system has no sandbox: panics are contained and time is limited, memory is not.

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::job::{self, Decoded, Job};
use super::room::Room;
use super::{Error, cpu_time};

/// Decodes one image.
pub async fn decode(job: Job, file: Bytes, room: &Room, permit: OwnedSemaphorePermit) -> Result<Decoded, Error> {
    let (measuring, header) = (job.clone(), file.clone());
    let limit = cpu_time(super::SMALL.min(job.limits.max_pixels), file.len() as u64);
    let (pixels, permit) = contained(limit, permit, move || measuring.measure(&header)).await?;
    // Not part of the image's own time.
    let held = room.acquire(pixels).await?;
    let limit = cpu_time(pixels, file.len() as u64);
    let work = move || {
        let decoded = job.run(&file, pixels);
        // Held by the thread, which may still run after its caller has given up.
        drop((held, file));
        decoded
    };
    Ok(contained(limit, permit, work).await?.0)
}

/// Runs work that may hang or panic; gives the permit back with the result.
///
/// The thread holds the permit, not the caller: a thread that overruns keeps it until it ends, so that malicious images can
/// slow decoding but never pile up. It is a plain thread because a runtime waits for its blocking threads when it stops, and a
/// stuck decoder must not prevent the process from ending.
async fn contained<T: Send + 'static>(
    limit: Duration,
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), Error> {
    let (answer, answered) = oneshot::channel();
    let run = move || {
        let result = job::contained(work);
        // The caller may have given up.
        let _ = answer.send((result, permit));
    };
    let started = thread::Builder::new().name("decode".into()).spawn(run);
    started.map_err(|error| Error::Unavailable { reason: format!("no thread for decoding: {error}") })?;
    match timeout(limit, answered).await {
        Err(_) => Err(Error::Timeout { limit }),
        Ok(Err(_)) => Err(Error::Stopped),
        Ok(Ok((result, permit))) => result.map(|value| (value, permit)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::{Arc, mpsc};

    use tokio::sync::Semaphore;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    async fn permit(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        Arc::clone(permits).acquire_owned().await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_contained_and_gives_its_permit_back() {
        let permits = Arc::new(Semaphore::new(1));
        for _ in 0..3 {
            let result: Result<((), _), Error> =
                contained(LONG, permit(&permits).await, || panic!("sample {} is out of bounds", 7)).await;
            let Err(Error::Panicked { reason }) = result else { panic!("not contained") };
            assert_eq!(reason, "sample 7 is out of bounds");
        }
        assert_eq!(contained(LONG, permit(&permits).await, || Ok(1)).await.unwrap().0, 1);
    }

    #[tokio::test]
    async fn an_overrunning_thread_keeps_its_permit_until_it_ends() {
        let permits = Arc::new(Semaphore::new(1));
        let (release, stuck) = mpsc::channel::<()>();
        let short = Duration::from_millis(20);
        let result = contained(short, permit(&permits).await, move || Ok(stuck.recv().is_ok())).await;
        assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
        // The caller has its result, the thread still runs, and no other may start.
        assert_eq!(permits.available_permits(), 0);
        release.send(()).unwrap();
        let _again = timeout(LONG, permit(&permits)).await.expect("the permit never came back");
    }
}
