//! `imgdex search`.

use clap::Args;

use super::{Error, Exit};

/// Search for images that look like one.
#[derive(Args, Debug)]
pub struct SearchArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: SearchArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "search: not built yet"))
}
