//! Files as odd writers make them, drawn by `tests/fixtures/odd_files.py`: each gives the pixels of Pillow, or is refused for a
//! reason that it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use imgdex::testing::decode::{Limits, Preprocess, decode};
use sha2::{Digest, Sha256};

const MODELS: [(&str, Preprocess); 2] = [("vgg16-keras", Preprocess::KerasImagenetV2), ("vgg16", Preprocess::Imgdex2)];
const LIMITS: Limits = Limits { max_pixels: 1_000_000, allow_tiff: true, accept_truncated: 0 };

/// The files that are refused, and how the reason begins. `damaged` is what no decoder makes sense of; `this kind of` is what
/// another one would show.
const REFUSED: &[(&str, &str)] = &[
    ("2bit.bmp", "this kind of bmp is not supported: 2 bits per pixel"),
    ("444.bmp", "this kind of bmp is not supported: 16 bits per pixel by the masks f00, f0, f, 0"),
    ("4bit-grey-of-16.bmp", "this kind of bmp is not supported: 4 bits for 16 shades of grey"),
    ("8bit-black-and-white.bmp", "this kind of bmp is not supported: 8 bits for 2 shades of grey"),
    ("8bit-of-300.bmp", "damaged bmp: its palette has more than 256 colours"),
    ("8bit-palette-cut.bmp", "damaged bmp: its palette has more than 256 colours"),
    ("alpha-apart.webp", "damaged webp: it has no image"),
    ("alpha-before-lossless.webp", "damaged webp: it has no image"),
    ("alpha-behind.webp", "damaged webp: it has two images"),
    ("alpha-in-simple-file.webp", "damaged webp: it does not begin with an image or an extended header"),
    ("alpha-twice.webp", "damaged webp: it has no image"),
    ("animated-outside.webp", "damaged webp: its first frame does not fit"),
    ("animated-part.png", "damaged png: the first frame of the animation does not fill the image"),
    ("animated-unknown-in-frame.webp", "damaged webp: it has no image"),
    ("animated-with-still.webp", "damaged webp: it is an animation with an image outside of its frames"),
    ("animated-without-control.webp", "damaged webp: its frames precede what an animation begins with"),
    ("animated-without-flag.webp", "damaged webp: it has no image"),
    ("animated-without-frames.webp", "damaged webp: it has no image"),
    ("apple.png", "this kind of png is not supported: Apple's CgBI, made for iPhones"),
    ("application-netscape-empty.gif", "damaged gif: it has no frame"),
    ("bad-code.gif", "damaged gif: its pixels have a code that there is not yet"),
    ("bit-flipped.png", "damaged png: the image data are corrupt"),
    ("bits-13.gif", "damaged gif: its pixels have 13 bits"),
    ("bits-mixed.tif", "this kind of tiff is not supported: samples of several depths"),
    ("bits-reversed.tif", "this kind of tiff is not supported: bits in reverse order"),
    ("canvas-larger.webp", "damaged webp: its image is not of the size of its canvas"),
    ("canvas-smaller.webp", "damaged webp: its image is not of the size of its canvas"),
    ("cmyk-alpha.tif", "this kind of tiff is not supported: 5 samples of 8 bits, interpretation 5, extra samples [2]"),
    ("control-3.gif", "damaged gif: its control extension is too short"),
    ("control-empty.gif", "damaged gif: it has no frame"),
    ("control-short.gif", "damaged gif: its control extension is too short"),
    ("cut-last-block.gif", "damaged gif: the file ends before the image does"),
    ("cut.gif", "damaged gif: the file ends before the image does"),
    ("cut.png", "damaged png: Corrupt deflate stream. InsufficientInput"),
    ("cut.webp", "damaged webp: the file ends before the image does"),
    ("depth-3.png", "damaged png: Invalid bit depth 3."),
    ("extra-of-3.tif", "this kind of tiff is not supported: 3 samples of 8 bits, interpretation 2, extra samples [2]"),
    (
        "extra-unspecified-and-alpha.tif",
        "this kind of tiff is not supported: 5 samples of 8 bits, interpretation 2, extra samples [0, 2]",
    ),
    ("float.tif", "this kind of tiff is not supported: floating-point samples"),
    ("frame-empty-inside.gif", "damaged gif: it has no pixels"),
    ("frame-empty-then-another.gif", "damaged gif: it has no pixels"),
    ("frame-without-height.gif", "damaged gif: it has no pixels"),
    ("grey-extra.tif", "this kind of tiff is not supported: 2 samples of 8 bits, interpretation 1, extra samples [0]"),
    (
        "grey-premultiplied.tif",
        "this kind of tiff is not supported: 2 samples of 8 bits, interpretation 1, extra samples [1]",
    ),
    (
        "grey16-white-big-endian.tif",
        "this kind of tiff is not supported: 1 samples of 16 bits, interpretation 0, extra samples []",
    ),
    (
        "grey16-white.tif",
        "this kind of tiff is not supported: 1 samples of 16 bits, interpretation 0, extra samples []",
    ),
    ("group3-bilevel-white.tif", "this kind of tiff is not supported: compressed by Fax3"),
    ("group3-bilevel.tif", "this kind of tiff is not supported: compressed by Fax3"),
    ("jpeg-grey.tif", "this kind of tiff is not supported: it holds JPEGs"),
    ("jpeg-rgb.tif", "this kind of tiff is not supported: it holds JPEGs"),
    ("jpeg.bmp", "this kind of bmp is not supported: it holds a JPEG"),
    ("key-cut.png", "damaged png: its transparent colour is cut off"),
    ("lab.tif", "this kind of tiff is not supported: 3 samples of 8 bits, interpretation 8, extra samples []"),
    ("long-header.bmp", "this kind of bmp is not supported: a header of 128 bytes"),
    ("masks-108-8.bmp", "this kind of bmp is not supported: 32 bits per pixel by the masks ff, ff00, ff0000, 0"),
    ("masks-124-8.bmp", "this kind of bmp is not supported: 32 bits per pixel by the masks ff, ff00, ff0000, 0"),
    ("masks-40-4.bmp", "this kind of bmp is not supported: 32 bits per pixel by the masks ff, ff00, ff0000, 0"),
    ("masks-40-8.bmp", "this kind of bmp is not supported: 32 bits per pixel by the masks ff, ff00, ff0000, 0"),
    ("masks-52-4.bmp", "this kind of bmp is not supported: 32 bits per pixel by the masks ff, ff00, ff0000, 0"),
    ("masks-52-8.bmp", "this kind of bmp is not supported: 32 bits per pixel by the masks ff, ff00, ff0000, 0"),
    ("name-missing.png", "damaged png: it has a chunk without a name"),
    (
        "palette-alpha.tif",
        "this kind of tiff is not supported: 2 samples of 8 bits, interpretation 3, extra samples [2]",
    ),
    ("palette-missing.png", "damaged png: it has no palette"),
    ("palette-missing.tif", "damaged tiff: a palette of 0 colours"),
    ("palette-of-300.png", "damaged png: its palette has more than 256 colours"),
    ("palette-twice.png", "damaged png: it has PLTE twice"),
    ("photometric-missing.tif", "this kind of tiff is not supported: it does not say what its samples mean"),
    ("planes-premultiplied.tif", "this kind of tiff is not supported: planes of Premultiplied samples of 8 bits"),
    ("planes16.tif", "this kind of tiff is not supported: planes of Rgb samples of 16 bits"),
    ("png.bmp", "this kind of bmp is not supported: it holds a PNG"),
    (
        "rle4-odd-singles.bmp",
        "this kind of bmp is not supported: 4-bit run lengths with an odd number of single pixels",
    ),
    ("rle8-cut.bmp", "damaged bmp: the file ends before the image does"),
    ("rle8-jump.bmp", "this kind of bmp is not supported: run lengths that jump"),
    ("rows-missing-then-another.gif", "damaged gif: the file ends before the image does"),
    ("rows-missing.gif", "damaged gif: the file ends before the image does"),
    ("rows-missing.png", "damaged png: "),
    ("signed.tif", "this kind of tiff is not supported: samples that are not whole positive numbers"),
    ("size-long.webp", "damaged webp: the file ends before the image does"),
    ("size-short.webp", "damaged webp: the file ends before the image does"),
    ("still-with-control.webp", "damaged webp: it is an animation with an image outside of its frames"),
    ("strip-lengths-missing.tif", "damaged tiff: "),
    ("tiff_ccitt-bilevel-white.tif", "this kind of tiff is not supported: compressed by Huffman"),
    ("tiff_ccitt-bilevel.tif", "this kind of tiff is not supported: compressed by Huffman"),
    ("two-images.webp", "damaged webp: it has two images"),
    ("unknown-chunks.webp", "damaged webp: it does not begin with an image or an extended header"),
    ("unknown-extension-empty.gif", "damaged gif: it has no frame"),
    ("void.tif", "this kind of tiff is not supported: samples that are not whole positive numbers"),
    ("without-data.png", "damaged png: it has no image data"),
    ("wrong-alpha-checksum.png", "damaged png: the checksum of tRNS is wrong"),
    ("wrong-header-checksum.png", "damaged png: the checksum of IHDR is wrong"),
    ("wrong-palette-checksum.png", "damaged png: the checksum of PLTE is wrong"),
    ("ycbcr.tif", "this kind of tiff is not supported: 3 samples of 8 bits, interpretation 6, extra samples []"),
];

