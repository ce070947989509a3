//! Decoding in processes of their own, which can do nothing but decode.
//!
//! A file may break any decoder: take all memory, never end, or take the process over. So each image is decoded by a process that
//! has only the file ([`child`]): the same program started again, one for each core, used for one image after the other.
//! It restricts itself before it reads its first byte ([`guard`]): address space, no file, no socket, no other process; a system
//! call outside the list ends it. The process that asked watches its time ([`watch`]) and kills it, which costs that image alone
//! ([`process`]). What went between the two is in [`wire`]; the threads that each keep one process are the [`pool`].

pub mod child;
pub mod guard;
pub mod pool;
mod process;
mod watch;
pub mod wire;

use std::ffi::OsString;
use std::process::ExitCode;

/// The first argument of a process that decodes; the second is the most memory that it may use, in bytes.
const ARGUMENT: &str = "decoder-process";

/// Serves as a decoding process if the arguments of this one say so.
pub fn serve(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    (arguments.nth(1)? == ARGUMENT).then(|| {
        let most_bytes = arguments.next().and_then(|bytes| bytes.to_str()?.parse().ok());
        child::main(most_bytes)
    })
}
