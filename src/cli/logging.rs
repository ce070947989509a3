//! Logs: on standard error, as text for people or one JSON object per line.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::args::{GlobalArgs, LogFormat};
use super::{Error, Exit};

/// Sets up logging for the rest of the process. `default` is the filter where none is asked for.
pub fn start(args: &GlobalArgs, default: &str) -> Result<(), Error> {
    let filter = args.log.as_deref().unwrap_or(default);
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| Error::new(Exit::Config, format!("--log {filter:?} is not a filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(io::stderr);
    let started = match args.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    started.map_err(|error| Error::new(Exit::Io, format!("logging did not start: {error}")))
}
