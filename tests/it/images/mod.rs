//! Decoded and sampled pixels equal those of Pillow.

mod pillow_parity;
