//! The segments of a JPEG file (ITU-T T.81, annex B), read without decoding anything: what kind it is, how large, how many scans.
//!
//! It reads as libjpeg does, which skips what it does not expect, so that nothing that libjpeg decodes goes uncounted.

use super::super::format::Format;
use super::super::raster::malformed;
use super::super::{Error, Size};

pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
const TEM: u8 = 0x01;
const SOS: u8 = 0xda;
const DHP: u8 = 0xde;
const EXP: u8 = 0xdf;
const APP1: u8 = 0xe1;
const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;

/// Streams of tables alone, `SOI` to `EOI`, before the image. Flash writes an empty one.
const MAX_TABLE_STREAMS: usize = 64;
/// Coefficients of a block.
const COEFFICIENTS: usize = 64;
/// Components of a frame that are looked at: a frame of more is refused.
const MAX_COMPONENTS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// Each component comes in one scan.
    Sequential,
    Progressive,
}

/// A component of the frame: its name in scans, and its sampling factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Component {
    id: u8,
    across: u32,
    down: u32,
}

/// What a scan holds.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    /// A bit for each component of the frame.
    components: u8,
    /// The first and last coefficient.
    first: u8,
    last: u8,
    /// Bits that a later scan still brings.
    low: u8,
}

/// Where in the scans data ended too early: before the end of this row of blocks (in units of the largest sampling factor) of the
/// scan, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) scan: usize,
    pub(super) row: u32,
}

/// What the headers say.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    pub(super) size: Size,
    pub(super) process: Process,
    pub(super) arithmetic: bool,
    /// The contents of the first EXIF segment.
    pub(super) exif: Option<&'a [u8]>,
    /// The contents of the last XMP segment.
    pub(super) xmp: Option<&'a [u8]>,
    pub(super) table_streams: usize,
    /// The file up to a segment that is cut off, or to the next image behind one that lacks its end marker.
    pub(super) whole: &'a [u8],
    /// Whether the end marker follows the scans. Unknown, and `false`, where the first scan holds the whole image.
    pub(super) has_end: bool,
    components: Vec<Component>,
    scans: Vec<Scan>,
}

/// The next marker from `at` on, and where what follows it begins.
pub(super) fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        at += bytes.get(at..)?.iter().position(|byte| *byte != 0xff)?;
        match bytes.get(at)? {
            // A byte 0xff of the data.
            0 => at += 1,
            marker => return Some((*marker, at + 1)),
        }
    }
}

pub(super) fn is_restart(marker: u8) -> bool {
    (0xd0..=0xd7).contains(&marker)
}

