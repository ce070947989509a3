//! `imgdex doctor`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::worker::WorkerArgs;
use crate::cli::args::{BrokerArgs, ModelArgs, StoreArgs};
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::settings::find_model;
use crate::cli::{Error, Exit, setup};
use crate::config::Layers;
use crate::decode::{self, Decoder};
use crate::machine::{self, memory_limit};
use crate::metrics::Metrics;
use crate::model::manifest::{DEFAULT_MODEL, Manifest};
use crate::model::vgg16;
use crate::store::{self, ErrorKind};

/// A service that does not answer within this time is reported as absent.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Check what this machine has and whether the services answer.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The result of one check.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works, or is not needed by every command.
    Note,
    Problem,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "PROBLEM",
        }
    }
}

/// Runs the command.
pub async fn run(args: DoctorArgs, layers: &Layers) -> Result<Exit, Error> {
    let findings = [
        Finding { check: "imgdex", state: State::Ok, detail: env!("CARGO_PKG_VERSION").to_owned() },
        cpu(&args.model),
        memory(layers),
        decoders(layers).await,
        weights(&args.model).await,
        store(&args).await,
        broker(&args.broker).await,
    ];
    output::records(args.output.format(), &findings, || {
        let mut table = Table::new(&["check", "state", "detail"], &[]);
        for Finding { check, state, detail } in &findings {
            table.row([(*check).to_owned(), state.name().to_owned(), detail.clone()]);
        }
        table
    })?;
    let healthy = findings.iter().all(|finding| finding.state != State::Problem);
    Ok(if healthy { Exit::Done } else { Exit::ItemsFailed })
}

fn cpu(args: &ModelArgs) -> Finding {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("neon", cfg!(target_arch = "aarch64"))];
    let features: Vec<_> = found.into_iter().filter_map(|(name, found)| found.then_some(name)).collect();
    let features = if features.is_empty() { "no vector extensions".to_owned() } else { features.join(" ") };
    let compute = args.compute();
    let machine = format!("{} cores granted, {}, {features}", machine::cores(), std::env::consts::ARCH);
    match compute.check() {
        Ok(()) => {
            let plan = compute
                .instructions()
                .map(|_| format!(", plan {}", vgg16::plan(compute.plan).name()))
                .unwrap_or_default();
            let detail = format!("{machine}; kernel {}{plan}", compute.kernel_name());
            Finding { check: "cpu", state: State::Ok, detail }
        }
        Err(error) => Finding { check: "cpu", state: State::Problem, detail: format!("{machine}; {error}") },
    }
}

/// What the machine has left, what the cgroup allows, and what a worker may take.
fn memory(layers: &Layers) -> Finding {
    let finding = |state, detail| Finding { check: "memory", state, detail };
    let bound = match WorkerArgs::from_layers(layers) {
        Ok(worker) => worker.memory().total(),
        Err(error) => return finding(State::Problem, error.to_string()),
    };
    let (available, allowed) = (machine::proc_field_bytes("/proc/meminfo", "MemAvailable"), memory_limit());
    let (state, detail) = compare(available, allowed, bound);
    finding(state, detail)
}

/// What is available and what is allowed, where that is known, against the most that a worker takes; all in bytes.
fn compare(available: Option<u64>, allowed: Option<u64>, bound: u64) -> (State, String) {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let has = available.map_or("not known here".to_owned(), |bytes| format!("{} available", mib(bytes)));
    let limit =
        allowed.map_or("no limit of the cgroup".to_owned(), |bytes| format!("the cgroup allows {}", mib(bytes)));
    // Rounded up, as `config check` does: a bound is not less than it is.
    let takes = format!("{} MiB", bound.div_ceil(1 << 20));
    if allowed.is_some_and(|limit| limit < bound) {
        let advice = "see `imgdex config check`; allow more, or lower --max-image-pixels or --max-inflight-bytes";
        (State::Note, format!("{has}; {limit}, and a worker may take {takes}: {advice}"))
    } else {
        let state = if available.is_some() { State::Ok } else { State::Note };
        (state, format!("{has}; {limit}, and a worker takes at most {takes}"))
    }
}

