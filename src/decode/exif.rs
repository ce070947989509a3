//! How a viewer turns an image: from EXIF data, or else from XMP, as Pillow's `ImageOps.exif_transpose` finds it.

use image::metadata::Orientation;

/// EXIF's tag of the orientation.
const ORIENTATION: u16 = 0x0112;
/// The prefix that EXIF data has in JPEG; some writers keep it elsewhere, or write it twice.
const PREFIX: &[u8] = b"Exif\0\0";

/// The orientation in EXIF data; that in XMP counts only if the EXIF data have none.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    by_number(exif.and_then(in_exif), xmp)
}

/// The orientation of a number; that in XMP counts only if there is none.
pub(super) fn by_number(number: Option<u32>, xmp: Option<&[u8]>) -> Orientation {
    let number = number.or_else(|| xmp.and_then(in_xmp));
    number.and_then(|number| Orientation::from_exif(number.min(255) as u8)).unwrap_or(Orientation::NoTransforms)
}

/// The value of the tag in the first directory.
fn in_exif(mut data: &[u8]) -> Option<u32> {
    while let Some(rest) = data.strip_prefix(PREFIX) {
        data = rest;
    }
    let reader = Reader { data, big_endian: data.starts_with(b"MM") };
    // A version in the other byte order is read by the order that the first letters say.
    if !matches!(data.first_chunk()?, b"II\x2a\0" | b"II\0\x2a" | b"MM\0\x2a" | b"MM\x2a\0") {
        return None;
    }
    let directory = reader.long(4)? as usize;
    let mut found = None;
    for entry in 0..usize::from(reader.short(directory)?) {
        let at = directory.checked_add(2 + 12 * entry)?;
        let (Some(tag), Some(kind), Some(count)) = (reader.short(at), reader.short(at + 2), reader.long(at + 4)) else {
            break;
        };
        let size = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            _ => continue,
        };
        let length = size * u64::from(count);
        if length == 0 {
            continue;
        }
        let start = if length > 4 { reader.long(at + 8).map(|offset| offset as usize) } else { Some(at + 8) };
        // Pillow reads no further than the first value that lies outside.
        let Some(start) = start.filter(|start| *start as u64 + length <= data.len() as u64) else { break };
        if tag == ORIENTATION {
            found = match kind {
                3 | 8 => reader.short(start).map(u32::from),
                4 | 9 | 13 => reader.long(start),
                // Not a whole number: there is an orientation, but none that is known.
                _ => Some(0),
            };
        }
    }
    found
}

/// The digit after `tiff:Orientation="` or `tiff:Orientation>`.
fn in_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(at, _)| {
        let rest = &xmp[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u32::from(digit - b'0'))
    })
}

struct Reader<'a> {
    data: &'a [u8],
    big_endian: bool,
}

impl Reader<'_> {
    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A directory of 12-byte entries behind a header.
    fn exif(entries: &[(u16, u16, u32, [u8; 4])]) -> Vec<u8> {
        let mut data = b"Exif\0\0II\x2a\0\x08\0\0\0".to_vec();
        data.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            data.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), value].concat());
        }
        data
    }

    #[test]
    fn whole_numbers_of_any_type_count_and_the_last_one_wins() {
        let turned = Orientation::Rotate90;
        for kind in [3, 4, 8, 9] {
            assert_eq!(orientation(Some(&exif(&[(ORIENTATION, kind, 1, [6, 0, 0, 0])])), None), turned, "type {kind}");
        }
        let twice = exif(&[(ORIENTATION, 3, 1, [3, 0, 0, 0]), (ORIENTATION, 3, 1, [6, 0, 0, 0])]);
        assert_eq!(orientation(Some(&twice), None), turned);
        let prefixed = [PREFIX, &twice].concat();
        assert_eq!(orientation(Some(&prefixed), None), turned);
    }

    #[test]
    fn a_value_outside_ends_the_directory() {
        let cut = exif(&[(0x010f, 2, 100, [255, 0, 0, 0]), (ORIENTATION, 3, 1, [6, 0, 0, 0])]);
        assert_eq!(orientation(Some(&cut), None), Orientation::NoTransforms);
        let before = exif(&[(ORIENTATION, 3, 1, [6, 0, 0, 0]), (0x010f, 2, 100, [255, 0, 0, 0])]);
        assert_eq!(orientation(Some(&before), None), Orientation::Rotate90);
    }

    #[test]
    fn xmp_counts_where_exif_has_none() {
        let none = exif(&[(0x010f, 3, 1, [6, 0, 0, 0])]);
        let upright = exif(&[(ORIENTATION, 3, 1, [1, 0, 0, 0])]);
        for xmp in [&b"<x tiff:Orientation=\"8\"/>"[..], b"<tiff:Orientation>8</tiff:Orientation>"] {
            assert_eq!(orientation(Some(&none), Some(xmp)), Orientation::Rotate270);
            assert_eq!(orientation(None, Some(xmp)), Orientation::Rotate270);
            assert_eq!(orientation(Some(&upright), Some(xmp)), Orientation::NoTransforms);
        }
        assert_eq!(orientation(None, Some(b"tiff:Orientation='8' tiff:Orientation>x")), Orientation::NoTransforms);
    }
}
