//! `imgdex config`.

use std::env;

use clap::{Args, CommandFactory, Subcommand};
use serde::Serialize;
use url::Url;

use super::worker::WorkerArgs;
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::{Cli, Error, Exit};
use crate::config::{self, Layers, Provenance};

/// Show or check the configuration.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print every setting with its value and where that comes from
    Show(OutputArgs),
    /// Check every setting, and whether the worker's fit together
    Check,
}

#[derive(Serialize)]
struct Record {
    setting: String,
    variable: String,
    /// `null` where the default depends on the command or the machine.
    value: Option<String>,
    origin: String,
}

/// Runs the command.
pub fn run(args: &ConfigArgs, layers: &Layers) -> Result<Exit, Error> {
    match &args.action {
        Action::Show(output) => show(output, layers),
        Action::Check => check(layers),
    }
}

fn show(output: &OutputArgs, layers: &Layers) -> Result<Exit, Error> {
    let settings = config::settings(&Cli::command());
    let records = settings.values().map(|setting| {
        let (value, origin) = layers.value(setting, |name| env::var_os(name));
        let value = if setting.secret { without_secret(&value, &origin) } else { value };
        Record {
            setting: setting.key(),
            variable: setting.variable.clone(),
            value: Some(value).filter(|value| !value.is_empty()),
            origin: origin.to_string(),
        }
    });
    let records: Vec<_> = records.collect();
    output::records(output.format(), &records, || {
        let mut table = Table::new(&["setting", "value", "from"], &[]);
        for record in &records {
            let value = record.value.clone().unwrap_or_else(|| "-".to_owned());
            table.row([record.setting.clone(), value, record.origin.clone()]);
        }
        table
    })?;
    Ok(Exit::Done)
}

/// An address without its password; of anything else that is secret nothing.
fn without_secret(value: &str, origin: &Provenance) -> String {
    if *origin == Provenance::Default || value.starts_with("sqlite:") {
        return value.to_owned();
    }
    match Url::parse(value) {
        Ok(mut url) if url.has_host() => {
            // Fails only for URLs that can have none.
            let _ = url.password().is_some().then(|| url.set_password(Some("***")));
            url.into()
        }
        _ => "(hidden)".to_owned(),
    }
}

/// The file was checked when it was read; left are the environment, and what each setting alone cannot tell.
fn check(layers: &Layers) -> Result<Exit, Error> {
    let settings = config::settings(&Cli::command());
    let mut problems: Vec<String> = settings
        .values()
        .filter_map(|setting| {
            let value = env::var_os(&setting.variable).filter(|value| !value.is_empty())?;
            let reason = setting.check(&value).err()?;
            Some(format!("{}: {reason}", setting.variable))
        })
        .collect();
    if problems.is_empty() {
        let worker = WorkerArgs::from_layers(layers)?;
        problems.extend(worker.problems().into_iter().map(|error| error.message));
        if problems.is_empty() {
            let file =
                layers.file.as_ref().map_or("no configuration file".to_owned(), |path| path.display().to_string());
            output::line(format_args!("the configuration is valid ({file})"))?;
            output::line(format_args!("a worker takes at most this memory: {}", worker.memory()))?;
            return Ok(Exit::Done);
        }
    }
    Err(Error::new(Exit::Config, problems.join("\nimgdex: ")))
}
