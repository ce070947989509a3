//! The program's kernels with their own tests.
#![allow(dead_code)]

#[path = "../../../src/model/atomic.rs"]
mod atomic;
#[path = "../../../src/model/kernels/mod.rs"]
pub mod kernels;
