//! `imgdex doctor`.

use clap::Args;

use super::{Error, Exit};

/// Check what this machine has and whether the services answer.
#[derive(Args, Debug)]
pub struct DoctorArgs {}

/// Runs the command.
///
/// # Errors
/// See [`Error`].
pub async fn run(_args: DoctorArgs) -> Result<Exit, Error> {
    Err(Error::new(Exit::Usage, "doctor: not built yet"))
}
