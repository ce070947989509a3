//! `imgdex config`.

use std::env;

use clap::{Args, CommandFactory, Subcommand};
use serde::Serialize;

use super::output::{self, OutputArgs, Table};
use super::{Cli, Command, Error, Exit};
use crate::config::{self, Layers, Origin};

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
///
/// # Errors
/// When a setting is wrong, or standard output cannot be written.
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
        let hidden = setting.secret && origin != Origin::Default;
        let value = if hidden { "(hidden)".to_owned() } else { value };
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

/// The file was checked when it was read; left are the environment, and what each setting alone cannot tell.
fn check(layers: &Layers) -> Result<Exit, Error> {
    let settings = config::settings(&Cli::command());
    let mut problems: Vec<String> = settings
        .values()
        .filter_map(|setting| {
            let reason = setting.check(&env::var_os(&setting.variable)?).err()?;
            Some(format!("{}: {reason}", setting.variable))
        })
        .collect();
    if problems.is_empty() {
        let worker = super::parse(layers, ["imgdex", "worker"].map(Into::into).to_vec())
            .map_err(|error| Error::new(Exit::Config, error.to_string()))?;
        if let Command::Worker(args) = worker.command {
            problems.extend(args.problems().into_iter().map(|error| error.message));
        }
    }
    if problems.is_empty() {
        let file = layers.file.as_ref().map_or("no configuration file".to_owned(), |path| path.display().to_string());
        output::line(format_args!("the configuration is valid ({file})"))?;
        return Ok(Exit::Done);
    }
    Err(Error::new(Exit::Config, problems.join("\nimgdex: ")))
}
