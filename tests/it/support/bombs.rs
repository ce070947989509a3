//! Small files that cost a decoder much memory or time.

/// A file that is made to break a decoder.
pub struct Bomb {
    pub name: &'static str,
    pub file: Vec<u8>,
}

/// All of them.
pub fn all() -> Vec<Bomb> {
    let bomb = |name, file| Bomb { name, file };
    vec![
        bomb("webp: 65,536 groups of codes for a pixel", lossless(&groups(65_536, Some((1, 1)), None))),
        bomb("webp: the same with a colour cache", lossless(&groups(65_536, Some((1, 1)), Some(11)))),
        bomb("webp: 5,000 groups of codes for a large image", lossless(&groups(5_000, Some((512, 512)), None))),
        bomb("webp: groups of codes in alpha", alpha_groups()),
        bomb("jpeg: 75,000 scans", jpeg_scans(75_000, false)),
        bomb("jpeg: 5,000 scans", jpeg_scans(5_000, false)),
        bomb("jpeg: 75,000 scans with a restart interval", jpeg_scans(75_000, true)),
        bomb("jpeg: 20,000 progressive scans", progressive_scans(20_000)),
        bomb("bmp: a million ends of lines", run_lengths(1000, 1000, &[0, 0].repeat(1_000_000))),
    ]
}

/// A baseline JPEG of one row of blocks whose first component's scan is followed by many scans of two components.
fn jpeg_scans(scans: usize, restart_interval: bool) -> Vec<u8> {
    let segment =
        |marker: u8, body: &[u8]| [&[0xff, marker][..], &(body.len() as u16 + 2).to_be_bytes(), body].concat();
    let mut file = vec![0xff, 0xd8];
    file.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    file.extend(segment(0xc0, &[8, 0, 8, 0xff, 0xff, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]));
    // One code of one bit: no difference, no coefficients.
    for class in [0, 0x10] {
        file.extend(segment(0xc4, &[&[class, 1][..], &[0; 15], &[0]].concat()));
    }
    if restart_interval {
        file.extend(segment(0xdd, &[0xff, 0xff]));
    }
    let one = |component| [&segment(0xda, &[1, component, 0, 0, 63, 0])[..], &[0, 0]].concat();
    let two = [&segment(0xda, &[2, 1, 0, 2, 0, 0, 63, 0])[..], &[0, 0]].concat();
    file.extend(one(1));
    file.extend(two.repeat(scans));
    file.extend([one(2), one(3), vec![0; 16], vec![0xff, 0xd9]].concat());
    file
}

/// Bits in the order of lossless WebP: the lowest of a byte first.
#[derive(Default)]
pub struct Bits(Vec<bool>);

impl Bits {
    pub fn push(&mut self, value: u32, count: u32) -> &mut Self {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
        self
    }

    /// A code of one symbol.
    fn single(&mut self, symbol: u32) -> &mut Self {
        self.push(0b101, 3).push(symbol, 8)
    }

    /// A code of eleven symbols, of 1 to 10 bits: the decoder's table for it is as large as its tables are.
    fn large_table(&mut self) -> &mut Self {
        // The codes of the lengths 1 to 10, first bit lowest.
        const CODES: [(u32, u32); 10] = [
            (0b000, 3),
            (0b100, 3),
            (0b010, 3),
            (0b110, 3),
            (0b001, 3),
            (0b101, 3),
            (0b0011, 4),
            (0b1011, 4),
            (0b0111, 4),
            (0b1111, 4),
        ];
        const ORDER: [u32; 14] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10];
        // Lengths of the codes in which the lengths 1 to 10 are written.
        let length =
            |symbol: u32| [0, 3, 4][usize::from((1..=10).contains(&symbol)) + usize::from((7..=10).contains(&symbol))];
        self.push(0, 1).push(10, 4);
        for symbol in ORDER {
            self.push(length(symbol), 3);
        }
        // Eleven lengths follow.
        self.push(1, 1).push(1, 3).push(9, 4);
        for (code, length) in CODES.into_iter().chain([CODES[9]]) {
            self.push(code, length);
        }
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, bit)| u8::from(*bit) << at).sum();
        self.0.chunks(8).map(byte).collect()
    }
}

/// A lossless image of so many groups of codes; of a header too, if its size is to be said.
pub fn groups(groups: u32, size: Option<(u32, u32)>, cache_bits: Option<u32>) -> Vec<u8> {
    let mut bits = Bits::default();
    if let Some((width, height)) = size {
        bits.push(0x2f, 8).push(width - 1, 14).push(height - 1, 14).push(1, 1).push(0, 3);
    }
    bits.push(0, 1);
    match cache_bits {
        None => bits.push(0, 1),
        Some(count) => bits.push(1, 1).push(count, 4),
    };
    // Blocks of 4 x 4 pixels, all of which ask for the last group.
    let last = groups - 1;
    bits.push(1, 1).push(0, 3).push(0, 1).single(last & 255).single(last >> 8).single(0).single(0).single(0);
    for _ in 0..groups * 5 {
        bits.large_table();
    }
    bits.push(0, 31).push(0, 31);
    bits.bytes()
}

/// A chunk of RIFF.
pub fn chunk(kind: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let padding = &[0][..payload.len() % 2];
    [&kind[..], &(payload.len() as u32).to_le_bytes(), payload, padding].concat()
}

/// A file of these chunks.
pub fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(*b"RIFF", &[&b"WEBP"[..], &chunks.concat()].concat())
}

/// The header of an extended file.
pub fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let [[w0, w1, w2, _], [h0, h1, h2, _]] = [width - 1, height - 1].map(u32::to_le_bytes);
    chunk(*b"VP8X", &[flags, 0, 0, 0, w0, w1, w2, h0, h1, h2])
}

fn lossless(bitstream: &[u8]) -> Vec<u8> {
    webp(&[chunk(*b"VP8L", bitstream)])
}

/// A lossy image of one block, whose alpha is lossless.
fn alpha_groups() -> Vec<u8> {
    let alpha = [&[1][..], &groups(65_536, None, None)].concat();
    // A key frame of 16 x 16 pixels.
    let frame = [&[0x30, 1, 0, 0x9d, 1, 0x2a, 16, 0, 16, 0][..], &[0; 40]].concat();
    webp(&[extended(0x10, 16, 16), chunk(*b"ALPH", &alpha), chunk(*b"VP8 ", &frame)])
}

/// A progressive JPEG that is gone through once more by each of its scans.
fn progressive_scans(scans: usize) -> Vec<u8> {
    let mut file = jpeg_scans(0, false);
    let frame = file.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    file[frame + 1] = 0xc2;
    let end = file.len() - 2;
    let scan = [0xff, 0xda, 0, 8, 1, 1, 0, 1, 63, 0, 0x7f, 0xff].repeat(scans);
    file.splice(end..end, scan);
    file
}

/// A bitmap of run lengths with a palette of 256 colours.
pub fn run_lengths(width: i32, height: i32, runs: &[u8]) -> Vec<u8> {
    let info = [40, width as u32, height as u32, 1 | 8 << 16, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    let header = [&b"BM"[..], &[0; 8], &(54u32 + 1024).to_le_bytes()].concat();
    let palette = [7; 1024];
    [&header, &info, &palette[..], runs].concat()
}
