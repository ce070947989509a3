//! `imgdex worker`.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::broker::consumer::Consumer;
use crate::cli::args::{BrokerArgs, FetchArgs, ModelArgs, StoreArgs};
use crate::cli::{Command, Error, Exit, setup};
use crate::config::Layers;
use crate::decode::pixels::Pixels;
use crate::decode::preprocess::Sampling;
use crate::embedder::Embedder;
use crate::extract::{self, Extractor, Priority};
use crate::health::{Condition, Health};
use crate::indexer::{self, Indexer};
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::server::admin;
use crate::store::Store;
use crate::worker::gate::{GateKeeper, await_model};
use crate::worker::{self, ACK_TIMEOUT};
use crate::{footprint, machine, shutdown};

/// Longest that a store may be waited for, in seconds: with the time that fetching, decoding and a last request may take,
/// all of it is over before half of the broker's limit on an acknowledgement.
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
    fetch: FetchArgs,
    /// Most messages taken and not yet settled; each may hold an image in memory
    #[arg(long, env = "IMGDEX_PREFETCH", default_value = "80")]
    prefetch: NonZeroU16,
    /// Most documents in one request to the store
    #[arg(long, env = "IMGDEX_BULK_ITEMS", default_value = "32")]
    bulk_items: NonZeroUsize,
    /// Most requests to the store at once; fewer while it has too much to do
    #[arg(long, env = "IMGDEX_BULKS_IN_FLIGHT", default_value = "2")]
    bulks_in_flight: NonZeroUsize,
    /// Seconds that a document waits for a store that does not take it, before its message is given back to the queue
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

    /// The most memory that it takes on this machine.
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
        let model = self.model.model.as_ref().map_or(Ok(()), |_| setup::chosen_model(&self.model).map(drop));
        let fetcher = setup::metrics("unknown", &self.model)
            .and_then(|metrics| setup::fetcher(&self.fetch, false, metrics).map(drop));
        let checks = [
            self.check_prefetch(),
            setup::broker(&self.broker, "worker").map(drop),
            setup::store(&self.store).map(drop),
            model,
            self.model.compute().check().map_err(|error| Error::new(Exit::Config, error.to_string())),
            fetcher,
        ];
        checks.into_iter().filter_map(Result::err).collect()
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
    args.check_prefetch()?;
    let broker = setup::broker(&args.broker, "worker")?;
    let store = Arc::new(setup::store(&args.store)?);
    let chosen = args.model.model.as_ref().map(|_| setup::chosen_model(&args.model)).transpose()?;
    let metrics = setup::metrics(chosen.as_ref().map_or("unknown", |model| &model.name), &args.model)?;
    let fetcher = setup::fetcher(&args.fetch, false, Arc::clone(&metrics))?;
    let stop =
        shutdown::on_signal().map_err(|error| Error::new(Exit::Io, format!("signals cannot be handled: {error}")))?;

    let (connected, broker_condition) = waiting("connecting");
    let (stored, store_condition) = waiting("not checked yet");
    let (warm, model_condition) = waiting("not loaded yet");
    // Nothing is known against the network before something was fetched.
    let (reached, network_condition) = watch::channel(Ok(()));
    let health =
        Health { broker: broker_condition, store: store_condition, network: network_condition, model: model_condition };
    let admin = serve(args.admin_listen, health, Arc::clone(&metrics)).await?;

    // Connects and declares the topology while the model is loaded; consumes when the gate opens.
    let (gate, opened) = watch::channel(false);
    let consumer = Consumer::start(broker, args.prefetch.get(), opened, connected, Arc::clone(&metrics));

    let prepared = stop
        .run_until_cancelled(async {
            let model = match chosen {
                Some(model) => model,
                None => await_model(&store, &stored, &metrics).await,
            };
            metrics.identify(&model.name, args.model.compute().kernel_name());
            let extractor = setup::extractor(&model, &args.model, Arc::clone(&metrics)).await?;
            warm_up(&extractor, model.sampling()).await?;
            let _ = warm.send_replace(Ok(()));
            Ok::<_, Error>((model, extractor))
        })
        .await;
    let (model, extractor) = match prepared {
        Some(Ok(prepared)) => prepared,
        Some(Err(error)) => {
            consumer.close().await;
            return Err(error);
        }
        None => {
            consumer.close().await;
            return Ok(Exit::Done);
        }
    };

    let indexer = indexer(&args, &store, &metrics);
    let breaker = indexer.breaker();
    let decoder = setup::decoder(&args.fetch, &model);
    let fetcher = Arc::new(fetcher);
    let embedder = Embedder::new(Arc::clone(&fetcher), decoder, extractor, Arc::clone(&metrics));
    let pipeline = Pipeline::new(embedder, indexer, Arc::clone(&metrics));
    let watch = GateKeeper {
        store,
        model,
        breaker,
        fetcher,
        gate,
        store_condition: stored,
        network_condition: reached,
        metrics: Arc::clone(&metrics),
    };
    let watcher = tokio::spawn(watch.run());
    worker::run(consumer, pipeline, metrics, stop, Duration::from_secs(args.drain_deadline)).await;
    watcher.abort();
    admin.abort();
    Ok(Exit::Done)
}

fn waiting(reason: &str) -> (watch::Sender<Condition>, watch::Receiver<Condition>) {
    watch::channel(Err(reason.to_owned()))
}

async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Arc<Metrics>,
) -> Result<tokio::task::JoinHandle<std::io::Result<()>>, Error> {
    let failed = |error: std::io::Error| Error::new(Exit::Io, format!("--admin-listen {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    tracing::info!("listening on {}", listener.local_addr().map_err(failed)?);
    Ok(tokio::spawn(axum::serve(listener, admin::router(health, metrics)).into_future()))
}

/// One image through the network: the first pass allocates, and shows whether the model works at all.
async fn warm_up(extractor: &Extractor, sampling: Sampling) -> Result<(), Error> {
    let gradient = (0..sampling.bytes()).map(|i| (i % 251) as u8).collect();
    let Some(pixels) = Pixels::new(sampling.size, gradient) else { return Ok(()) };
    match extractor.embed(pixels, Priority::Ingest).await {
        Ok(_) | Err(extract::Error::Degenerate(_)) => Ok(()),
        Err(error) => Err(Error::new(Exit::Io, format!("the model does not compute: {error}"))),
    }
}

fn indexer(args: &WorkerArgs, store: &Arc<Store>, metrics: &Arc<Metrics>) -> Indexer {
    let settings = indexer::Settings {
        max_items: args.bulk_items.get(),
        in_flight: args.bulks_in_flight.get(),
        hold: Duration::from_secs(args.hold),
        hold_blocked: true,
        ..indexer::Settings::default()
    };
    Indexer::start(Arc::clone(store), settings, Arc::clone(metrics))
}
