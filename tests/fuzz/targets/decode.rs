#![no_main]

#[path = "../checks/decode.rs"]
mod decode;

use std::alloc::System;

use cap::Cap;

/// What an image of [`decode::MAX_PIXELS`] may cost in all: the decoder's working memory of 64 MiB, the samples as they
/// are decoded and as they are handed over, the sums of a resizing. An allocation beyond fails and ends the process.
const LIMIT: usize = 80 << 20;
/// The `tiff` crate reads a file's tables before it can be told a limit; its own is 256 MiB, then they are copied.
const TIFF_LIMIT: usize = 512 << 20;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, LIMIT);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let is_tiff = bytes.starts_with(b"II") || bytes.starts_with(b"MM");
    let limit = if is_tiff { TIFF_LIMIT } else { LIMIT };
    assert!(MEMORY.set_limit(limit).is_ok(), "an earlier image is still held");
    decode::check(bytes);
});
