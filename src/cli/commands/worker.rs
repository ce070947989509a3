//! `imgdex worker`.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Duration;

use clap::Args;

use crate::cli::args::{BrokerArgs, FetchArgs, ModelArgs, RetentionArgs, StoreArgs};
use crate::cli::{Command, Error, Exit, setup};
use crate::config::Layers;
use crate::model::compute::Compute;
use crate::model::manifest::Manifest;
use crate::worker::run::Settings;
use crate::worker::{self, ACK_TIMEOUT};
use crate::{extract, footprint, indexer, machine, pipeline};

/// The largest `--hold` in seconds: with the time that fetching, decoding and a last request may take, a message is settled
/// before half of the broker's limit on an acknowledgement.
const LONGEST_HOLD: u64 = ACK_TIMEOUT.as_secs() / 2 - 180;

/// Take references from the queue, index them into the store.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pub fetch: FetchArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Most deliveries that are not settled; each may hold an image in memory
    #[arg(long, env = "IMGDEX_PREFETCH", default_value = "80")]
    prefetch: NonZeroU16,
    /// Most documents in one request to the store
    #[arg(long, env = "IMGDEX_BULK_ITEMS", default_value = "32")]
    bulk_items: NonZeroUsize,
    /// Most requests to the store at once; fewer while it is overloaded
    #[arg(long, env = "IMGDEX_BULKS_IN_FLIGHT", default_value = "2")]
    bulks_in_flight: NonZeroUsize,
    /// Seconds that a document waits for a store that does not take it, before its message is requeued
    #[arg(long, env = "IMGDEX_HOLD", value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=LONGEST_HOLD))]
    hold: u64,
    /// Where /live, /ready and /metrics are served; port 0 takes a free one, which is logged
    #[arg(long, env = "IMGDEX_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,
    /// Seconds in which SIGTERM finishes what is in flight; must be less than the pod's grace period
    #[arg(long, env = "IMGDEX_DRAIN_DEADLINE", value_name = "SECONDS", default_value_t = 25)]
    drain_deadline: u64,
}

impl WorkerArgs {
    /// The worker's settings as environment, files and defaults have them.
    pub(in crate::cli) fn from_layers(layers: &Layers) -> Result<Self, Error> {
        let arguments = ["imgdex", "worker"].map(Into::into).to_vec();
        let wrong = |reason: String| Error::new(Exit::Config, reason);
        match crate::cli::parse(layers, arguments).map_err(|error| wrong(error.to_string()))?.command {
            Command::Worker(args) => Ok(args),
            other => Err(wrong(format!("{other:?} was read where the worker's settings should be"))),
        }
    }

    /// The largest amount of memory that the worker takes on this machine.
    pub(in crate::cli) fn memory(&self) -> footprint::Bound {
        footprint::Bound::of(&footprint::Settings {
            prefetch: self.prefetch.get().into(),
            max_image_bytes: self.fetch.max_image_bytes,
            max_inflight_bytes: self.fetch.max_inflight_bytes,
            max_image_pixels: self.fetch.max_image_pixels,
            cores: machine::cores(),
            threads: self.model.thread_count(),
            bulk_bytes: indexer::Settings::default().max_bytes,
            bulks_in_flight: self.bulks_in_flight.get(),
        })
    }

    /// Everything that keeps these settings from being used together, found without connecting to anything.
    pub(in crate::cli) fn problems(&self) -> Vec<Error> {
        let fetcher = || {
            let metrics = setup::metrics("unknown", &self.model)?;
            setup::fetcher(&self.fetch.fetch_for_worker()?, metrics).map(drop)
        };
        let checks = [
            self.check_prefetch(),
            self.check_retention(),
            self.broker.settings("worker").map(drop),
            setup::store(&self.store).map(drop),
            self.chosen_model().map(drop),
            self.model.folder().map(drop),
            self.compute().map(drop),
            fetcher(),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }

    /// The same checks, up to the first problem. The fetcher checks its settings when it is made, before a port is bound.
    fn settings(&self) -> Result<Settings, Error> {
        self.check_prefetch()?;
        self.check_retention()?;
        Ok(Settings {
            broker: self.broker.settings("worker")?,
            prefetch: self.prefetch,
            store: setup::store(&self.store)?,
            model: self.chosen_model()?,
            model_folder: self.model.folder()?,
            compute: self.compute()?,
            fetch: self.fetch.fetch_for_worker()?,
            decode: self.fetch.decode(),
            indexer: indexer::Settings {
                max_items: self.bulk_items.get(),
                in_flight: self.bulks_in_flight.get(),
                hold: Duration::from_secs(self.hold),
                hold_blocked: true,
                ..indexer::Settings::default()
            },
            retention: self.retention.retention,
            admin_listen: self.admin_listen,
            drain_deadline: Duration::from_secs(self.drain_deadline),
        })
    }

    /// The model that `--model` names; without it the store's own is taken.
    fn chosen_model(&self) -> Result<Option<Manifest>, Error> {
        self.model.model.as_ref().map(|_| self.model.manifest()).transpose()
    }

    /// How features are computed, on a machine that can.
    fn compute(&self) -> Result<Compute, Error> {
        let compute = self.model.compute();
        compute.check().map_err(|error| Error::new(Exit::Config, error.to_string()))?;
        Ok(compute)
    }

    /// A message that is tried for longer than deletions are remembered would expire in the retry queues.
    fn check_retention(&self) -> Result<(), Error> {
        let longest = self.broker.retry_delays.iter().max().map_or(0, |delay| u64::from(*delay));
        let (needed, retention) = (pipeline::longest_wait(Duration::from_secs(longest)), self.retention.retention);
        if retention > needed {
            return Ok(());
        }
        let message = format!(
            "--retention {} is too short: with --retry-delays up to {longest} seconds a message may wait for {} before its last \
             try",
            humantime::format_duration(retention),
            humantime::format_duration(needed)
        );
        Err(Error::new(Exit::Config, message))
    }

    /// With fewer messages than the batches hold, the last batches would wait for messages that are never delivered.
    fn check_prefetch(&self) -> Result<(), Error> {
        let (items, bulks) = (self.bulk_items.get(), self.bulks_in_flight.get());
        let needed = items.saturating_mul(bulks).saturating_add(extract::MAX_BATCH);
        if usize::from(self.prefetch.get()) >= needed {
            return Ok(());
        }
        let message = format!(
            "--prefetch {} is too small: at least {needed} are needed to fill a batch of images ({}) and {bulks} \
             batches of documents (--bulk-items {items}); raise one or lower the other",
            self.prefetch,
            extract::MAX_BATCH,
        );
        Err(Error::new(Exit::Config, message))
    }
}

/// Runs the command.
pub async fn run(args: WorkerArgs) -> Result<Exit, Error> {
    worker::run::run(args.settings()?).await?;
    Ok(Exit::Done)
}
