//! The program's kernels with their own tests.
#![allow(dead_code)] // What only the program calls.

#[path = "../../../src/atomic_file.rs"]
mod atomic_file;
#[path = "../../../src/model/vgg16/kernels/mod.rs"]
pub mod kernels;
#[path = "../../../src/simd/mod.rs"]
mod simd;
