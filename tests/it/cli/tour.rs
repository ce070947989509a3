//! README's tour, run as written, and the links of the documentation.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

use crate::support::elasticsearch;
use crate::support::model_folder;
use crate::support::rabbit::{self, Rabbit};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// With the real model, the program under test and the servers of all tests.
#[tokio::test]
async fn the_tour_of_the_readme_runs_as_written() {
    let rabbit = Rabbit::new(&[5, 30, 120]).await;
    let mut command = Command::new(root().join("tests/tour/run.sh"));
    command
        .env("IMGDEX_BIN", env!("CARGO_BIN_EXE_imgdex"))
        .env("IMGDEX_MODEL_DIR", model_folder())
        .env("IMGDEX_TEST_AMQP_URL", rabbit::url())
        .env("IMGDEX_TEST_ES_URL", elasticsearch::url())
        .env("IMGDEX_QUEUE", &rabbit.queue)
        .env("IMGDEX_EXCHANGE", &rabbit.exchange);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
}

#[test]
fn every_relative_link_of_the_documentation_leads_somewhere() {
    let skipped = |name: &str| name.starts_with('.') || name == "target" || name == "node_modules";
    let files = WalkDir::new(root())
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !entry.file_name().to_str().is_some_and(skipped));
    let files = files.map(Result::unwrap).map(walkdir::DirEntry::into_path);
    let (mut checked, mut broken) = (0, String::new());
    for file in files.filter(|path| path.extension() == Some("md".as_ref())) {
        for link in links(&std::fs::read_to_string(&file).unwrap()) {
            checked += 1;
            if let Err(reason) = follow(&file, &link) {
                writeln!(broken, "{}: {link}: {reason}", file.strip_prefix(root()).unwrap().display()).unwrap();
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
    assert!(checked > 50, "found only {checked} relative links");
}

/// The lines that are text, not code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The targets of inline links and pictures that stay in the repository.
fn links(text: &str) -> Vec<String> {
    let targets = prose(text).flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    targets.filter(|target| !target.contains("://")).map(ToOwned::to_owned).collect()
}

fn follow(file: &Path, link: &str) -> Result<(), String> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target: PathBuf = if path.is_empty() { file.to_owned() } else { file.parent().unwrap().join(path) };
    if !target.exists() {
        return Err("does not exist".to_owned());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&target).map_err(|error| error.to_string())?;
    if anchors(&text).contains(anchor) { Ok(()) } else { Err("has no such heading".to_owned()) }
}

/// The anchors of the headings: lower case, punctuation dropped, spaces as hyphens.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        prose(text).filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}
