//! The format of a file by its first bytes. Names, extensions and content types do not count: they are wrong too often.

use super::{Error, Format};

/// How much of a text is searched for the tag that names it: past a byte order mark, comments and a prolog.
const TEXT_WINDOW: usize = 1024;
/// Bytes of an unknown file that an error shows.
const SHOWN: usize = 16;
/// Brands of an ISO base media file that are read; files have a dozen at most.
const MOST_BRANDS: usize = 64;

/// Formats that are recognised by a prefix and not decoded.
const REFUSED: [(&[u8], &str); 20] = [
    (b"%PDF-", "PDF"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "CUR"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"%!PS", "PostScript"),
    (b"gimp xcf", "XCF"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x7fELF", "an ELF program"),
    (b"{\\rtf", "RTF"),
    (b"Rar!", "a RAR archive"),
];

/// The format of a file, or the error that it is refused with.
pub(super) fn sniff(bytes: &[u8], allow_tiff: bool) -> Result<Format, Error> {
    let format = match bytes {
        [] => return Err(Error::Empty),
        [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
        [b'B', b'M', ..] => Format::Bmp,
        // Classic TIFF has version 42, BigTIFF 43.
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Format::Tiff,
        _ => return Err(refusal(bytes)),
    };
    if format == Format::Tiff && !allow_tiff {
        return Err(unsupported("TIFF", " unless it is allowed with --allow-tiff"));
    }
    Ok(format)
}

fn unsupported(format: &'static str, hint: &'static str) -> Error {
    Error::Unsupported { format: format.into(), hint: hint.into() }
}

fn refusal(bytes: &[u8]) -> Error {
    if let Some(&(_, format)) = REFUSED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return unsupported(format, "");
    }
    if let [a, b, c, d, b'f', b't', b'y', b'p', box_ @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let brands = &box_[..box_.len().min(length.saturating_sub(8))];
        return unsupported(isobmff(brands), "; convert it to JPEG, PNG or WebP");
    }
    match markup(bytes) {
        Some("SVG") => unsupported("SVG", "; convert it to PNG"),
        Some(format) => unsupported(format, ": the address may be a page about the image"),
        None => Error::Unknown { begins: readable(bytes) },
    }
}

/// The content of an ISO base media file (ISO/IEC 14496-12) by its brands: the major one, or else any that it is compatible
/// with, for many writers name the container first and what it holds later.
fn isobmff(file_type: &[u8]) -> &'static str {
    // The major brand, a version, compatible brands. The smallest files keep a brand in the place of the version.
    let brands = || file_type.as_chunks::<4>().0.iter().take(MOST_BRANDS);
    let specific = brands().find_map(|brand| match brand {
        b"avif" | b"avis" => Some("AVIF"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => Some("HEIC"),
        b"crx " => Some("Canon CR3"),
        b"jxl " => Some("JPEG XL"),
        b"jp2 " | b"jpx " | b"jpm " | b"jph " | b"mjp2" => Some("JPEG 2000"),
        _ => None,
    });
    let still = || brands().any(|brand| matches!(brand, b"mif1" | b"mif2" | b"msf1" | b"miaf"));
    specific.or_else(|| still().then_some("HEIF")).unwrap_or("MP4 or a related video")
}

fn markup(bytes: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_WINDOW)]).to_ascii_lowercase();
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if !text.starts_with('<') {
        return None;
    }
    if text.starts_with("<!doctype html") || text.contains("<html") {
        Some("HTML")
    } else if text.contains("<svg") {
        Some("SVG")
    } else if text.starts_with("<?xml") {
        Some("XML")
    } else {
        None
    }
}

fn readable(bytes: &[u8]) -> String {
    let begins = &bytes[..bytes.len().min(SHOWN)];
    if begins.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
        format!("{:?}", String::from_utf8_lossy(begins))
    } else {
        begins.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn magic_bytes_decide() {
        for (bytes, format) in [
            (&b"\xff\xd8\xff\xe0"[..], Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n", Format::Png),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Format::WebP),
            (b"GIF87a", Format::Gif),
            (b"GIF89a", Format::Gif),
            (b"BM\0\0", Format::Bmp),
            (b"II*\0", Format::Tiff),
            (b"MM\0*", Format::Tiff),
        ] {
            assert_eq!(sniff(bytes, true).unwrap(), format, "{bytes:?}");
        }
    }

    #[test]
    fn media_files_are_told_by_all_their_brands() {
        for (brands, expected) in [
            ("avif\0\0\0\0", "AVIF"),
            ("avis\0\0\0\0msf1avif", "AVIF"),
            ("mif1\0\0\0\0mif1avifmiaf", "AVIF"),
            ("msf1\0\0\0\0msf1avis", "AVIF"),
            ("mif3avif", "AVIF"),
            ("heic\0\0\0\0mif1heic", "HEIC"),
            ("heix\0\0\0\0mif1heix", "HEIC"),
            ("mif1\0\0\0\0mif1heic", "HEIC"),
            ("mif1\0\0\0\0MiHEmiafheic", "HEIC"),
            ("msf1\0\0\0\0hevcmsf1", "HEIC"),
            ("mif1\0\0\0\0mif1miaf", "HEIF"),
            ("crx \0\0\0\x01crx isom", "Canon CR3"),
            ("jxl \0\0\0\0jxl ", "JPEG XL"),
            ("jp2 \0\0\0\0jp2 ", "JPEG 2000"),
            ("isom\0\0\0\0isommp42", "MP4 or a related video"),
            ("qt  \0\0\0\0qt  ", "MP4 or a related video"),
        ] {
            let length = 8 + brands.len() as u32;
            // What follows the box names no brand.
            let file = [&length.to_be_bytes()[..], b"ftyp", brands.as_bytes(), b"heicavif"].concat();
            let message = sniff(&file, false).unwrap_err().to_string();
            assert_eq!(message, format!("{expected} is not supported; convert it to JPEG, PNG or WebP"), "{brands:?}");
        }
    }

    #[test]
    fn files_that_are_not_images_are_refused_by_name() {
        for (bytes, expected) in [
            (&b""[..], "the file is empty"),
            (b"II*\0", "TIFF is not supported unless it is allowed with --allow-tiff"),
            (b"%PDF-1.7\n", "PDF is not supported"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF is not supported"),
            (b"\0\0\0\x20ftypheic\0\0\0\0", "HEIC is not supported"),
            (b"\xff\x0a\x00", "JPEG XL is not supported"),
            (b"\0\0\x01\0\x01\0", "ICO is not supported"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG is not supported"),
            (b"<?xml version='1.0'?>\n<!-- drawn by hand -->\n<svg>", "SVG is not supported"),
            (b"\xef\xbb\xbf \n<!DOCTYPE HTML><title>x", "HTML is not supported"),
            (b"<HTML><body><svg/>", "HTML is not supported"),
            (b"<?xml version='1.0'?><rss/>", "XML is not supported"),
            (b"hello, this is text", "not an image: it begins with \"hello, this is t\""),
            (b"RIFF\0\0\0\0WAVEfmt ", "not an image: it begins with 52 49 46 46 00"),
            (b"\xff\xd8", "not an image: it begins with ff d8"),
        ] {
            let message = sniff(bytes, false).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message:?} does not begin with {expected:?}");
        }
    }
}
