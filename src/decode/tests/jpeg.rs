//! JPEG files that are cut off, of unusual kinds, or made to cost time. `tests/it/images` compares pixels.

use std::path::Path;
use std::time::{Duration, Instant};

use super::hostile::LIMITS;
use super::*;
use crate::decode::formats::{decode, measure};
use crate::decode::raster::{Limits, Raster, Samples};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jpeg").join(name)).unwrap()
}

fn samples(raster: Raster) -> Vec<u8> {
    match raster.samples {
        Samples::Grey8(samples) | Samples::Rgb8(samples) => samples,
        Samples::Grey16(_) | Samples::Rgba8(_) => panic!("not from a JPEG file"),
    }
}

fn refusal(bytes: &[u8]) -> String {
    match decode(bytes, &LIMITS) {
        Ok(raster) => panic!("{:?} was decoded", raster.size),
        Err(error) => error.to_string(),
    }
}

const CUT: &str = "damaged jpeg: the file ends before the image does";

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    [&[0xff, marker][..], &(body.len() as u16 + 2).to_be_bytes(), body].concat()
}

/// Puts bytes in front of the first marker of this kind.
fn before(bytes: &[u8], marker: u8, inserted: &[u8]) -> Vec<u8> {
    let at = bytes.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
    [&bytes[..at], inserted, &bytes[at..]].concat()
}

/// The bytes from the first segment of this kind to its end.
fn patched(bytes: &[u8], marker: u8, patches: &[(usize, u8)]) -> Vec<u8> {
    let at = bytes.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
    let mut bytes = bytes.to_vec();
    for (offset, byte) in patches {
        bytes[at + offset] = *byte;
    }
    bytes
}

