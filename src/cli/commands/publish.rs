//! `imgdex publish`.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use crate::broker::publish::Publisher;
use crate::cli::args::{BrokerArgs, key_value};
use crate::cli::{Error, Exit, output, setup};
use crate::clock::VersionClock;
use crate::message::{self, Envelope, WireReference};
use crate::sources::{self, Failed, Source};

/// Why a local file is not published.
const LOCAL: &str =
    "a local file cannot be published: workers fetch over http and https; use `imgdex index`, or serve it";

/// Publish image references to the queue.
#[derive(Args, Debug)]
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
    /// Publish deletions
    #[arg(long)]
    delete: bool,
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
    while let Some(item) = sources.next().await {
        match item.and_then(|source| body(args, source, &mut versions)) {
            Ok((name, body)) => {
                if let Some(refused) = publisher.send(name, &body).await? {
                    refuse(&refused.name, &refused.reason, failures);
                }
            }
            Err(failed) => refuse(&failed.name, &failed.reason, failures),
        }
    }
    for refused in publisher.flush().await? {
        refuse(&refused.name, &refused.reason, failures);
    }
    Ok(())
}

/// The message of a source, with what the arguments add. Its version is never the one of the message before: two
/// messages about one image are ordered as they were given.
fn body(args: &PublishArgs, source: Source, versions: &mut VersionClock) -> Result<(String, Vec<u8>), Failed> {
    let Source { name, url, mut reference } = source;
    if args.delete {
        reference.op = Some("delete".to_owned());
    }
    let deletes = reference.op.as_deref() == Some("delete");
    if let Some(url) = url.filter(|url| !deletes && !["http", "https"].contains(&url.scheme())) {
        let reason =
            if url.scheme() == "file" { LOCAL.to_owned() } else { format!("scheme {:?} is not fetched", url.scheme()) };
        return Err(Failed { name, reason });
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
    reference.version.get_or_insert_with(|| versions.next_version().into());
    match check(&reference) {
        Ok(body) => Ok((name, body)),
        Err(error) => Err(Failed { name, reason: error.to_string() }),
    }
}

/// The body as a worker will read it, refused here if it would be refused there.
fn check(reference: &WireReference) -> Result<Vec<u8>, message::Error> {
    let body = serde_json::to_vec(reference).map_err(|error| message::Error::Json(error.to_string()))?;
    message::parse(&Envelope { body: body.clone(), ..Envelope::default() })?;
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

    fn source(wire: &Value) -> Source {
        let reference = message::read(wire.to_string().as_bytes()).unwrap();
        let url = reference.url.as_ref().map(|url| url.parse().unwrap());
        Source { name: "it".to_owned(), url, reference }
    }

    fn published(flags: &[&str], wire: &Value) -> Result<Value, String> {
        match body(&args(flags), source(wire), &mut VersionClock::default()) {
            Ok((_, body)) => Ok(serde_json::from_slice(&body).unwrap()),
            Err(failed) => Err(failed.reason),
        }
    }

    #[test]
    fn what_a_reference_says_is_kept() {
        let wire = json!({"id": "a", "url": "http://h/a", "version": 7, "collection": "c", "metadata": {"k": 1}});
        assert_eq!(published(&[], &wire).unwrap(), wire);
        let flags = ["--collection", "d", "--metadata", "k=2", "--metadata", "l=3"];
        let mut expected = wire.clone();
        expected["metadata"]["l"] = "3".into();
        assert_eq!(published(&flags, &wire).unwrap(), expected);
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
