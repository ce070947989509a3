//! `imgdex publish`.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use url::Url;

use crate::broker::publish::Publisher;
use crate::cli::args::{BrokerArgs, StoreArgs, key_value};
use crate::cli::{Error, Exit, output, setup};
use crate::clock::VersionClock;
use crate::message::{self, Envelope, VersionSource, WireReference};
use crate::sources::{self, Source};
use crate::store::{Store, Stored};

/// Why a local file is not published.
const LOCAL: &str =
    "a local file cannot be published: workers fetch over http and https; use `imgdex index`, or serve it";

/// Publish image references to the queue.
// `--version` is that of the references here.
#[derive(Args, Debug)]
#[command(disable_version_flag = true)]
pub struct PublishArgs {
    /// URL, .txt list of URLs or JSON references, or - for the same on standard input
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<OsString>,
    #[command(flatten)]
    broker: BrokerArgs,
    /// The collection of references that name none
    #[arg(long, env = "IMGDEX_COLLECTION")]
    collection: Option<String>,
    /// Metadata of every reference; its own value of a key wins (repeatable)
    #[arg(long, env = "IMGDEX_METADATA", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Publish deletions, each at the version that the store has for its image now; an image that the store does not know is
    /// refused
    #[arg(long)]
    delete: bool,
    /// The version of references that name none [default: the time in milliseconds; of a deletion the stored version]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=message::MAX_VERSION))]
    version: Option<u64>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What a source becomes.
#[derive(Debug)]
enum Prepared {
    Message(Vec<u8>),
    /// A deletion that the store has already.
    Deleted,
}

/// Runs the command.
pub async fn run(args: PublishArgs) -> Result<Exit, Error> {
    let settings = args.broker.settings("publish")?;
    let (local, arguments): (Vec<_>, Vec<_>) = args.sources.iter().cloned().partition(is_local);
    let mut failures = 0_u64;
    for argument in local {
        refuse(&argument.to_string_lossy(), LOCAL, &mut failures);
    }

    if arguments.is_empty() {
        output::last_line(format_args!("0 accepted, {failures} refused"))?;
        return Ok(Exit::ItemsFailed);
    }

    let mut publisher = Publisher::connect(settings).await?;
    let result = publish(&args, arguments, &mut publisher, &mut failures).await;
    let accepted = publisher.accepted();
    if let Err(error) = result {
        let message = format!("{error}; {accepted} were accepted until then; publishing all of them again is safe");
        return Err(Error::new(error.exit, message));
    }
    publisher.close().await;
    output::last_line(format_args!("{accepted} accepted, {failures} refused"))?;
    Ok(if failures == 0 { Exit::Done } else { Exit::ItemsFailed })
}

async fn publish(
    args: &PublishArgs,
    arguments: Vec<OsString>,
    publisher: &mut Publisher,
    failures: &mut u64,
) -> Result<(), Error> {
    let mut sources = setup::sources(arguments)?;
    let mut versions = VersionClock::default();
    // Opened by the first deletion that names no version: nothing else needs it.
    let mut store = None;
    while let Some(item) = sources.next().await {
        let Source { name, url, reference } = match item {
            Ok(source) => source,
            Err(failed) => {
                refuse(&failed.name, &failed.reason, failures);
                continue;
            }
        };
        let prepared = match complete(args, url, reference) {
            Ok(reference) if reference.is_deletion() && reference.version.is_none() => {
                let store = match &store {
                    Some(store) => store,
                    None => store.insert(setup::store(&args.store)?),
                };
                deletion(&name, reference, store).await?
            }
            Ok(mut reference) => {
                // Never the version of the message before: two messages about one image are ordered as they were given.
                reference.version.get_or_insert_with(|| versions.next_version().into());
                encode(&reference).map(Prepared::Message)
            }
            Err(reason) => Err(reason),
        };
        match prepared {
            Ok(Prepared::Message(body)) => {
                if let Some(refused) = publisher.send(name, &body).await? {
                    refuse(&refused.name, &refused.reason, failures);
                }
            }
            Ok(Prepared::Deleted) => {}
            Err(reason) => refuse(&name, &reason, failures),
        }
    }
    for refused in publisher.flush().await? {
        refuse(&refused.name, &refused.reason, failures);
    }
    Ok(())
}

/// The reference of a source with what the arguments add, or why it is not published.
fn complete(args: &PublishArgs, url: Option<Url>, mut reference: WireReference) -> Result<WireReference, String> {
    if args.delete {
        reference.delete();
    }
    if let Some(url) = url.filter(|url| !reference.is_deletion() && !["http", "https"].contains(&url.scheme())) {
        let scheme = url.scheme();
        return Err(if scheme == "file" { LOCAL.to_owned() } else { format!("scheme {scheme:?} is not fetched") });
    }
    if reference.collection.is_none() {
        reference.collection.clone_from(&args.collection);
    }
    if !args.metadata.is_empty() {
        let metadata = reference.metadata.get_or_insert_default();
        for (key, value) in &args.metadata {
            metadata.entry(key.as_str()).or_insert_with(|| value.as_str().into());
        }
    }
    reference.version = reference.version.or(args.version.map(Into::into));
    Ok(reference)
}

/// The message of a deletion that names no version: at the stored version, of which the deletion wins the tie. The time as
/// the version would bar every later version of a producer who counts 1, 2, 3. The inner error is a reason not to publish.
async fn deletion(name: &str, mut reference: WireReference, store: &Store) -> Result<Result<Prepared, String>, Error> {
    let id = match message::check(reference.clone(), (0, VersionSource::FirstReceipt)) {
        Ok(reference) => reference.id,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let stored = store.get(&id).await.map_err(|error| {
        let error = Error::from(error);
        let message =
            format!("{}; a deletion is published at the stored version: pass --store, or --version", error.message);
        Error::new(error.exit, message)
    })?;
    Ok(match stored {
        Some(Stored::Live(document)) => {
            output::note(format_args!("{name}: deletion at version {}", document.version));
            reference.version = Some(document.version.into());
            encode(&reference).map(Prepared::Message)
        }
        Some(Stored::Deleted(tombstone)) => {
            output::note(format_args!("{name}: deleted already, at version {}", tombstone.version));
            Ok(Prepared::Deleted)
        }
        None => Err(format!("{store} does not know it, so there is nothing to delete; --version deletes all the same")),
    })
}

/// The body as a worker will read it, refused here if it would be refused there.
fn encode(reference: &WireReference) -> Result<Vec<u8>, String> {
    let body = serde_json::to_vec(reference).map_err(|error| error.to_string())?;
    message::parse(&Envelope { body: body.clone(), ..Envelope::default() }).map_err(|error| error.to_string())?;
    Ok(body)
}

/// A file or folder that exists, other than a list.
fn is_local(argument: &OsString) -> bool {
    let path = Path::new(argument);
    argument != "-" && !sources::is_list(path) && path.exists()
}

fn refuse(name: &str, reason: &str, failures: &mut u64) {
    output::note(format_args!("imgdex: {name}: {reason}"));
    *failures += 1;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn args(flags: &[&str]) -> PublishArgs {
        Command::parse_from(["publish"].iter().chain(flags).chain(&["-"])).args
    }

    fn published(flags: &[&str], wire: &Value) -> Result<Value, String> {
        let reference = message::read(wire.to_string().as_bytes()).unwrap();
        let url = reference.url.as_ref().map(|url| url.parse().unwrap());
        let body = encode(&complete(&args(flags), url, reference)?)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn what_a_reference_says_is_kept() {
        let wire = json!({"id": "a", "url": "http://h/a", "version": 7, "collection": "c", "metadata": {"k": 1}});
        assert_eq!(published(&[], &wire).unwrap(), wire);
        let flags = ["--collection", "d", "--metadata", "k=2", "--metadata", "l=3"];
        let mut expected = wire.clone();
        expected["metadata"]["l"] = "3".into();
        assert_eq!(published(&flags, &wire).unwrap(), expected);
        assert_eq!(published(&["--version", "9"], &wire).unwrap()["version"], 7);
        assert_eq!(published(&["--version", "9"], &json!({"url": "http://h/a"})).unwrap()["version"], 9);
    }

    #[test]
    fn only_what_workers_fetch_is_published_but_anything_is_deleted() {
        assert!(published(&[], &json!({"url": "file:///a.png"})).unwrap_err().contains("local file"));
        assert!(published(&[], &json!({"url": "ftp://h/a"})).unwrap_err().contains("ftp"));
        assert_eq!(published(&["--delete"], &json!({"url": "file:///a.png"})).unwrap()["op"], "delete");
        assert_eq!(published(&[], &json!({"id": "a", "op": "delete"})).unwrap()["id"], "a");
    }

    #[test]
    fn what_a_worker_would_refuse_is_refused_here() {
        let long = json!({"id": "x".repeat(513), "url": "http://h/a"});
        assert!(published(&[], &long).unwrap_err().contains("id is 513 bytes"));
        assert!(published(&[], &json!({"url": "http://h/a", "version": -1})).unwrap_err().contains("version"));
    }
}