/// Whether images can be decoded, and whether what must be refused to a decoder is: each is tried.
async fn decoders(layers: &Layers) -> Finding {
    let finding = |state, detail| Finding { check: "decoders", state, detail };
    let checked = async {
        let settings = WorkerArgs::from_layers(layers)?.fetch.decode();
        let manifest = find_model(DEFAULT_MODEL)?;
        let metrics = Arc::new(Metrics::new(&manifest.name, "none").map_err(|e| Error::new(Exit::Io, e.to_string()))?);
        let decoder = Decoder::new(settings, manifest.sampling(), metrics);
        let failed = |error: decode::Error| Error::new(Exit::Io, error.to_string());
        let guard = decoder.prepare().await.map_err(failed)?;
        Ok::<_, Error>((guard, decoder.escapes().await.map_err(failed)?))
    };
    match checked.await {
        Ok((guard, allowed)) if allowed.is_empty() => {
            let state = if guard.is_complete() { State::Ok } else { State::Note };
            finding(state, format!("images are decoded {guard}"))
        }
        Ok((guard, allowed)) => {
            let detail = format!("images are decoded {guard}; a decoder could still {}", allowed.join(", "));
            finding(State::Problem, detail)
        }
        Err(error) => finding(State::Problem, error.to_string()),
    }
}

async fn weights(args: &ModelArgs) -> Finding {
    let checked = async {
        let name = args.model.as_deref().unwrap_or(DEFAULT_MODEL);
        let manifest = Manifest::find(name).map_err(|error| error.to_string())?;
        let folder = args.folder().map_err(|error| error.to_string())?;
        let compute = args.compute();
        tokio::task::spawn_blocking(move || {
            let packed = crate::model::load::check(&manifest, &folder, &compute).map_err(|error| error.to_string())?;
            let packed = packed.map(|path| format!(", packed in {}", path.display())).unwrap_or_default();
            Ok(format!("{} is whole in {}{packed}", manifest.name, folder.display()))
        })
        .await
        .map_err(|error| error.to_string())?
    };
    match checked.await {
        Ok(path) => Finding { check: "weights", state: State::Ok, detail: path },
        Err(detail) => Finding { check: "weights", state: State::Problem, detail },
    }
}

async fn store(args: &DoctorArgs) -> Finding {
    let finding = |state, detail| Finding { check: "store", state, detail };
    let store = match setup::store(&args.store) {
        Ok(store) => store,
        Err(error) => return finding(State::Problem, error.to_string()),
    };
    let checked = async {
        let Some(meta) = store.meta().await? else { return Ok(None) };
        let manifest = find_model(args.model.model.as_ref().unwrap_or(&meta.model))?;
        store.check_meta(&meta, &manifest)?;
        Ok::<_, Error>(Some((meta, store.count().await?, store.count_tombstones().await?)))
    };
    match tokio::time::timeout(TIMEOUT, checked).await {
        Ok(Ok(Some((meta, documents, deletions)))) => {
            let detail = format!("{store}: {documents} documents, {deletions} deletions remembered, {}", meta.model);
            finding(State::Ok, detail)
        }
        Ok(Ok(None)) => match store {
            store::Store::Embedded(_) => {
                finding(State::Note, format!("{store} does not exist yet; `index` creates it"))
            }
            store::Store::Elasticsearch(_) => {
                finding(State::Problem, store::Error::new(&store, ErrorKind::Missing).to_string())
            }
        },
        Ok(Err(error)) => finding(State::Problem, error.to_string()),
        Err(_) => finding(State::Problem, format!("{store}: no answer within {TIMEOUT:?}")),
    }
}

async fn broker(args: &BrokerArgs) -> Finding {
    let finding = |state, detail| Finding { check: "broker", state, detail };
    let settings = match args.settings("doctor") {
        Ok(settings) => settings,
        Err(error) => return finding(State::Problem, error.to_string()),
    };
    match settings.probe().await {
        Ok(()) => finding(State::Ok, "answers and accepts the credentials".to_owned()),
        // Without `--amqp` the broker may not be needed at all.
        Err(error) if args.is_default() => {
            finding(State::Note, format!("{error} (only `publish` and `worker` need it)"))
        }
        Err(error) => finding(State::Problem, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_grants_too_little_is_noted() {
        const GIB: Option<u64> = Some(1 << 30);
        let (state, detail) = compare(GIB, Some((1 << 30) - 1), 1 << 30);
        assert!(state == State::Note && detail.contains("the cgroup allows 1023 MiB, and a worker may take 1024 MiB"));
        assert!(compare(GIB, GIB, 1 << 30).0 == State::Ok);
        assert!(compare(GIB, None, 1 << 40).0 == State::Ok);
        assert!(compare(None, GIB, 1).0 == State::Note);
    }
}
