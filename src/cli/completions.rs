//! `imgdex completions`.

use clap::Args;

use super::{Error, Exit};

/// Print shell completions.
#[derive(Args, Debug)]
pub struct CompletionsArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: CompletionsArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "completions: not built yet"))
}
