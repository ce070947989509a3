//! The command line: one file per command, each parses its arguments, calls the module, and prints.

pub mod args;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod embed;
pub mod export;
pub mod import;
pub mod index;
pub mod mappings;
pub mod model;
pub mod output;
pub mod publish;
pub mod search;
pub mod setup;
pub mod sources;
pub mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Create and inspect the index of a store
    Mappings(mappings::MappingsArgs),
    /// Fetch, import and inspect the weights
    Model(model::ModelArgs),
    /// Import documents from an export
    Import(import::ImportArgs),
    /// Export documents with their vectors
    Export(export::ExportArgs),
    /// Check what this machine has and whether the services answer
    Doctor(doctor::DoctorArgs),
    /// Show or check the configuration
    Config(config::ConfigArgs),
    /// Print shell completions
    Completions(completions::CompletionsArgs),
}

/// How a command ends; the numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Some items failed; each was named.
    ItemsFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Config = 64,
    /// A service is not available.
    Unavailable = 69,
    /// Reading or writing failed.
    Io = 74,
}

/// Why a command could not do its work: a message for the user, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The exit code.
    pub exit: Exit,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Error {
    /// An error with its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Whoever read standard output has closed it: not a failure, and nothing more to say.
    fn reader_gone() -> Self {
        Self::new(Exit::Done, "")
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("imgdex: {error}");
            error.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Exit::Io, format!("the runtime did not start: {error}")))?;
    runtime.block_on(dispatch(cli.command))
}

async fn dispatch(command: Command) -> Result<Exit, Error> {
    match command {
        Command::Index(args) => index::run(args).await,
        Command::Search(args) => search::run(args).await,
        Command::Embed(args) => embed::run(args).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Mappings(args) => mappings::run(args).await,
        Command::Model(args) => model::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Config(args) => config::run(args).await,
        Command::Completions(args) => completions::run(args).await,
    }
}
