//! `imgdex dlq`.

use clap::{Args, Subcommand};
use serde_json::Value;
use strum::VariantArray;

use crate::broker::browse::{Browsed, Disposition, QueueBrowser, QueuedMessage};
use crate::cli::args::{BrokerArgs, RetentionArgs};
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::{Error, Exit};
use crate::dead_letter::Letter;
use crate::outcome::Reason;

/// List, show, replay and remove dead letters.
#[derive(Args, Debug)]
pub struct DlqArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print the dead letters, the oldest first
    List(List),
    /// Print one dead letter with its body and headers
    Show(Show),
    /// Put dead letters back into the work queue, with their attempts reset
    Replay(Replay),
    /// Remove dead letters for good
    Purge(Change),
}

#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Most messages to read
    #[arg(long, env = "IMGDEX_LIMIT", value_name = "N", default_value_t = 10_000)]
    limit: u64,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    common: Common,
    /// Only those with this reason
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct Show {
    #[command(flatten)]
    common: Common,
    /// The id, as `dlq list` prints it
    id: String,
}

#[derive(Args, Debug)]
struct Change {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    which: Which,
}

#[derive(Args, Debug)]
struct Replay {
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Replay also upserts that are older than the retention, which may bring back images that were deleted since
    #[arg(long)]
    force: bool,
}

/// Which letters. Not settings: nothing but the command line may say what is removed.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// Those with this reason
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// Those with this id, as `dlq list` prints it
    #[arg(long)]
    id: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

fn reason(text: &str) -> Result<String, String> {
    let codes: Vec<_> = Reason::VARIANTS.iter().map(|reason| reason.code()).collect();
    if codes.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("known reasons: {}", codes.join(", ")))
}

/// Runs the command.
pub async fn run(args: DlqArgs) -> Result<Exit, Error> {
    match args.action {
        Action::List(args) => list(args).await,
        Action::Show(args) => show(args).await,
        Action::Replay(args) => replay(args).await,
        Action::Purge(args) => change(&args, "removed", |_| Disposition::Purge).await,
    }
}

/// Reads the dead letters; prints a note where there are more than `--limit`.
async fn browse(common: &Common, decide: impl FnMut(&QueuedMessage) -> Disposition + Send) -> Result<Browsed, Error> {
    let settings = common.broker.settings("dlq")?;
    let queue = settings.topology.dead().clone();
    let browser = QueueBrowser::connect(settings).await?;
    let read = browser.browse(&queue, common.limit, decide).await?;
    browser.close().await;
    if read.rest > 0 {
        let Browsed { seen, rest } = read;
        output::note(format_args!("imgdex: {queue}: read {seen} messages; {rest} more were not read (--limit)"));
    }
    Ok(read)
}

async fn list(args: List) -> Result<Exit, Error> {
    let mut letters = Vec::new();
    browse(&args.common, |found| {
        let letter = Letter::of(found);
        if args.reason.is_none() || letter.reason == args.reason {
            letters.push(letter);
        }
        Disposition::Keep
    })
    .await?;
    output::records(args.output.format(), &letters, || table(&letters))?;
    Ok(Exit::Done)
}

fn table(letters: &[Letter]) -> Table {
    let mut table = Table::new(&["id", "reason", "attempts", "status", "error"], &[2, 3]);
    for letter in letters {
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            letter.id.clone(),
            text(&letter.reason),
            number(letter.attempts),
            number(letter.status),
            text(&letter.error),
        ]);
    }
    table
}

async fn show(args: Show) -> Result<Exit, Error> {
    let mut shown = Vec::new();
    browse(&args.common, |found| {
        let letter = Letter::of(found);
        if letter.id == args.id {
            shown.push(whole(&letter, found));
        }
        Disposition::Keep
    })
    .await?;
    for letter in &shown {
        let text = serde_json::to_string_pretty(letter).unwrap_or_default();
        output::line(text)?;
    }
    if shown.is_empty() {
        return Err(Error::new(Exit::ItemsFailed, format!("there is no dead letter with the id {:?}", args.id)));
    }
    Ok(Exit::Done)
}

/// A dead letter with its body, as text where it is text, and all its headers.
fn whole(letter: &Letter, found: &QueuedMessage) -> Value {
    let headers = found.properties.headers().clone().unwrap_or_default();
    let headers = headers.inner().keys().map(|name| {
        let value = found.header(name.as_str()).map_or(Value::Null, Value::from);
        (name.to_string(), value)
    });
    serde_json::json!({
        "letter": letter,
        "body": String::from_utf8_lossy(&found.body),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
    })
}

/// Upserts that a worker would not apply for their age stay, unless they are forced.
async fn replay(args: Replay) -> Result<Exit, Error> {
    let Replay { change: which, retention: RetentionArgs { retention }, force } = args;
    let mut expired = 0_u64;
    let exit = change(&which, "replayed", |letter| match letter.upsert_age {
        Some(age) if age > retention && force => Disposition::Readmit,
        Some(age) if age > retention => {
            expired += 1;
            Disposition::Keep
        }
        _ => Disposition::Replay,
    })
    .await?;
    if expired == 0 {
        return Ok(exit);
    }
    let message = format!(
        "{expired} not replayed: they are older than the {} for which deletions are remembered, and may bring back images that \
         were deleted since; --force replays them all the same",
        humantime::format_duration(retention)
    );
    Err(Error::new(Exit::ItemsFailed, message))
}

/// Does with each letter that was asked for what `dispose` says, and reports how many of them did not stay.
async fn change(
    args: &Change,
    done: &str,
    mut dispose: impl FnMut(&Letter) -> Disposition + Send,
) -> Result<Exit, Error> {
    let Which { reason, id, all } = &args.which;
    let (mut found_any, mut changed) = (false, 0_u64);
    browse(&args.common, |found| {
        let letter = Letter::of(found);
        if !(*all || reason.is_some() && letter.reason == *reason || id.as_ref() == Some(&letter.id)) {
            return Disposition::Keep;
        }
        found_any = true;
        let disposition = dispose(&letter);
        changed += u64::from(disposition != Disposition::Keep);
        disposition
    })
    .await
    .map_err(|error| Error::new(error.exit, format!("{error}; up to {changed} were {done} until then")))?;
    output::last_line(format_args!("{changed} {done}"))?;
    match id {
        Some(id) if !found_any => {
            Err(Error::new(Exit::ItemsFailed, format!("there is no dead letter with the id {id:?}")))
        }
        _ => Ok(Exit::Done),
    }
}
