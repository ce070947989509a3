//! Decoded and sampled pixels equal those of Pillow, and decoding can do nothing but decode.

mod bombs;
mod odd_files;
mod pillow_parity;
mod sandbox;
