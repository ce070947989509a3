//! Why there are no pixels.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Format;
use crate::outcome::KillCause;

/// Why there are no pixels. What an image may be to blame for travels from the process that decodes to the one that asked; the
/// rest only the latter can say.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
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
        format: Cow<'static, str>,
        /// What can be done, or nothing.
        hint: Cow<'static, str>,
    },
    /// A variant that is not decoded, of a format that is: lossless JPEG, floating-point samples.
    #[error("this kind of {format} is not supported: {reason}")]
    Variant { format: Format, reason: String },
    /// More pixels than allowed.
    #[error("the image has {width} x {height} pixels, more than {limit} in all")]
    TooLarge { width: u32, height: u32, limit: u64 },
    /// A side longer than any picture's.
    #[error("the image has {width} x {height} pixels; a side may have {limit}")]
    TooLong { width: u32, height: u32, limit: u32 },
    /// The decoder reported an error.
    #[error("damaged {format}: {reason}")]
    Malformed { format: Format, reason: String },
    #[error("decoding took longer than {limit:?}")]
    #[serde(skip)]
    Timeout { limit: Duration },
    #[error("the decoder panicked: {reason}")]
    Panicked { reason: String },
    /// The process that decoded the image was killed: by its limits, by us, or by the kernel.
    #[error("the decoder was killed ({}): {reason}", cause.name())]
    #[serde(skip)]
    Killed { cause: KillCause, reason: String },
    /// No process could be started to decode in. Nothing that the image did.
    #[error("images cannot be decoded: {reason}")]
    #[serde(skip)]
    Unavailable { reason: String },
    /// The process is stopping.
    #[error("decoding has stopped")]
    #[serde(skip)]
    Stopped,
}
