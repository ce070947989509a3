//! The program's kernels with their own tests.
#![allow(dead_code, unused_imports)]

#[path = "../../../src/model/kernels/mod.rs"]
pub mod kernels;
