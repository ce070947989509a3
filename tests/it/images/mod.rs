//! Decoded and sampled pixels equal those of Pillow.

mod odd_files;
mod pillow_parity;
