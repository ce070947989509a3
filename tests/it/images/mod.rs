//! Decoded and sampled pixels.

mod pillow_parity;
