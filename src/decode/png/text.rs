//! The text chunks that hold EXIF data or XMP.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

/// The longest text, as Pillow limits it.
const LONGEST: u64 = 1 << 20;

/// One text chunk.
pub(super) struct Text<'a> {
    pub(super) key: &'a [u8],
    value: &'a [u8],
    compressed: bool,
}

impl<'a> Text<'a> {
    /// `None` if the chunk does not hold what its kind requires.
    pub(super) fn read(kind: [u8; 4], payload: &'a [u8]) -> Option<Self> {
        let (key, rest) = split(payload)?;
        Some(match &kind {
            b"tEXt" => Self { key, value: rest, compressed: false },
            b"zTXt" => Self { key, value: rest.strip_prefix(b"\0")?, compressed: true },
            _ => {
                let [compressed, method, rest @ ..] = rest else { return None };
                let (_language, rest) = split(rest)?;
                let (_translated, value) = split(rest)?;
                if *compressed != 0 && *method != 0 {
                    return None;
                }
                Self { key, value, compressed: *compressed != 0 }
            }
        })
    }

    /// The bytes of a text that is not compressed.
    pub(super) fn plain(&self) -> Option<&'a [u8]> {
        Some(self.value).filter(|_| !self.compressed)
    }

    /// The bytes; `None` if they are damaged or too many.
    pub(super) fn content(&self) -> Option<Cow<'a, [u8]>> {
        if !self.compressed {
            return Some(Cow::Borrowed(self.value));
        }
        let mut content = Vec::new();
        ZlibDecoder::new(self.value).take(LONGEST + 1).read_to_end(&mut content).ok()?;
        (content.len() as u64 <= LONGEST).then_some(Cow::Owned(content))
    }

    /// The bytes of a profile as `ImageMagick` writes it: an empty line, a name, a length, then hexadecimal lines.
    pub(super) fn profile(&self) -> Option<Vec<u8>> {
        let content = self.content()?;
        let hexadecimal = content.splitn(4, |byte| *byte == b'\n').nth(3)?;
        let mut digits = hexadecimal.iter().filter(|byte| !byte.is_ascii_whitespace());
        let mut bytes = Vec::with_capacity(hexadecimal.len() / 2);
        while let Some(high) = digits.next() {
            let low = digits.next()?;
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            bytes.push((digit(high)? << 4 | digit(low)?) as u8);
        }
        Some(bytes)
    }
}

/// What lies before the first zero byte, and after it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