/// Files that are shown though Pillow refuses them: their pixels are whole, and what is wrong with them lies elsewhere.
const SHOWN: &[&str] = &[
    "animated-second-bad.webp",
    "cut-in-text.png",
    "header-long.webp",
    "header-twice.webp",
    "odd-size.webp",
    "padding-missing.webp",
    "planes-extra.tif",
    "reserved-flags-high.webp",
    "reserved-flags.webp",
    "trailing-inside-extended.webp",
    "trailing-inside.webp",
    "turned-xmp.tif",
    "wrong-text-checksum.png",
];

/// For each file the digests of what the networks see, by the name of the model; none where Pillow refuses it.
fn index() -> BTreeMap<String, Option<BTreeMap<String, String>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let index: BTreeMap<_, _> = serde_json::from_slice(&std::fs::read(folder.join("odd.json")).unwrap()).unwrap();
    let files: BTreeSet<_> = std::fs::read_dir(folder.join("odd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, index.keys().cloned().collect(), "the files, and those of the index");
    index
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/odd").join(name)).unwrap()
}

#[test]
fn odd_files_give_the_pixels_of_pillow_or_the_reason_of_their_refusal() {
    let refused: BTreeMap<_, _> = REFUSED.iter().copied().collect();
    let index = index();
    let unknown: Vec<_> = refused.keys().chain(SHOWN).filter(|name| !index.contains_key(**name)).collect();
    assert!(unknown.is_empty(), "files of the tables that there are not: {unknown:?}");
    let mut wrong = Vec::new();
    for (name, expected) in &index {
        let found = match (decode(&file(name), &LIMITS), refused.get(name.as_str()), expected) {
            (Err(error), Some(reason), _) if error.to_string().starts_with(reason) => continue,
            (Err(error), _, _) => format!("refused: {error}"),
            (Ok(_), Some(reason), _) => format!("shown, and not refused: {reason}"),
            (Ok(_), None, None) if SHOWN.contains(&name.as_str()) => continue,
            (Ok(_), None, None) => "shown, but not by Pillow".to_owned(),
            (Ok(raster), None, Some(digests)) => {
                let digest = |way: Preprocess| format!("{:x}", Sha256::digest(way.apply(&raster, 224).as_rgb()));
                let others: Vec<_> = MODELS.iter().filter(|(model, way)| digests[*model] != digest(*way)).collect();
                if others.is_empty() {
                    continue;
                }
                format!("other pixels than Pillow's: {others:?}")
            }
        };
        wrong.push(format!("{name}: {found}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
