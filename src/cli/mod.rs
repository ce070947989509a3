//! The command line: one file per command, each parses its arguments, calls the module, and prints.

pub mod args;
pub mod commands;
mod exit;
pub mod logging;
pub mod output;
pub mod progress;
pub mod settings;
pub mod setup;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::commands::{
    bench, completions, config, dlq, doctor, embed, export, import, index, mappings, model, publish, search, why,
    worker,
};
pub use self::exit::{Error, Exit};
use crate::config::Layers;
#[cfg(target_os = "linux")]
use crate::decode;
use crate::simd::InstructionSet;

/// Search by image, native to Elasticsearch.
#[derive(Parser, Debug)]
#[command(name = "imgdex", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: args::GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Index images into a store
    Index(index::IndexArgs),
    /// Search for images that look like one
    Search(search::SearchArgs),
    /// Print the features of images
    Embed(embed::EmbedArgs),
    /// Publish image references to the queue
    Publish(publish::PublishArgs),
    /// Take references from the queue, index them into the store
    Worker(worker::WorkerArgs),
    /// List, show, replay and remove dead letters
    Dlq(dlq::DlqArgs),
    /// Say where an image is: indexed, waiting for a retry, dead-lettered or unknown
    Why(why::WhyArgs),
    /// Create and inspect the index of a store
    Mappings(mappings::MappingsArgs),
    /// Fetch, import and inspect the weights
    Model(model::ModelCommand),
    /// Import documents from an export
    Import(import::ImportArgs),
    /// Export documents with their vectors
    Export(export::ExportArgs),
    /// Check what this machine has and whether the services answer
    Doctor(doctor::DoctorArgs),
    /// Measure how fast this machine computes features
    Bench(bench::BenchArgs),
    /// Show or check the configuration
    Config(config::ConfigArgs),
    /// Print shell completions
    Completions(completions::CompletionsArgs),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(exit) = decode::sandbox::serve(env::args_os()) {
        return exit;
    }
    match start(env::args_os().collect()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            if !error.message.is_empty() {
                output::note(format_args!("imgdex: {error}"));
            }
            error.exit.into()
        }
    }
}

fn start(arguments: Vec<OsString>) -> Result<Exit, Error> {
    let layers = match layers(&arguments) {
        Ok(layers) => layers,
        // Help, version and completions do not depend on the configuration.
        Err(error) => match parse(&Layers::default(), arguments) {
            Err(help) if !help.use_stderr() => help.exit(),
            Ok(Cli { command: Command::Completions(args), .. }) => return completions::run(&args),
            _ => return Err(error),
        },
    };
    // Prints help, the version, or what is wrong with the command line, and ends the process.
    let cli = parse(&layers, arguments).unwrap_or_else(|error| error.exit());
    let default = if matches!(cli.command, Command::Worker(_)) { "info" } else { "warn" };
    logging::start(&cli.global, default)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Exit::Io, format!("the runtime did not start: {error}")))?;
    let result = runtime.block_on(dispatch(cli.command, &layers));
    // A thread may wait for a line from a terminal that never comes; all work has ended.
    runtime.shutdown_background();
    result
}

/// What the configuration file and the files of secrets say.
fn layers(arguments: &[OsString]) -> Result<Layers, Error> {
    let named = config_file(arguments).or_else(|| env::var_os("IMGDEX_CONFIG")).map(PathBuf::from);
    let usual = || settings::config_folder().map(|folder| folder.join("imgdex.toml")).filter(|path| path.exists());
    Layers::read(&Cli::command(), named.or_else(usual), |name| env::var_os(name))
        .map_err(|error| Error::new(Exit::Config, error.to_string()))
}

/// The value of `--config`, which is needed before the command line can be parsed.
fn config_file(arguments: &[OsString]) -> Option<OsString> {
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().cloned();
        }
        if let Some(value) = argument.to_str().and_then(|argument| argument.strip_prefix("--config=")) {
            return Some(value.into());
        }
    }
    None
}

fn parse(layers: &Layers, arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    // The last digits of features depend on the machine's instructions, so a report of a difference should name them.
    let version = format!("{}\nkernel: {}", env!("CARGO_PKG_VERSION"), InstructionSet::best().name());
    let command = Cli::command().long_version(version);
    let matches = layers.apply(command).try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

async fn dispatch(command: Command, layers: &Layers) -> Result<Exit, Error> {
    match command {
        Command::Index(args) => index::run(args).await,
        Command::Search(args) => search::run(args).await,
        Command::Embed(args) => embed::run(args).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Dlq(args) => dlq::run(args).await,
        Command::Why(args) => why::run(args).await,
        Command::Mappings(args) => mappings::run(args).await,
        Command::Model(args) => model::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Doctor(args) => doctor::run(args, layers).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Config(args) => config::run(&args, layers),
        Command::Completions(args) => completions::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_is_found_before_parsing() {
        let find = |arguments: &[&str]| config_file(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find(&["imgdex", "search", "--config", "a.toml", "x.png"]), Some("a.toml".into()));
        assert_eq!(find(&["imgdex", "--config=a.toml", "search"]), Some("a.toml".into()));
        assert_eq!(find(&["imgdex", "search", "--", "--config", "a.toml"]), None);
    }
}
