//! `imgdex import`.

use clap::Args;

use super::{Error, Exit};

/// Import documents from an export.
#[derive(Args, Debug)]
pub struct ImportArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: ImportArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "import: not built yet"))
}
