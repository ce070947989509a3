//! `imgdex index`.

use clap::Args;

use super::{Error, Exit};

/// Index images into a store.
#[derive(Args, Debug)]
pub struct IndexArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: IndexArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "index: not built yet"))
}
