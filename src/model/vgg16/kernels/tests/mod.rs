//! Matrices against exact arithmetic, convolutions against a direct one in double precision. The whole network is checked
//! in `tests/it`, where its weights are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod convolutions;
mod exact;
mod threads;
