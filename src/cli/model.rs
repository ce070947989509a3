//! `imgdex model`.

use clap::Args;

use super::{Error, Exit};

/// Fetch, import and inspect the weights.
#[derive(Args, Debug)]
pub struct ModelArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: ModelArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "model: not built yet"))
}
