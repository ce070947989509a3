//! `imgdex why`.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use crate::broker::browse::{Browsed, Disposition, QueueBrowser};
use crate::cli::args::{BrokerArgs, StoreArgs};
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::{Error, Exit, setup};
use crate::dead_letter::Letter;
use crate::store::{Document, Store, Stored, Tombstone};

/// Say where an image is: indexed, deleted, waiting for a retry, dead-lettered or unknown.
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Most messages to search in each queue
    #[arg(long, env = "IMGDEX_LIMIT", value_name = "N", default_value_t = 10_000)]
    limit: u64,
    #[command(flatten)]
    output: OutputArgs,
    /// The document's id
    id: String,
}

/// The last millisecond of the year 9999.
const END_OF_9999_MS: u64 = 253_402_300_799_999;

/// Where the image was found, or was not.
#[derive(Serialize)]
struct Place {
    #[serde(rename = "where")]
    name: String,
    found: bool,
    detail: String,
}

/// Runs the command. Every place is searched: an image may be indexed in one version while a newer one waits.
pub async fn run(args: WhyArgs) -> Result<Exit, Error> {
    let store = setup::store(&args.store)?;
    let settings = args.broker.settings("why")?;
    let topology = settings.topology.clone();
    let mut places = vec![indexed(&store, &args.id).await?];
    let browser = QueueBrowser::connect(settings).await?;
    for tier in topology.retries() {
        places.extend(waiting(&browser, &tier.queue, "waiting for a retry", &args).await?);
    }
    places.extend(waiting(&browser, topology.dead(), "dead-lettered", &args).await?);
    // These two are only counted: browsing takes messages away from the workers for that time, and would count as a failed
    // delivery in the quarantine.
    let mut ready = 0;
    for queue in [topology.quarantine(), topology.queue()] {
        let messages = browser.count(queue).await?;
        ready += messages;
        let detail = format!("{messages} messages, which are not searched");
        places.push(Place { name: queue.to_string(), found: false, detail });
    }
    browser.close().await;
    output::records(args.output.format(), &places, || table(&places))?;
    if places.iter().any(|place| place.found) {
        return Ok(Exit::Done);
    }
    let unknown =
        format!("{:?} is unknown: neither indexed, nor deleted, nor waiting for a retry, nor dead-lettered", args.id);
    let message = if ready > 0 { format!("{unknown}; it may be in the work queue") } else { unknown };
    Err(Error::new(Exit::ItemsFailed, message))
}

async fn indexed(store: &Store, id: &str) -> Result<Place, Error> {
    let name = store.to_string();
    let Some(meta) = store.meta().await? else {
        return Ok(Place { name, found: false, detail: "the store does not exist".to_owned() });
    };
    // The format has four digits for the year.
    let when = |ms: u64| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms.min(END_OF_9999_MS)));
    Ok(match store.get(id).await? {
        Some(Stored::Live(document)) => {
            let Document { version, indexed_at_ms, url, .. } = *document;
            let detail = format!("indexed, version {version}, with {}, {}: {url}", meta.model, when(indexed_at_ms));
            Place { name, found: true, detail }
        }
        Some(Stored::Deleted(Tombstone { version, deleted_at_ms, .. })) => {
            let detail = format!("deleted, version {version}, {}", when(deleted_at_ms));
            Place { name, found: true, detail }
        }
        None => Place { name, found: false, detail: "not indexed".to_owned() },
    })
}

/// The messages about the image in a queue, one place each; with the number of messages beyond `--limit`.
async fn waiting(
    browser: &QueueBrowser,
    queue: &lapin::types::ShortString,
    what: &str,
    args: &WhyArgs,
) -> Result<Vec<Place>, Error> {
    let mut letters = Vec::new();
    let Browsed { seen, rest } = browser
        .browse(queue, args.limit, |found| {
            let letter = Letter::of(found);
            if letter.id == args.id {
                letters.push(letter);
            }
            Disposition::Keep
        })
        .await?;
    let more = if rest > 0 { format!("; {rest} more were not searched (--limit)") } else { String::new() };
    if letters.is_empty() {
        let detail = format!("not among {seen} messages{more}");
        return Ok(vec![Place { name: queue.to_string(), found: false, detail }]);
    }
    let found = letters.into_iter().map(|letter| {
        let reason = letter.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let error = letter.error.unwrap_or_default();
        Place { name: queue.to_string(), found: true, detail: format!("{what}{reason}: {error}{more}") }
    });
    Ok(found.collect())
}

fn table(places: &[Place]) -> Table {
    let mut table = Table::new(&["where", "found", "detail"], &[]);
    for Place { name, found, detail } in places {
        table.row([name.clone(), if *found { "yes" } else { "no" }.to_owned(), detail.clone()]);
    }
    table
}