impl<'a> Headers<'a> {
    /// Reads the segments of the first image up to its last scan.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut headers: Option<Self> = None;
        let (mut exif, mut xmp, mut table_streams, mut whole) = (None, None, 0, bytes);
        let mut at = 2;
        while let Some((marker, body)) = next_marker(bytes, at) {
            at = body;
            match marker {
                // The next image, behind one without an end marker.
                SOI if headers.is_some() => {
                    whole = &bytes[..at - 2];
                    break;
                }
                TEM | SOI | 0xd0..=0xd7 => continue,
                EOI => match &mut headers {
                    Some(headers) => {
                        headers.has_end = true;
                        break;
                    }
                    None if table_streams == MAX_TABLE_STREAMS => return Err(damaged("it has no frame header")),
                    None => {
                        table_streams += 1;
                        continue;
                    }
                },
                _ => {}
            }
            let length = bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(2, |length| u16::from_be_bytes(*length));
            // libjpeg goes on behind the length where it is too small to count itself.
            let end = at + usize::from(length).max(2);
            let Some(segment) = bytes.get(at + 2..end) else {
                whole = &bytes[..at - 2];
                break;
            };
            at = end;
            match (marker, &mut headers) {
                (0xc0..=0xcf, frame) if ![DHT, JPG, DAC].contains(&marker) => {
                    if frame.is_some() {
                        return Err(damaged("it has two frames"));
                    }
                    *frame = Some(Self::frame(marker, segment)?);
                }
                (DHP | EXP, _) => return Err(variant("hierarchical")),
                (SOS, Some(headers)) => {
                    headers.scans.push(headers.scan(segment));
                    if headers.first_scan_is_whole() {
                        break;
                    }
                    headers.check_scans()?;
                }
                (APP1, frame) if frame.as_ref().is_none_or(|frame| frame.scans.is_empty()) => {
                    exif = exif.or_else(|| segment.strip_prefix(b"Exif\0\0"));
                    xmp = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0").or(xmp);
                }
                _ => {}
            }
        }
        let headers = headers.ok_or_else(|| damaged("it has no frame header"))?;
        Ok(Self { exif, xmp, table_streams, whole, ..headers })
    }

    /// A frame header, if it is of a kind that is decoded.
    fn frame(marker: u8, segment: &[u8]) -> Result<Self, Error> {
        let process = match marker {
            0xc0 | 0xc1 | 0xc9 => Process::Sequential,
            0xc2 | 0xca => Process::Progressive,
            0xc3 | 0xcb => return Err(variant("lossless")),
            _ => return Err(variant("hierarchical")),
        };
        let &[precision, h1, h0, w1, w0, count, ref components @ ..] = segment else {
            return Err(damaged("its frame header is too short"));
        };
        if precision != 8 {
            return Err(variant(format!("{precision} bits per sample")));
        }
        if ![1, 3, 4].contains(&count) {
            return Err(variant(format!("{count} components")));
        }
        let component = |&[id, sampling, _]: &[u8; 3]| Component {
            id,
            across: u32::from(sampling >> 4),
            down: u32::from(sampling & 15),
        };
        let components: Vec<_> = components.as_chunks().0.iter().map(component).collect();
        let factors = |component: &Component| (1..=4).contains(&component.across) && (1..=4).contains(&component.down);
        if components.len() != usize::from(count) || !components.iter().all(factors) {
            return Err(damaged("its frame header is inconsistent"));
        }
        Ok(Self {
            size: Size { width: u16::from_be_bytes([w1, w0]).into(), height: u16::from_be_bytes([h1, h0]).into() },
            process,
            arithmetic: marker > JPG,
            exif: None,
            xmp: None,
            table_streams: 0,
            whole: &[],
            has_end: false,
            components,
            scans: Vec::new(),
        })
    }

    /// A scan header. One that is wrong holds nothing: libjpeg refuses it when it comes there.
    fn scan(&self, segment: &[u8]) -> Scan {
        let read = || {
            let (count, rest) = segment.split_first()?;
            let names = rest.get(..2 * usize::from(*count))?.as_chunks::<2>().0;
            let &[first, last, bits] = rest.get(names.len() * 2..)?.first_chunk()?;
            let place = |[id, _]: &[u8; 2]| self.components.iter().position(|component| component.id == *id);
            let components = names.iter().filter_map(place).fold(0, |all, place| all | 1 << place);
            Some(match self.process {
                Process::Sequential => Scan { components, first: 0, last: 63, low: 0 },
                Process::Progressive => Scan { components, first, last, low: bits & 15 },
            })
        };
        read().unwrap_or_default()
    }

    fn first_scan_is_whole(&self) -> bool {
        let all = (1 << self.components.len()) - 1;
        self.process == Process::Sequential && self.scans.first().is_some_and(|scan| scan.components == all)
    }

    pub(super) fn scans(&self) -> usize {
        self.scans.len()
    }

    /// Refuses scans that cost far more time than the image. A scan of a few bytes can stand for all of its blocks.
    fn check_scans(&self) -> Result<(), Error> {
        /// Of progressive files: common encoders write ten for three components and eighteen for four.
        const MOST: usize = 100;
        /// How often all blocks of the image are gone through: common encoders do it about six times.
        const PASSES: u64 = 32;
        /// Blocks that may be gone through in any case: less than 0.1 s.
        const FREE: u64 = 4 << 20;
        let Some(scan) = self.scans.last() else { return Ok(()) };
        match self.process {
            Process::Sequential => {
                if self.scans.iter().rev().skip(1).any(|other| other.components & scan.components != 0) {
                    return Err(damaged("it has two scans of one component"));
                }
                // Those of no component that is known.
                if self.scans.len() > MAX_COMPONENTS {
                    return Err(damaged("it has more scans than components"));
                }
            }
            Process::Progressive if self.scans.len() > MOST => return Err(damaged("it has more than 100 scans")),
            Process::Progressive => {
                let image = self.blocks(u8::MAX);
                let read: u64 = self.scans.iter().map(|scan| self.blocks(scan.components)).sum();
                if read > FREE.max(image.saturating_mul(PASSES)) {
                    return Err(damaged("its scans go through the image too often"));
                }
            }
        }
        Ok(())
    }

    /// The blocks of some components of the frame.
    fn blocks(&self, components: u8) -> u64 {
        let most = |factor: fn(&Component) -> u32| self.components.iter().map(factor).max().unwrap_or(1);
        let across = u64::from(self.size.width.div_ceil(8 * most(|component| component.across)));
        let units = across * u64::from(self.rows());
        let chosen = self.components.iter().enumerate().filter(|(place, _)| components >> place & 1 == 1);
        chosen.map(|(_, component)| units * u64::from(component.across * component.down)).sum()
    }

    /// Rows of blocks, in units of the largest sampling factor.
    fn rows(&self) -> u32 {
        let most = self.components.iter().map(|component| component.down).max().unwrap_or(1);
        self.size.height.div_ceil(8 * most)
    }

    /// The share of the image that did not come, 0 to 1: of the samples, where each component comes in one scan. Of a progressive
    /// file a coefficient counts by its precision: one that lacks its last bit for half.
    pub(super) fn missing(&self, ended: Place) -> f32 {
        let whole = ended.scan.saturating_sub(1).min(self.scans.len());
        let before = self.present(&self.scans[..whole]);
        let with = self.present(&self.scans[..self.scans.len().min(whole + 1)]);
        let part = f64::from(ended.row) / f64::from(self.rows().max(1));
        (1.0 - before - (with - before) * part.min(1.0)).clamp(0.0, 1.0) as f32
    }

    /// The share of the image that the scans hold.
    fn present(&self, scans: &[Scan]) -> f64 {
        let mut precision = vec![[0.0; COEFFICIENTS]; self.components.len()];
        for scan in scans {
            for (place, precision) in precision.iter_mut().enumerate() {
                if scan.components >> place & 1 == 1 {
                    let last = usize::from(scan.last).min(COEFFICIENTS - 1);
                    let known = precision.iter_mut().take(last + 1).skip(scan.first.into());
                    known.for_each(|known| *known = 0.5f64.powi(scan.low.into()));
                }
            }
        }
        let weight = |component: &Component| f64::from(component.across * component.down);
        let total: f64 = self.components.iter().map(weight).sum();
        let known = self.components.iter().zip(&precision);
        let known: f64 = known.map(|(component, known)| weight(component) * known.iter().sum::<f64>()).sum();
        known / (total * COEFFICIENTS as f64)
    }

    /// Whether the scans bring each component at all, and without an end marker each of its bits: an encoder may mean to leave
    /// refinements out, but only the end marker says so.
    pub(super) fn scans_are_complete(&self) -> bool {
        let all = (1 << self.components.len()) - 1;
        let brought = self.scans.iter().filter(|scan| scan.first == 0).fold(0, |all, scan| all | scan.components);
        brought == all && (self.has_end || self.process == Process::Sequential || self.present(&self.scans) >= 1.0)
    }
}

fn damaged(reason: impl Into<String>) -> Error {
    malformed(Format::Jpeg, reason)
}

fn variant(reason: impl Into<String>) -> Error {
    Error::Variant { format: Format::Jpeg, reason: reason.into() }
}
