//! The first directory of a TIFF: which tags it has, and where their values are.

use std::ops::Range;

use super::super::Error;
use super::super::format::Format;
use super::super::raster::malformed;

/// Most values of a tag that are read here; tags that describe pixels have fewer.
const MOST_VALUES: u64 = 1 << 16;

/// The last tag that says something about pixels.
const LAST_TAG: u64 = 339;

/// An entry of the directory.
#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where its values begin.
    at: usize,
}

/// Tags of a file, classic or large.
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    entries: Vec<Entry>,
    /// Where an offset leads back to this directory.
    circle: Option<Range<usize>>,
}

impl<'a> Directory<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut directory = Self { bytes, big_endian: bytes.starts_with(b"MM"), entries: Vec::new(), circle: None };
        (directory.entries, directory.circle) =
            directory.entries().ok_or_else(|| damaged("its directory is cut off"))?;
        let mut tags: Vec<_> = directory.entries.iter().map(|entry| entry.tag).collect();
        tags.sort_unstable();
        if let Some([tag, _]) = tags.array_windows().find(|[tag, next]| tag == next) {
            return Err(damaged(format!("it has the tag {tag} twice")));
        }
        Ok(directory)
    }

    fn entries(&self) -> Option<(Vec<Entry>, Option<Range<usize>>)> {
        let large = self.number(2, 2)? == 43;
        // Widths of an offset and of the number of entries.
        let (offset, counter) = if large { (8, 8) } else { (4, 2) };
        let start = usize::try_from(self.number(if large { 8 } else { 4 }, offset)?).ok()?;
        let count = self.number(start, counter)?;
        let (first, size) = (start + counter, 4 + 2 * offset);
        // The whole directory lies within the file, so it is no larger than that.
        let length = usize::try_from(count).ok()?.checked_mul(size)?;
        self.bytes.get(first..)?.get(..length)?;
        let mut entries: Vec<Entry> = Vec::new();
        let count_of_entries = count as usize;
        for index in 0..count_of_entries {
            let at = first + index * size;
            let (tag, kind) = (self.number(at, 2)? as u16, self.number(at + 2, 2)? as u16);
            let count = self.number(at + 4, offset)?;
            // Unknown types are passed over.
            let Some(width) = width(kind) else { continue };
            let (value, length) = (at + 4 + offset, count.saturating_mul(width as u64));
            let inside = length <= offset as u64;
            let at = if inside { value } else { usize::try_from(self.number(value, offset)?).ok()? };
            // Pillow reads no further than the first value that lies outside: nothing about pixels may follow.
            if (at as u64).saturating_add(length) > self.bytes.len() as u64 {
                let mut unread = (index..count_of_entries).map(|index| self.number(first + index * size, 2));
                if unread.any(|tag| tag.is_none_or(|tag| tag <= LAST_TAG)) {
                    return None;
                }
                break;
            }
            entries.push(Entry { tag, kind, count, at });
        }
        // An offset at its end that leads back to it; other offsets are not followed.
        let circle = self.number(first + length, offset) == Some(start as u64);
        Some((entries, circle.then_some(first + length..first + length + offset)))
    }

    /// A whole number at a place of the file.
    fn number(&self, at: usize, width: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..)?.get(..width)?;
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) })
    }

    fn entry(&self, tag: u16) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.tag == tag).copied()
    }

    /// The whole numbers of a tag; none if it is absent.
    pub(super) fn numbers(&self, tag: u16) -> Result<Vec<u64>, Error> {
        let Some(Entry { kind, count, at, .. }) = self.entry(tag) else { return Ok(Vec::new()) };
        let read = || -> Option<Vec<u64>> {
            let width = width(kind).filter(|_| matches!(kind, 1 | 3 | 4 | 16))?;
            let values = self.bytes.get(at..)?.get(..usize::try_from(count).ok()?.checked_mul(width)?)?;
            (count <= MOST_VALUES).then_some(())?;
            (0..values.len() / width).map(|index| self.number(at + index * width, width)).collect()
        };
        read().ok_or_else(|| damaged(format!("its tag {tag} has no values that can be read")))
    }

    /// The one number of a tag, or the first of several.
    pub(super) fn number_of(&self, tag: u16) -> Result<Option<u64>, Error> {
        Ok(self.numbers(tag)?.first().copied())
    }

    /// The bytes of a tag.
    pub(super) fn bytes_of(&self, tag: u16) -> Option<&'a [u8]> {
        let entry = self.entry(tag).filter(|entry| width(entry.kind) == Some(1))?;
        self.bytes.get(entry.at..)?.get(..usize::try_from(entry.count).ok()?)
    }

    /// The file with another value of a tag of one 16-bit number, and with an end of its directory.
    pub(super) fn alone(&self, tag: u16, value: u16) -> Option<Vec<u8>> {
        let mut copy = self.bytes.to_vec();
        if let Some(offset) = self.circle.clone().and_then(|place| copy.get_mut(place)) {
            offset.fill(0);
        }
        for entry in self.entries.iter().filter(|entry| entry.tag == tag) {
            let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
            (entry.kind == 3 && entry.count == 1).then_some(())?;
            copy.get_mut(entry.at..)?.get_mut(..2)?.copy_from_slice(&bytes);
        }
        Some(copy)
    }
}

/// Bytes of a value by its type.
fn width(kind: u16) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

pub(super) fn damaged(reason: impl Into<String>) -> Error {
    malformed(Format::Tiff, reason)
}
