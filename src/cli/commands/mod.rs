//! One file per command: parse its arguments, call the module, print.

pub mod bench;
pub mod completions;
pub mod config;
pub mod dlq;
pub mod doctor;
pub mod embed;
pub mod export;
pub mod import;
pub mod index;
pub mod mappings;
pub mod model;
pub mod publish;
pub mod search;
pub mod why;
pub mod worker;
