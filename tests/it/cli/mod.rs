//! The commands on the embedded store: output, exit codes, settings. And README's tour of all of them.

mod earlier;
mod tour;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const IMAGES: [&str; 4] = ["baseline-420.jpg", "interlaced.png", "lossy.webp", "plain.gif"];

/// A home folder for each test, so that no setting, store or weights of the machine are used.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A folder with the images above.
    fn photos(&self) -> String {
        let folder = self.path("photos");
        std::fs::create_dir_all(&folder).unwrap();
        for image in IMAGES {
            std::fs::copy(fixture(image), folder.join(image)).unwrap();
        }
        self.text("photos")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgdex"));
        command.args(arguments).env_clear().env("HOME", self.0.path()).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran(self.command(arguments).output().unwrap())
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran(child.wait_with_output().unwrap())
    }

    fn hits(&self, arguments: &[&str]) -> Vec<Value> {
        self.run(&[&["search"], arguments].concat()).exits(0).lines()
    }
}

struct Ran(Output);

impl Ran {
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "stdout: {}\nstderr: {}", self.stdout(), self.stderr());
        self
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.stderr().contains(text), "{text:?} is not in: {}", self.stderr());
        self
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

/// A summary without the fields that differ from run to run.
fn counts(ran: &Ran) -> Value {
    let mut summary = ran.lines().remove(0);
    let fields = summary.as_object_mut().unwrap();
    fields.retain(|name, _| !["store", "seconds"].contains(&name.as_str()));
    summary
}

#[test]
fn a_folder_is_indexed_searched_and_skipped_when_it_is_unchanged() {
    let home = Home::new();
    let photos = home.photos();
    std::fs::write(home.path("photos/broken.png"), "no image").unwrap();
    let index = || home.run(&["index", "--model", "stub", &photos]);
    let expected = |indexed, unchanged| json!({"model": "stub", "indexed": indexed, "unchanged": unchanged, "deleted": 0, "stale": 0, "failed": 1});
    let first = index().exits(1).says(&format!("failed: {photos}/broken.png: "));
    assert_eq!(counts(&first), expected(4, 0));
    assert_eq!(counts(&index().exits(1)), expected(0, 4));
    assert!(home.path(".local/share/imgdex/imgdex.db").is_file());

    // A changed file is indexed again, and only that one.
    std::fs::copy(fixture("rgb.png"), home.path("photos/plain.gif")).unwrap();
    assert_eq!(counts(&index().exits(1)), expected(1, 3));

    let query = home.text("photos/interlaced.png");
    for mode in ["cosine", "l1", "l2", "dot"] {
        let hits = home.hits(&["--mode", mode, &query]);
        assert_eq!(hits.len(), 4, "{mode}");
        assert_eq!(hits[0]["rank"], 1);
        assert!(hits[0]["url"].as_str().unwrap().ends_with("/photos/interlaced.png"), "{mode}: {}", hits[0]);
        assert!(hits[0]["similarity"].as_f64().unwrap() > 0.9999, "{mode}: {}", hits[0]);
        let scores: Vec<_> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{mode}: {scores:?}");
    }
    assert_eq!(home.hits(&["-k", "2", &query]).len(), 2);
    assert_eq!(home.hits(&["--min-similarity", "0.99999", &query]).len(), 1);
    let id = home.hits(&["-k", "1", &query])[0]["id"].as_str().unwrap().to_owned();
    let others = home.hits(&["--id", &id]);
    assert_eq!(others.len(), 3);
    assert!(others.iter().all(|hit| hit["id"] != *id));
    let table = home.run(&["search", "--output", "table", &query]).exits(0).stdout();
    assert!(table.starts_with("rank  similarity") && table.contains("/photos/interlaced.png"), "{table}");
}

