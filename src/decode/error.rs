//! Why there are no pixels.

use std::time::Duration;

/// Why there are no pixels.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file is empty")]
    Empty,
    /// No known magic bytes.
    #[error("not an image: it begins with {begins}")]
    Unknown {
        /// The first bytes, as text or hexadecimal.
        begins: String,
    },
    /// A format that is recognised and not decoded.
    #[error("{format} is not supported{hint}")]
    Unsupported {
        format: &'static str,
        /// What can be done, or nothing.
        hint: &'static str,
    },
    /// A variant that is not decoded, of a format that is: arithmetic coding, floating-point samples.
    #[error("this kind of {format} is not supported: {reason}")]
    Variant { format: &'static str, reason: String },
    /// More pixels than allowed.
    #[error("the image has {width} x {height} pixels, more than {limit} in all")]
    TooLarge { width: u32, height: u32, limit: u64 },
    /// A side longer than any picture's.
    #[error("the image has {width} x {height} pixels; a side may have {limit}")]
    TooLong { width: u32, height: u32, limit: u32 },
    /// The decoder reported an error.
    #[error("damaged {format}: {reason}")]
    Malformed { format: &'static str, reason: String },
    #[error("decoding took longer than {limit:?}")]
    Timeout { limit: Duration },
    #[error("the decoder panicked: {reason}")]
    Panicked { reason: String },
    /// The process is stopping.
    #[error("decoding has stopped")]
    Stopped,
}