#[test]
fn a_file_that_lacks_only_its_end_marker_is_an_image() {
    for name in ["420.jpg", "420-in-three-scans.jpg", "420-restarts.jpg", "progressive.jpg", "progressive-cmyk.jpg"] {
        let whole = fixture(name);
        let expected = samples(decode(&whole, &LIMITS).unwrap());
        let bare = &whole[..whole.len() - 2];
        for end in [&b""[..], &[0; 512], b"\0\0\0\x18ftypmp42", &whole] {
            let raster = decode(&[bare, end].concat(), &LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(raster.missing <= 0.0);
            assert!(samples(raster) == expected, "{name}");
        }
    }
}

#[test]
fn a_file_that_lacks_a_part_of_its_image_is_refused() {
    for name in ["420.jpg", "420-in-three-scans.jpg", "420-restarts.jpg", "progressive.jpg", "cmyk-adobe-2.jpg"] {
        let whole = fixture(name);
        for length in [whole.len() * 3 / 4, whole.len() - 12] {
            // The end marker says that all is there, and a thumbnail has one, too.
            let thumbnail = segment(0xe3, &[0xff, 0xd8, 0xff, 0xd9]);
            for end in [&b""[..], &[0xff, 0xd9]] {
                let cut = [&whole[..2], &thumbnail, &whole[2..length], end].concat();
                // A scan that is whole may be all that the file was meant to have.
                if name == "progressive.jpg" && !end.is_empty() && decode(&cut, &LIMITS).is_ok() {
                    continue;
                }
                assert_eq!(refusal(&cut), CUT, "{name}, {length} bytes and {end:?}");
            }
        }
    }
    // Of three scans one is missing, with an end marker.
    let whole = fixture("420-in-three-scans.jpg");
    let last = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    assert_eq!(refusal(&[&whole[..last], &[0xff, 0xd9]].concat()), CUT);
    // Within a header between scans, and with no scan at all.
    assert_eq!(refusal(&whole[..last + 5]), CUT);
    let first = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    assert_eq!(refusal(&whole[..first + 4]), CUT);
    // The restart in front of the last part is lost, and that part with it.
    let whole = fixture("420-restarts.jpg");
    let last = whole.windows(2).rposition(|pair| pair[0] == 0xff && (0xd0..=0xd7).contains(&pair[1])).unwrap();
    assert_eq!(refusal(&[&whole[..last], &whole[last + 2..]].concat()), CUT);
    // A restart that was lost before, and found again, excuses nothing.
    let whole = fixture("restart-3-lost.jpg");
    assert!(decode(&whole, &LIMITS).is_ok());
    assert_eq!(refusal(&[&whole[..whole.len() - 12], &[0xff, 0xd9]].concat()), CUT);
}

#[test]
fn a_part_is_decoded_where_that_is_accepted() {
    let accepting = |accept_truncated| Limits { accept_truncated, ..LIMITS };
    // 160 x 120 with chroma halved: eight rows of 16 lines.
    let cut = fixture("cut-baseline-60.jpg");
    let missing = decode(&cut, &accepting(100)).unwrap().missing;
    assert!((missing * 8.0).fract() == 0.0 && (0.3..0.7).contains(&missing), "{missing}");
    let percent = (missing * 100.0).ceil() as u8;
    let raster = decode(&cut, &accepting(percent)).unwrap();
    assert_eq!(samples(raster)[160 * 119 * 3..][..3], [128; 3], "grey");
    let refused = decode(&cut, &accepting(percent - 1)).unwrap_err().to_string();
    assert_eq!(refused, format!("{CUT}: {:.1} % of it is missing, more than {} %", missing * 100.0, percent - 1));
    // The share falls with what is there.
    for name in ["restarts", "grey", "cmyk", "three-scans", "progressive"] {
        let missing =
            |percent| decode(&fixture(&format!("cut-{name}-{percent}.jpg")), &accepting(100)).unwrap().missing;
        let (more, less) = (missing(60), missing(90));
        assert!(0.0 < less && less < more && more < 1.0, "{name}: {more}, {less}");
    }
    assert!(decode(&fixture("420.jpg"), &accepting(100)).unwrap().missing <= 0.0);
}

#[test]
fn kinds_that_are_not_decoded_are_refused_by_name() {
    let jpeg = fixture("420.jpg");
    for (patches, kind) in [
        (&[(1, 0xc1), (4, 12)][..], "12 bits per sample"),
        (&[(1, 0xc3)], "lossless"),
        (&[(1, 0xcb)], "lossless"),
        (&[(1, 0xc5)], "hierarchical"),
        (&[(1, 0xcf)], "hierarchical"),
        (&[(9, 2)], "2 components"),
        // Three samples of one component for two of another.
        (&[(11, 0x31), (14, 0x21)], "Fractional sampling not implemented yet"),
    ] {
        let changed = patched(&jpeg, 0xc0, patches);
        assert_eq!(refusal(&changed), format!("this kind of jpeg is not supported: {kind}"));
    }
    let hierarchical = before(&jpeg, 0xc0, &segment(0xde, &[8, 0, 47, 0, 61, 1, 1, 0x11, 0]));
    assert_eq!(refusal(&hierarchical), "this kind of jpeg is not supported: hierarchical");
}

#[test]
fn inconsistent_files_are_refused() {
    let jpeg = fixture("420.jpg");
    let frame = segment(0xc0, &[8, 0, 47, 0, 61, 1, 1, 0x11, 0]);
    for (bytes, reason) in [
        (before(&jpeg, 0xc0, &frame), "it has two frames"),
        (patched(&jpeg, 0xc0, &[(5, 0), (6, 0)]), "it has no pixels"),
        (patched(&jpeg, 0xc0, &[(11, 0x51)]), "its frame header is inconsistent"),
        (patched(&jpeg, 0xc0, &[(11, 0)]), "its frame header is inconsistent"),
        (jpeg[..30].to_vec(), "it has no frame header"),
        (b"\xff\xd8\xff\xd9".repeat(100), "it has no frame header"),
    ] {
        assert_eq!(refusal(&bytes), format!("damaged jpeg: {reason}"));
    }
    let long = patched(&jpeg, 0xc0, &[(5, 0xff), (6, 0xff), (7, 0), (8, 1)]);
    assert!(matches!(decode(&long, &LIMITS), Err(Error::TooLong { height: 65_535, limit: 65_500, .. })));
}

#[test]
fn the_first_of_several_exif_blocks_counts() {
    let orientation = |bytes: &[u8]| decode(bytes, &LIMITS).unwrap().orientation;
    assert_eq!(orientation(&fixture("two-exif.jpg")), image::metadata::Orientation::Rotate90);
    assert_eq!(orientation(&fixture("420.jpg")), image::metadata::Orientation::NoTransforms);
}

/// As Pillow's `ImageOps.exif_transpose`.
#[test]
fn xmp_turns_an_image_only_where_exif_does_not() {
    let xmp = |value: &str| {
        let text = format!("http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><d tiff:Orientation=\"{value}\"/></x:xmpmeta>");
        segment(0xe1, text.as_bytes())
    };
    let orientation = |bytes: &[u8]| decode(bytes, &LIMITS).unwrap().orientation;
    let plain = fixture("420.jpg");
    assert_eq!(orientation(&before(&plain, 0xc0, &xmp("6"))), image::metadata::Orientation::Rotate90);
    let both = before(&fixture("two-exif.jpg"), 0xc0, &xmp("3"));
    assert_eq!(orientation(&both), image::metadata::Orientation::Rotate90);
}

/// A frame header, and tables with one code each.
fn header(process: u8, width: u16, height: u16) -> Vec<u8> {
    let [w1, w0] = width.to_be_bytes();
    let [h1, h0] = height.to_be_bytes();
    let frame = segment(process, &[8, h1, h0, w1, w0, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    let one_code = |class: u8, value: u8| segment(0xc4, &[&[class, 1][..], &[0; 15], &[value]].concat());
    [&b"\xff\xd8"[..], &segment(0xdb, &[&[0][..], &[1; 64]].concat()), &frame, &one_code(0, 0), &one_code(0x10, 0xe0)]
        .concat()
}

fn scan(components: &[u8], first: u8, last: u8) -> Vec<u8> {
    let names: Vec<u8> = components.iter().flat_map(|name| [*name, 0]).collect();
    segment(0xda, &[&[components.len() as u8][..], &names, &[first, last, 0]].concat())
}

/// Files whose size in bytes says nothing about the time that their scans would take.
#[test]
fn many_scans_are_refused_before_they_are_decoded() {
    const MANY: usize = 20_000;
    let limits = Limits { max_pixels: 200_000_000, ..LIMITS };
    let whole = scan(&[1, 2, 3], 0, 0);
    // A run of 32,767 blocks without coefficients.
    let run = |first| [scan(&[1], first, 63), b"\x7f\xff".to_vec()].concat();
    let restarts = segment(0xdd, &[0, 1]);
    for (width, height) in [(65_500, 8), (8, 65_500), (4_000, 4_000), (13_000, 13_000)] {
        let (baseline, progressive) = (header(0xc0, width, height), header(0xc2, width, height));
        let pair = [scan(&[1, 2], 0, 63), vec![0; 2]].concat();
        let single = [scan(&[1], 0, 63), vec![0; 2]].concat();
        for (what, bytes) in [
            ("scans of two components", [&baseline[..], &single, &pair.repeat(MANY)].concat()),
            ("scans of one component", [&baseline[..], &single.repeat(MANY)].concat()),
            ("scans of no known component", [&baseline[..], &single, &scan(&[9], 0, 63).repeat(MANY)].concat()),
            ("progressive scans", [&progressive[..], &whole, &run(1).repeat(MANY)].concat()),
            ("restarts", [&progressive[..], &restarts, &whole, &run(1).repeat(MANY)].concat()),
            ("tables between scans", {
                let table = segment(0xc4, &[&[0x10, 1][..], &[0; 15], &[0xe0]].concat());
                [&progressive[..], &whole, &[run(1), table].concat().repeat(MANY)].concat()
            }),
        ] {
            let start = Instant::now();
            let refused = decode(&bytes, &limits).map(|raster| raster.size);
            let took = start.elapsed();
            assert!(matches!(refused, Err(Error::Malformed { .. })), "{what}, {width} x {height}: {refused:?}");
            assert!(measure(&bytes, &limits).is_err(), "{what}: the headers show it");
            assert!(took < Duration::from_secs(5), "{what}, {width} x {height}: {took:?}");
        }
    }
    // Few enough for a small image, and too often through a large one.
    let scans = |width, height| [&header(0xc2, width, height)[..], &whole, &run(1).repeat(98), b"\xff\xd9"].concat();
    assert_eq!(measure(&scans(500, 400), &limits).unwrap(), 200_000);
    let refused = measure(&scans(13_000, 13_000), &limits).unwrap_err().to_string();
    assert_eq!(refused, "damaged jpeg: its scans go through the image too often");
}

#[test]
fn many_segments_cost_no_more_than_their_bytes() {
    const BYTES: usize = 2_000_000;
    let jpeg = fixture("420-in-three-scans.jpg");
    let expected = samples(decode(&jpeg, &LIMITS).unwrap());
    let last = jpeg.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    for inserted in [
        segment(0xdc, &[0, 47]),
        segment(0xfe, &[]),
        segment(0xe0, &[]),
        segment(0xe5, &[]),
        segment(0xee, &[]),
        segment(0xe1, b"Exif\0\0"),
        // Shorter than its own length.
        vec![0xff, 0xfe, 0, 0],
        vec![0xff, 0x01],
        vec![0xff, 0xff],
    ] {
        let many = inserted.repeat(BYTES / inserted.len());
        for bytes in [before(&jpeg, 0xda, &many), [&jpeg[..last], &many, &jpeg[last..]].concat()] {
            let start = Instant::now();
            let found = decode(&bytes, &LIMITS).unwrap_or_else(|error| panic!("{inserted:02x?}: {error}"));
            assert!(start.elapsed() < Duration::from_secs(5), "{inserted:02x?}: {:?}", start.elapsed());
            assert!(samples(found) == expected, "{inserted:02x?}");
        }
    }
}
