//! The files under deploy/ fit the program: its settings, its time to stop, its memory, its ports.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgdex::testing::footprint::{self, Bound};
use walkdir::WalkDir;

/// Settings that may also be read from the file that `..._FILE` names.
const SECRETS: [&str; 3] = ["IMGDEX_AMQP", "IMGDEX_ES_API_KEY", "IMGDEX_STORE"];
/// The commands that deploy/ starts.
const COMMANDS: [&[&str]; 4] = [&["worker"], &["mappings", "apply"], &["mappings", "prune"], &["model", "fetch"]];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// The files under deploy/ without their comments.
fn texts() -> Vec<(PathBuf, String)> {
    let files = WalkDir::new(deploy()).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let code = |text: String| {
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .fold(String::new(), |all, line| all + line + "\n")
    };
    files.map(|file| (file.path().to_owned(), code(fs::read_to_string(file.path()).unwrap()))).collect()
}

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_imgdex")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every word of `text` that begins with `prefix`.
fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.split(move |c| !word(c)).filter(move |found| found.starts_with(prefix) && found.len() > prefix.len())
}

#[test]
fn every_variable_is_a_setting() {
    let help: String = COMMANDS.iter().map(|command| help(command)).collect();
    let known: BTreeSet<&str> = words(&help, "IMGDEX_").collect();
    let mut seen = 0;
    for (path, text) in texts() {
        for variable in words(&text, "IMGDEX_") {
            let setting = variable.strip_suffix("_FILE").filter(|name| SECRETS.contains(name)).unwrap_or(variable);
            assert!(known.contains(setting), "{}: {variable} is no setting; known: {known:?}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "found only {seen} variables under deploy/");
}

#[test]
fn pods_may_take_longer_to_stop_than_the_worker() {
    let help = help(&["worker"]);
    let flag = help.find("--drain").expect("worker has a flag that begins with --drain");
    let default = help[flag..].split_once("[default: ").expect("its default is shown").1;
    let drain: u64 = default[..default.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap();
    let mut seen = 0;
    for (path, text) in texts() {
        for key in ["terminationGracePeriodSeconds: ", "stop_grace_period: "] {
            for (_, value) in text.lines().filter_map(|line| line.split_once(key)) {
                let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
                let grace: u64 = value[..digits].parse().unwrap();
                assert!(grace > drain, "{}: {key}{grace}, but the worker drains for {drain} s", path.display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 2, "one grace period in compose.yaml and one in worker.yaml");
}

#[test]
fn pods_may_take_as_much_memory_as_the_worker() {
    let worker = fs::read_to_string(deploy().join("kubernetes/worker.yaml")).unwrap();
    let (cpu, memory) = worker.split_once("limits: {cpu: \"").unwrap().1.split_once("\", memory: ").unwrap();
    let gibibytes: u64 = memory.split_once("Gi}").unwrap().0.parse().unwrap();
    let bulk = imgdex::testing::indexer::Settings::default();
    let fetch = imgdex::testing::fetch::Settings::default();
    let bound = Bound::of(&footprint::Settings {
        prefetch: 80,
        max_image_bytes: fetch.max_bytes,
        max_inflight_bytes: fetch.max_bytes_held,
        max_image_pixels: 100_000_000,
        cores: cpu.parse().unwrap(),
        threads: cpu.parse().unwrap(),
        bulk_bytes: bulk.max_bytes,
        bulks_in_flight: bulk.in_flight,
    });
    assert!(bound.total() <= gibibytes << 30, "{gibibytes} GiB are granted, and a worker takes {bound}");
}

#[test]
fn probes_and_scrapes_use_a_port_that_the_worker_opens() {
    let read = |name: &str| fs::read_to_string(deploy().join(name)).unwrap();
    let worker = read("kubernetes/worker.yaml");
    assert!(worker.contains("[::]:9090") && worker.contains("name: admin\n              containerPort: 9090"));
    for path in ["/live", "/ready"] {
        assert!(worker.contains(&format!("path: {path}, port: admin")), "{path}");
    }
    assert!(read("kubernetes/podmonitor.yaml").contains("port: admin\n      path: /metrics"));
    assert!(read("kubernetes/networkpolicy.yaml").contains("{port: 9090, protocol: TCP}"));
}

#[test]
fn pods_are_confined() {
    for name in ["kubernetes/worker.yaml", "kubernetes/setup.yaml", "kubernetes/prune.yaml"] {
        let text = fs::read_to_string(deploy().join(name)).unwrap();
        for line in [
            "automountServiceAccountToken: false",
            "enableServiceLinks: false",
            "runAsNonRoot: true",
            "type: RuntimeDefault",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "drop: [ALL]",
        ] {
            assert!(text.contains(line), "{name} lacks {line}");
        }
    }
}
