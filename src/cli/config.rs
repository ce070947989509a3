//! `imgdex config`.

use clap::Args;

use super::{Error, Exit};

/// Show or check the configuration.
#[derive(Args, Debug)]
pub struct ConfigArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: ConfigArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "config: not built yet"))
}