#[test]
fn references_on_standard_input_carry_ids_collections_and_metadata() {
    let home = Home::new();
    let url = |name: &str| format!("file://{}", fixture(name).display());
    let lines = [
        json!({"id": "a", "url": url("rgb.png"), "metadata": {"brand": {"name": "x"}}}).to_string(),
        json!({"id": "b", "url": url("grey.png"), "collection": "other"}).to_string(),
        json!({"id": "c", "url": url("rgba.png"), "metadata": {"brand": {"name": "y"}}}).to_string(),
        "# a comment".to_owned(),
        "{\"id\": 5}".to_owned(),
    ];
    let index = ["index", "--model", "stub", "--collection", "shoes", "-"];
    let ran = home.run_with_input(&index, &lines.join("\n")).exits(1).says("failed: ");
    assert_eq!((&counts(&ran)["indexed"], &counts(&ran)["failed"]), (&json!(3), &json!(1)));
    let query = fixture("rgb.png").to_str().unwrap().to_owned();
    let ids = |flags: &[&str]| {
        let hits = home.hits(&[flags, &[&query]].concat());
        let mut ids: Vec<_> = hits.iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&[]), ["a", "b", "c"]);
    assert_eq!(ids(&["--collection", "shoes"]), ["a", "c"]);
    assert_eq!(ids(&["--filter", "brand.name=y"]), ["c"]);
    let hit = &home.hits(&["--filter", "brand.name=x", &query])[0];
    assert_eq!(hit["metadata"], json!({"brand": {"name": "x"}}));

    // A value with a comma is one value.
    let tagged = json!({"id": "d", "url": url("grey.png"), "metadata": {"tags": "x,y"}}).to_string();
    home.run_with_input(&["index", "-"], &tagged).exits(0);
    assert_eq!(ids(&["--filter", "tags=x,y"]), ["d"]);
    // Of two lines about one image the later one holds, even if it is ready first.
    let lines = format!("{tagged}\n{}", json!({"id": "d", "op": "delete"}));
    for _ in 0..5 {
        home.run_with_input(&["index", "-"], &lines).exits(0);
        assert_eq!(ids(&["--filter", "tags=x,y"]), [""; 0]);
    }

    let delete = json!({"id": "a", "op": "delete"}).to_string();
    let ran = home.run_with_input(&["index", "-"], &delete).exits(0);
    assert_eq!(counts(&ran)["deleted"], 1);
    assert_eq!(ids(&[]), ["b", "c"]);
    // Deleted at its version, so that the producer's next one is taken; what is not there needs no deletion.
    let again = home.run_with_input(&["index", "-"], &delete).exits(0);
    assert_eq!((&counts(&again)["deleted"], &counts(&again)["unchanged"]), (&json!(0), &json!(1)));
    let versioned = |version: u64| json!({"id": "v", "url": url("grey.png"), "version": version}).to_string();
    let delete = json!({"id": "v", "op": "delete"}).to_string();
    let lines = [versioned(1), delete, versioned(1)].join("\n");
    let ran = home.run_with_input(&["index", "-"], &lines).exits(0);
    assert_eq!(
        (&counts(&ran)["indexed"], &counts(&ran)["deleted"], &counts(&ran)["stale"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let ran = home.run_with_input(&["index", "-"], &versioned(2)).exits(0);
    assert_eq!(counts(&ran)["indexed"], 1);
}

#[test]
fn an_interrupted_index_leaves_a_usable_store_and_resumes() {
    let home = Home::new();
    let photos = home.photos();
    let mut child = home.command(&["index", "--model", "stub", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // The input stays open: without the signal this command would not end.
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{photos}/{}\n{photos}/{}", IMAGES[0], IMAGES[1]).unwrap();
    let found = || home.run(&["search", &format!("{photos}/{}", IMAGES[0])]).lines().len();
    until("two images are searchable", || found() == 2);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let ran = Ran(child.wait_with_output().unwrap()).exits(1).says("interrupted");
    drop(input);
    assert_eq!(counts(&ran)["indexed"], 2);
    let ran = home.run(&["index", &photos]).exits(0);
    assert_eq!((&counts(&ran)["indexed"], &counts(&ran)["unchanged"]), (&json!(2), &json!(2)));
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_export_is_imported_into_another_store() {
    let home = Home::new();
    let photos = home.photos();
    home.run(&["index", "--model", "stub", &photos]).exits(0);
    let file = home.text("all.ndjson");
    home.run(&["export", &file]).exits(0).says("4 exported");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 5);
    let copy = ["--store", &format!("sqlite:{}", home.text("copy.db"))];
    home.run(&[&["import"], &copy[..], &[&file]].concat()).exits(0).says("4 imported");
    let query = format!("{photos}/{}", IMAGES[2]);
    assert_eq!(home.hits(&[&copy[..], &[&query]].concat()), home.hits(&[&query]));
    // A second import changes nothing.
    home.run(&[&["import"], &copy[..], &[&file]].concat()).exits(0);

    let other = ["--store", &format!("sqlite:{}", home.text("other.db"))];
    home.run(&[&["mappings", "apply", "--model", "vgg16"], &other[..]].concat()).exits(0);
    home.run(&[&["import"], &other[..], &[&file]].concat()).exits(64).says("its model is vgg16, expected stub");
    std::fs::write(home.path("foreign.ndjson"), "{\"a\":1}\n").unwrap();
    home.run(&["import", &home.text("foreign.ndjson")]).exits(74).says("not an export of imgdex");
    home.run(&["export", &home.text("all.csv")]).exits(2).says("must end in .ndjson");
    let names: Vec<_> = std::fs::read_dir(home.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| Path::new(name).extension() != Some("part".as_ref())), "{names:?}");
}

#[test]
fn a_truncated_jpeg_is_indexed_where_that_is_accepted_and_its_document_says_so() {
    let home = Home::new();
    let whole = std::fs::read(fixture("baseline-420.jpg")).unwrap();
    let cut = home.text("cut.jpg");
    std::fs::write(&cut, &whole[..whole.len() * 3 / 4]).unwrap();
    let store = format!("sqlite:{}", home.text("store.db"));
    let index = ["index", "--model", "stub", "--store", &store, &cut];
    home.run(&index).exits(1).says("damaged jpeg: the file ends before the image does");
    home.run(&[&index[..], &["--accept-truncated", "1"]].concat()).exits(1).says("missing, more than 1 %");
    home.run(&[&index[..], &["--accept-truncated", "60"]].concat()).exits(0);
    home.run(&[&index[..], &["--accept-truncated", "101"]].concat()).exits(2);
    let export = home.text("export.ndjson");
    home.run(&["export", "--store", &store, &export]).exits(0);
    let exported = std::fs::read_to_string(export).unwrap();
    assert!(exported.contains("\"format\":\"jpeg-truncated\""), "{exported}");
}

#[test]
fn settings_come_from_flag_environment_file_and_default() {
    let home = Home::new();
    let folder = home.path(".config/imgdex");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("imgdex.toml");
    std::fs::write(&file, "bulk_items = 7\nallow_net = [\"10.0.0.0/8\", \"127.0.0.0/8\"]\n").unwrap();
    std::fs::write(home.path("secret"), "amqp://user:hidden@host/v\n").unwrap();
    let show = |variables: &[(&str, &str)]| {
        let mut command = home.command(&["config", "show"]);
        let lines = Ran(command.envs(variables.iter().copied()).output().unwrap()).exits(0).lines();
        move |name: &str| {
            let record = lines.iter().find(|record| record["setting"] == name).unwrap_or_else(|| panic!("no {name}"));
            (record["value"].as_str().unwrap_or("").to_owned(), record["origin"].as_str().unwrap().to_owned())
        }
    };
    let secret = home.text("secret");
    let shown = show(&[("IMGDEX_PREFETCH", "99"), ("IMGDEX_AMQP_FILE", &secret)]);
    let from_file = file.to_str().unwrap().to_owned();
    assert_eq!(shown("bulk_items"), ("7".to_owned(), from_file.clone()));
    assert_eq!(shown("allow_net"), ("10.0.0.0/8,127.0.0.0/8".to_owned(), from_file));
    assert_eq!(shown("prefetch"), ("99".to_owned(), "environment".to_owned()));
    assert_eq!(shown("amqp"), ("amqp://user:***@host/v".to_owned(), secret));
    assert_eq!(shown("queue"), ("imgdex.images".to_owned(), "default".to_owned()));
    assert!(home.run(&["config", "check"]).exits(0).stdout().contains("this memory: "));

    let check = |variable: (&str, &str)| Ran(home.command(&["config", "check"]).envs([variable]).output().unwrap());
    check(("IMGDEX_PREFETCH", "10")).exits(64).says("--prefetch 10 is too small");
    check(("IMGDEX_PREFETCH", "many")).exits(64).says("IMGDEX_PREFETCH: invalid value 'many'");
    check(("IMGDEX_MAX_INFLIGHT_BYTES", "10")).exits(64).says("raise --max-inflight-bytes");
    check(("IMGDEX_AMQP", "http://host")).exits(64);
    check(("IMGDEX_RETENTION", "1h"))
        .exits(64)
        .says("--retention 1h is too short: with --retry-delays up to 120 seconds");
    check(("IMGDEX_RETENTION", "0s")).exits(64).says("a retention of zero");
    check(("IMGDEX_RETENTION", "a month")).exits(64).says("expected a duration such as 30d");
    check(("IMGDEX_RETRY_DELAYS", "5,864000")).exits(64).says("--retention 30days is too short");
    check(("IMGDEX_STORE", "http://user:pass@es.example/images")).exits(64).says("plain HTTP");
    std::fs::write(&file, "bulk_itmes = 7\n").unwrap();
    home.run(&["search", "x.png"]).exits(64).says("there is no setting `bulk_itmes`");
    home.run(&["search", "--help"]).exits(0);
    home.run(&["completions", "bash"]).exits(0);
    home.run(&["--config", "none.toml", "doctor"]).exits(64).says("none.toml");
}

#[test]
fn each_mistake_has_its_exit_code_and_a_remedy() {
    let home = Home::new();
    let photo = home.photos() + "/interlaced.png";
    home.run(&["search"]).exits(2);
    home.run(&["search", "--mode", "hamming", &photo]).exits(2);
    home.run(&["search", "--id", "a", &photo]).exits(2);
    home.run(&["search", &photo])
        .exits(69)
        .says("does not exist; create it with `imgdex mappings apply --store sqlite:");
    home.run(&["search", "--store", "ftp://host/x", &photo]).exits(64).says("expected sqlite:PATH or http(s)://");
    home.run(&["search", "--store", "http://127.0.0.1:9/images", &photo]).exits(69).says("127.0.0.1:9");
    home.run(&["index", "--model", "vgg19", &photo]).exits(64).says("there is no model `vgg19`");
    // Without weights nothing starts, and no store is created.
    home.run(&["index", &photo]).exits(74).says("imgdex model fetch");
    assert!(!home.path(".local/share/imgdex/imgdex.db").exists());

    home.run(&["index", "--model", "stub", &photo]).exits(0);
    home.run(&["search", &home.text("none.png")]).exits(1).says("none.png");
    home.run(&["search", &home.text("photos")]).exits(2).says("one image");
    home.run(&["search", "--model", "vgg16", &photo]).exits(64).says("its model is stub, expected vgg16");
    home.run(&["search", "--id", "unknown"]).exits(1).says("there is no document \"unknown\"");
    home.run(&["index", &home.text("none")]).exits(1).says("failed: ");
    home.run(&["search", "http://127.0.0.1:9/x.png"]).exits(1).says("127.0.0.1");
    // Local files are refused before a broker is needed.
    home.run(&["publish", &photo]).exits(1).says("a local file cannot be published");
}

#[test]
fn closed_output_changes_no_exit_code() {
    let home = Home::new();
    let photos = home.photos();
    let closed = |arguments: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        home.command(arguments).stdout(writer).stderr(full).status().unwrap().code()
    };
    assert_eq!(closed(&["index", "--model", "stub", &photos]), Some(0));
    assert_eq!(closed(&["index", &photos, &home.text("none")]), Some(1));
    assert_eq!(closed(&["embed", "--model", "stub", &home.text("none"), &photos]), Some(1));
    assert_eq!(closed(&["search", &format!("{photos}/{}", IMAGES[0])]), Some(0));
}

#[test]
fn doctor_finds_what_is_missing() {
    let home = Home::new();
    let findings = |arguments: &[&str], code| {
        let lines = home.run(&[&["doctor"], arguments].concat()).exits(code).lines();
        move |check: &str| lines.iter().find(|finding| finding["check"] == check).unwrap().clone()
    };
    let found = findings(&["--amqp", "amqp://127.0.0.1:9/%2f"], 1);
    assert_eq!(found("weights")["state"], "problem");
    assert_eq!(found("broker")["state"], "problem");
    assert_eq!(found("store")["state"], "note");
    assert_eq!(found("cpu")["state"], "ok");
    assert!(found("memory")["detail"].as_str().unwrap().contains("a worker "));
    home.run(&["index", "--model", "stub", &home.photos()]).exits(0);
    let found = findings(&["--model", "stub"], 0);
    assert!(
        found("store")["detail"].as_str().unwrap().ends_with("imgdex.db: 4 documents, 0 deletions remembered, stub")
    );
}

#[test]
fn completions_know_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]).exits(0).stdout();
        for command in ["index", "search", "publish", "worker", "completions"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    home.run(&["completions", "csh"]).exits(2);
}
