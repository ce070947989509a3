//! Waiting by polling until a deadline, instead of by a fixed sleep.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Far longer than anything takes on a busy machine: only a failing test waits for it.
const TIMEOUT: Duration = Duration::from_mins(1);
const INTERVAL: Duration = Duration::from_millis(50);
/// For states that last a short time.
const SHORT_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until the probe returns `Ok`. Its last `Err` is shown when the time is up.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(what, TIMEOUT, probe).await
}

/// The same, with a time-out.
pub async fn until_within<T>(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => panic!("{what}: not within {timeout:?}, but {seen}"),
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

/// Waits until the probe returns this value.
pub async fn until_equal<T: PartialEq + Debug>(what: &str, expected: T, mut probe: impl AsyncFnMut() -> T) {
    until(what, async || {
        let seen = probe().await;
        if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}")) }
    })
    .await;
}

/// Waits until the probe returns `true`, and polls often enough to return at that moment.
pub async fn at_once(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !probe().await {
            sleep(SHORT_INTERVAL).await;
        }
    })
    .await;
}

/// Runs an action while a probe is called repeatedly, with a pause after each call. Returns how often it was called.
pub async fn throughout<T>(action: impl Future<Output = T>, pause: Duration, mut probe: impl AsyncFnMut()) -> (T, u64) {
    let mut calls = 0;
    let probing = async {
        loop {
            probe().await;
            calls += 1;
            sleep(pause).await;
        }
    };
    let result = tokio::select! { result = action => result, never = probing => never };
    (result, calls)
}

/// Waits for a future that would hang if the code were wrong.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(TIMEOUT, future).await.ok();
    in_time.unwrap_or_else(|| panic!("{what}: not within {TIMEOUT:?}"))
}
