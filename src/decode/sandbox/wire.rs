//! What the two ends of the connection say to each other: frames of a JSON message and bytes.
//!
//! A frame is the length of the message (`u32`), the length of the bytes (`u64`), both little-endian, the message, the bytes. The
//! process that asked believes nothing: a decoder that a malicious image has taken over may send anything.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::guard::Guards;
use crate::decode::job::{Job, Product};
use crate::decode::{Error, Format, Size};

/// The longest message: a job, or an error that quotes its file.
const LONGEST_MESSAGE: usize = 64 << 10;

/// To the process that decodes.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The bytes are the image file.
    Decode(Job),
    /// There is memory for the pixels that were announced.
    Proceed,
    /// Tries something that must be refused.
    Attempt(Attempt),
}

/// From the process that decodes.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The limits are in force; the first report.
    Ready {
        guards: Guards,
        /// The address space taken before any work.
        base_bytes: u64,
        /// What it may take besides, of what it was asked to.
        most_bytes: u64,
    },
    /// So many pixels must be held; waits for [`Order::Proceed`].
    Needs {
        pixels: u64,
    },
    /// The bytes are the products, one after the other.
    Decoded {
        size: Size,
        format: Format,
        missing: f32,
    },
    Failed(Error),
    /// What came of an attempt: an error that says who refused it.
    Attempted(Result<(), String>),
}

/// Something that a decoder must not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Attempt {
    /// Open a file for reading.
    Open,
    /// Create a file.
    Write,
    /// Make a network socket.
    Socket,
    /// Start a program.
    Execute,
    /// Signal another process.
    Kill,
    /// Use up all memory.
    Memory,
    /// Use a processor for ever.
    Time,
}

impl Attempt {
    /// What would reach something outside the process.
    pub const ESCAPES: [Self; 5] = [Self::Open, Self::Write, Self::Socket, Self::Execute, Self::Kill];

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Writes one frame.
pub fn write_frame(to: &mut impl Write, message: &impl Serialize, bytes: &[u8]) -> io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let mut head = Vec::with_capacity(12 + message.len());
    head.extend((message.len() as u32).to_le_bytes());
    head.extend((bytes.len() as u64).to_le_bytes());
    head.extend(message);
    to.write_all(&head)?;
    to.write_all(bytes)
}

/// Reads one frame with at most `most` bytes.
pub fn read_frame<M: DeserializeOwned>(from: &mut impl Read, most: usize) -> io::Result<(M, Vec<u8>)> {
    let mut head = [0; 12];
    from.read_exact(&mut head)?;
    let [m0, m1, m2, m3, length @ ..] = head;
    let (message, length) = (u32::from_le_bytes([m0, m1, m2, m3]) as usize, u64::from_le_bytes(length));
    if message > LONGEST_MESSAGE || length > most as u64 {
        let text = format!("a frame of {message} and {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut json = vec![0; message];
    from.read_exact(&mut json)?;
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok((serde_json::from_slice(&json)?, bytes))
}

/// The products of a job from the bytes of its report; `None` unless they are exactly those.
pub fn products(job: &Job, mut bytes: &[u8]) -> Option<Vec<Product>> {
    let mut products = Vec::with_capacity(job.requests.len());
    for request in &job.requests {
        let (product, rest) = bytes.split_at_checked(request.bytes())?;
        products.push(request.product(product)?);
        bytes = rest;
    }
    bytes.is_empty().then_some(products)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_written() {
        let mut written = Vec::new();
        write_frame(&mut written, &Order::Proceed, b"abc").unwrap();
        let (message, bytes) = read_frame::<Order>(&mut written.as_slice(), 3).unwrap();
        assert!(matches!(message, Order::Proceed));
        assert_eq!(bytes, b"abc");
    }

    #[test]
    fn frames_that_make_no_sense_are_errors() {
        let mut written = Vec::new();
        write_frame(&mut written, &Order::Proceed, b"abc").unwrap();
        let error = |bytes: &[u8], most| read_frame::<Order>(&mut &*bytes, most).unwrap_err().kind();
        assert_eq!(error(&written, 2), io::ErrorKind::InvalidData, "more bytes than asked for");
        assert_eq!(error(&written[..written.len() - 1], 3), io::ErrorKind::UnexpectedEof);
        assert_eq!(error(&[0xff; 12], usize::MAX), io::ErrorKind::InvalidData, "a message of 4 GiB");
        assert_eq!(error(&[&[2, 0, 0, 0][..], &[0; 8], b"{}"].concat(), 0), io::ErrorKind::InvalidData);
    }
}
