//! Run lengths of a BMP, as Pillow reads them.

use super::super::Error;
use super::header::{Header, damaged, variant};

/// The indices of all rows in the order of the file, one byte each.
pub(super) fn indices(bytes: &[u8], header: &Header<'_>, wide: bool) -> Result<Vec<u8>, Error> {
    let width = header.size.width as usize;
    let length = width * header.size.height as usize;
    let mut indices = Vec::with_capacity(length + usize::from(u8::MAX));
    let mut at = header.offset;
    // The place in the row, as the runs count it.
    let mut x = 0;
    while indices.len() < length {
        let Some(&[count, value]) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { break };
        at += 2;
        match (count, value) {
            (0, 0) => {
                indices.resize(indices.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            // Pillow takes the jump from the wrong bytes.
            (0, 2) => return Err(variant("run lengths that jump")),
            (0, count) => {
                let count = usize::from(count);
                // Pillow leaves out the last one.
                if !wide && count % 2 == 1 {
                    return Err(variant("4-bit run lengths with an odd number of single pixels"));
                }
                let stored = if wide { count } else { count / 2 };
                let Some(literal) = bytes.get(at..).and_then(|rest| rest.get(..stored)) else { break };
                if wide {
                    indices.extend(literal);
                } else {
                    indices.extend(literal.iter().flat_map(|pair| [pair >> 4, pair & 15]));
                }
                // Runs begin at even places of the file.
                at = (at + stored).next_multiple_of(2);
                x += count;
            }
            (count, value) => {
                // What does not fit into the row is left out.
                let count = usize::from(count).min(width.saturating_sub(x));
                let pair = if wide { [value; 2] } else { [value >> 4, value & 15] };
                indices.extend(pair.iter().cycle().take(count));
                x += count;
            }
        }
    }
    if indices.len() < length {
        return Err(damaged("the file ends before the image does"));
    }
    Ok(indices)
}
