//! How much is done at a time, and when to try again.

pub mod backoff;
pub mod semaphore;
pub mod window;
