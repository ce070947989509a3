//! Waiting for what others do: asked again and again until a deadline, never a fixed sleep.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Far beyond what anything takes on a busy machine: only a failing test waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
const INTERVAL: Duration = Duration::from_millis(50);
/// For what is over soon after it has begun.
const SHORT_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until the probe has something to return. What it says instead is shown when the time is up.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(what, PATIENCE, probe).await
}

/// The same, for what takes long.
pub async fn until_within<T>(what: &str, patience: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => panic!("{what}: not within {patience:?}, but {seen}"),
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

/// Waits until the probe returns what is expected.
pub async fn until_equal<T: PartialEq + Debug>(what: &str, expected: T, mut probe: impl AsyncFnMut() -> T) {
    until(what, async || {
        let seen = probe().await;
        if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}")) }
    })
    .await;
}

/// Waits until the probe says yes, and returns at that moment, as nearly as can be.
pub async fn at_once(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !probe().await {
            sleep(SHORT_INTERVAL).await;
        }
    })
    .await;
}

/// Tells a story while something is asked again and again, after a pause each time; how often it was.
pub async fn throughout<T>(story: impl Future<Output = T>, pause: Duration, mut probe: impl AsyncFnMut()) -> (T, u64) {
    let mut asked = 0;
    let asking = async {
        loop {
            probe().await;
            asked += 1;
            sleep(pause).await;
        }
    };
    let told = tokio::select! { told = story => told, never = asking => never };
    (told, asked)
}

/// Waits for something that would hang if the code were wrong.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(PATIENCE, future).await.ok();
    in_time.unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"))
}
