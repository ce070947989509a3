//! `imgdex export`.

use clap::Args;

use super::{Error, Exit};

/// Export documents with their vectors.
#[derive(Args, Debug)]
pub struct ExportArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: ExportArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "export: not built yet"))
}
