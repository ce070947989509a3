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
        bomb("webp: 65,536 groups of codes", webp_groups(65_536)),
        bomb("webp: 5,000 groups of codes", webp_groups(5_000)),
        bomb("jpeg: 75,000 scans", jpeg_scans(75_000, false)),
        bomb("jpeg: 5,000 scans", jpeg_scans(5_000, false)),
        bomb("jpeg: 75,000 scans with a restart interval", jpeg_scans(75_000, true)),
    ]
}

/// A WebP of 1 x 1 pixel whose entropy image says that there are 65,536 groups of Huffman codes, each with full tables.
fn webp_groups(groups: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    // Signature, width - 1, height - 1, no alpha, version 0.
    bits.put(0x2f, 8).put(0, 14).put(0, 14).put(0, 1).put(0, 3);
    // No transform, no colour cache, an entropy image with blocks of 4 x 4.
    bits.put(0, 1).put(0, 1).put(1, 1).put(0, 3);
    // The entropy image: no colour cache; one pixel, whose green and red say the last group. All codes have one symbol.
    bits.put(0, 1);
    let last = groups - 1;
    for symbol in [last & 0xff, last >> 8] {
        bits.put(0b101, 3).put(symbol, 8);
    }
    for _ in 0..3 {
        bits.put(0b0001, 4);
    }
    let table = full_table();
    for _ in 0..groups * 5 {
        bits.append(&table);
    }
    bits.put(0, 32).put(0, 32);
    let mut data = bits.bytes;
    if data.len() % 2 == 1 {
        data.push(0);
    }
    let chunk = [&b"VP8L"[..], &(data.len() as u32).to_le_bytes(), &data].concat();
    [&b"RIFF"[..], &(chunk.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunk].concat()
}

/// One Huffman code with lengths of 1 to 10 bits, which takes the longest table.
fn full_table() -> Vec<bool> {
    const ORDER: [u32; 14] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10];
    let mut bits = Bits::default();
    bits.put(0, 1).put(ORDER.len() as u32 - 4, 4);
    for symbol in ORDER {
        let length = match symbol {
            1..=6 => 3,
            7..=10 => 4,
            _ => 0,
        };
        bits.put(length, 3);
    }
    // Eleven symbols: lengths 1, 2, .. 10, 10, in the code above, whose bits come highest first.
    bits.put(1, 1).put(1, 3).put(9, 4);
    for length in (1..=10).chain([10]) {
        let (code, width) = if length <= 6 { (length - 1, 3) } else { (0b1100 + length - 7, 4) };
        for bit in (0..width).rev() {
            bits.put(code >> bit & 1, 1);
        }
    }
    bits.bits
}

/// Bits in the order of VP8L: the lowest of a byte first.
#[derive(Default)]
struct Bits {
    bits: Vec<bool>,
    bytes: Vec<u8>,
}

impl Bits {
    fn put(&mut self, value: u32, width: u32) -> &mut Self {
        self.append(&(0..width).map(|bit| value >> bit & 1 == 1).collect::<Vec<_>>());
        self
    }

    fn append(&mut self, bits: &[bool]) {
        for &bit in bits {
            if self.bits.len().is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= u8::from(bit) << (self.bits.len() % 8);
            self.bits.push(bit);
        }
    }
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
