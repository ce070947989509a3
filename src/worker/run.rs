//! The worker as a whole: its parts wired, the model warmed up, deliveries processed until a signal.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::gate::{GateKeeper, await_model};
use crate::broker::consumer::Consumer;
use crate::decode::Decoder;
use crate::embedder::Embedder;
use crate::extract::{self, Extractor};
use crate::fetch::Fetcher;
use crate::health::{Condition, Health};
use crate::indexer::Indexer;
use crate::metrics::Metrics;
use crate::model::compute::Compute;
use crate::model::manifest::Manifest;
use crate::pipeline::{Input, Pipeline};
use crate::server::admin;
use crate::store::Store;
use crate::{broker, decode, fetch, indexer, message, shutdown};

/// What a worker is made from.
pub struct Settings {
    pub broker: broker::Settings,
    /// Most deliveries that are not settled.
    pub prefetch: NonZeroU16,
    pub store: Store,
    /// The model that the store must be made for; `None` takes the one that the store records.
    pub model: Option<Manifest>,
    /// The folder with the weights.
    pub model_folder: PathBuf,
    pub compute: Compute,
    pub fetch: fetch::Settings,
    pub decode: decode::Settings,
    pub indexer: indexer::Settings,
    /// How long deletions are remembered. An older upsert is not applied.
    pub retention: Duration,
    /// Where `/live`, `/ready` and `/metrics` are served.
    pub admin_listen: SocketAddr,
    /// The time from the first signal to the end of the process.
    pub drain_deadline: Duration,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the metrics could not be declared: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error("signals cannot be handled: {0}")]
    Signals(io::Error),
    #[error("{address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Model(#[from] extract::LoadError),
    #[error("the model does not compute: {0}")]
    WarmUp(extract::Error),
    #[error(transparent)]
    Decode(#[from] decode::Error),
}

/// Runs a worker until a signal ends it in order.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let Settings { store, compute, decode, .. } = settings;
    let store = Arc::new(store);
    let model_name = settings.model.as_ref().map_or("unknown", |model| &model.name);
    let metrics = Arc::new(Metrics::new(model_name, compute.kernel_name())?);
    let fetcher = Arc::new(Fetcher::new(&settings.fetch, Arc::clone(&metrics))?);
    let stop = shutdown::on_signal().map_err(Error::Signals)?;

    let (broker_condition, broker_health) = unmet("connecting");
    let (store_condition, store_health) = unmet("not checked yet");
    let (model_condition, model_health) = unmet("not loaded yet");
    // Before the first fetch there is no sign of an outage.
    let (network_condition, network_health) = watch::channel(Ok(()));
    let health = Health { broker: broker_health, store: store_health, network: network_health, model: model_health };
    let admin = serve(settings.admin_listen, health, Arc::clone(&metrics)).await?;

    // Connects and declares the topology during the loading of the model; consumes while the gate is open.
    let (gate, opened) = watch::channel(false);
    let prefetch = settings.prefetch.get();
    let names_version = message::names_version;
    let consumer =
        Consumer::start(settings.broker, prefetch, names_version, opened, broker_condition, Arc::clone(&metrics));

    let prepared = stop
        .run_until_cancelled(async {
            let model = match settings.model {
                Some(model) => model,
                None => await_model(&store, &store_condition, &metrics).await,
            };
            metrics.identify(&model.name, compute.kernel_name());
            let extractor = Extractor::load(&model, &settings.model_folder, &compute, Arc::clone(&metrics)).await?;
            extractor.warm_up(model.sampling()).await.map_err(Error::WarmUp)?;
            let _ = model_condition.send_replace(Ok(()));
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
            return Ok(());
        }
    };

    let decoder = Decoder::new(decode, model.sampling(), Arc::clone(&metrics));
    match decoder.prepare().await {
        Ok(guard) => tracing::info!("images are decoded {guard}"),
        Err(error) => {
            consumer.close().await;
            return Err(error.into());
        }
    }
    let embedder = Embedder::new(Arc::clone(&fetcher), decoder, extractor, Arc::clone(&metrics));
    let indexer = Indexer::start(Arc::clone(&store), settings.indexer, Arc::clone(&metrics));
    let breaker = indexer.breaker();
    let input = Input::Queue { retention: settings.retention };
    let pipeline = Pipeline::new(embedder, indexer, Arc::clone(&metrics), input);
    let keeper = GateKeeper {
        store,
        model,
        breaker,
        fetcher,
        gate,
        store_condition,
        network_condition,
        metrics: Arc::clone(&metrics),
    };
    let keeper = tokio::spawn(keeper.run());
    super::process_deliveries(consumer, pipeline, metrics, stop, settings.drain_deadline).await;
    keeper.abort();
    admin.abort();
    Ok(())
}

/// A condition that is not met yet, and why.
fn unmet(reason: &str) -> (watch::Sender<Condition>, watch::Receiver<Condition>) {
    watch::channel(Err(reason.to_owned()))
}

async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Arc<Metrics>,
) -> Result<JoinHandle<io::Result<()>>, Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    tracing::info!("listening on {}", listener.local_addr().map_err(failed)?);
    Ok(tokio::spawn(axum::serve(listener, admin::router(health, metrics)).into_future()))
}
