//! The program's kernels with their own tests.
#![allow(dead_code)] // What only the program calls.

#[path = "../../../src/model/atomic.rs"]
mod atomic;
#[path = "../../../src/model/kernels/mod.rs"]
pub mod kernels;
