//! The model on its own thread, behind one `async fn`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::{io, process, thread};

use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};

use crate::decode::pixels::Pixels;
use crate::decode::preprocess::Sampling;
use crate::embedding::{Degenerate, Embedding};
use crate::metrics::Metrics;
use crate::model::compute::Compute;
use crate::model::manifest::Manifest;
use crate::model::{self, Model};

pub use crate::model::MAX_BATCH;

/// Why an image has no features.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The features have no direction, as for an all-black input that activates nothing.
    #[error("the image has no usable features: {0}")]
    Degenerate(Degenerate),
    /// The network failed; not the image's fault.
    #[error("the model failed: {0}")]
    Model(String),
    /// The model thread has ended.
    #[error("the model has stopped")]
    Stopped,
}

/// The order of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A user waits for the hits: the image is in the next batch, before all images that wait to be indexed.
    Search,
    /// In the order of arrival.
    Ingest,
}

/// Hands images to the model thread. Cheap to clone; the thread ends when the last clone is gone.
#[derive(Clone)]
pub struct Extractor {
    requests: mpsc::Sender<Request>,
    urgent: mpsc::Sender<Request>,
}

struct Request {
    pixels: Pixels,
    reply: oneshot::Sender<Result<Embedding, Error>>,
}

/// Why there is no model thread.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error("loading the model failed: {0}")]
    Panicked(#[from] JoinError),
    #[error("the model thread did not start: {0}")]
    Thread(#[from] io::Error),
}

impl Extractor {
    /// Loads a model with its weights from a folder, and starts its thread.
    pub async fn load(
        manifest: &Manifest,
        folder: &Path,
        compute: &Compute,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let (manifest, folder, compute) = (manifest.clone(), folder.to_owned(), *compute);
        // Reading and checking the weights takes a while, and may not stall the tasks that share this thread.
        let loaded = spawn_blocking(move || model::load::load(&manifest, &folder, &compute)).await?;
        Ok(Self::start(loaded?, metrics)?)
    }

    /// Computes one image: the first pass allocates, and shows whether the model works at all.
    pub async fn warm_up(&self, sampling: Sampling) -> Result<(), Error> {
        let gradient = (0..sampling.bytes()).map(|i| (i % 251) as u8).collect();
        let Some(pixels) = Pixels::new(sampling.size, gradient) else { return Ok(()) };
        match self.embed(pixels, Priority::Ingest).await {
            Ok(_) | Err(Error::Degenerate(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Starts the model thread. Must be called within a runtime.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(model: Box<dyn Model>, metrics: Arc<Metrics>) -> io::Result<Self> {
        // Two batches: one in the network, one ready for it. More would only hide pixels from the memory bound.
        let (requests, waiting) = mpsc::channel(2 * MAX_BATCH);
        let (urgent, waiting_urgently) = mpsc::channel(MAX_BATCH);
        let intake = Intake { requests: waiting, urgent: waiting_urgently };
        let runtime = Handle::current();
        thread::Builder::new().name("model".into()).spawn(move || run(model, intake, &runtime, &metrics))?;
        Ok(Self { requests, urgent })
    }

    /// Computes the features of one image. Waits for room in the queue, then for the image's batch.
    pub async fn embed(&self, pixels: Pixels, priority: Priority) -> Result<Embedding, Error> {
        let queue = match priority {
            Priority::Ingest => &self.requests,
            Priority::Search => &self.urgent,
        };
        let (reply, result) = oneshot::channel();
        queue.send(Request { pixels, reply }).await.map_err(|_| Error::Stopped)?;
        result.await.map_err(|_| Error::Stopped)?
    }
}

/// The images that wait for the network.
struct Intake {
    requests: mpsc::Receiver<Request>,
    urgent: mpsc::Receiver<Request>,
}

impl Intake {
    /// Takes the waiting images, up to a full batch. Waits for the first one, never for more: a lone image must not be
    /// held up. Takes none once all extractors are dropped.
    async fn next(&mut self, batch: &mut Vec<Request>) {
        select! {
            biased;
            Some(request) = self.urgent.recv() => batch.push(request),
            Some(request) = self.requests.recv() => batch.push(request),
            else => return,
        }
        // Empty and closed are the same here.
        while batch.len() < MAX_BATCH
            && let Ok(request) = self.urgent.try_recv().or_else(|_| self.requests.try_recv())
        {
            batch.push(request);
        }
    }
}

fn run(mut model: Box<dyn Model>, mut intake: Intake, runtime: &Handle, metrics: &Metrics) {
    let mut waiting = Vec::with_capacity(MAX_BATCH);
    loop {
        runtime.block_on(intake.next(&mut waiting));
        if waiting.is_empty() {
            return;
        }
        // A caller that has gone (timed out, cancelled) needs no features.
        waiting.retain(|request| !request.reply.is_closed());
        let (batch, replies): (Vec<_>, Vec<_>) = waiting.drain(..).map(|r| (r.pixels, r.reply)).unzip();
        if batch.is_empty() {
            continue;
        }
        metrics.extract_batch(batch.len());
        // A panic is a fault of this program, perhaps with these images each time. It ends the process, as a crash
        // would: a worker without its model would requeue every message for ever, and the broker counts crashes.
        let results = catch_unwind(AssertUnwindSafe(|| model.embed(&batch))).unwrap_or_else(|_| {
            tracing::error!("the model panicked; the process ends");
            process::abort()
        });
        match results {
            Ok(results) => {
                for (reply, result) in replies.into_iter().zip(results) {
                    // Fails where the caller has gone since.
                    let _ = reply.send(result.map_err(Error::Degenerate));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the model failed on a batch");
                for reply in replies {
                    let _ = reply.send(Err(Error::Model(error.to_string())));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::model;

    /// Reports the images of each batch, and computes one batch for each `()` that it receives.
    struct Slow {
        batches: Sender<Vec<u8>>,
        proceed: Receiver<()>,
    }

    impl Model for Slow {
        fn embed(&mut self, batch: &[Pixels]) -> Result<Vec<Result<Embedding, Degenerate>>, model::Error> {
            self.batches.send(batch.iter().map(|pixels| pixels.as_rgb()[0]).collect()).unwrap();
            self.proceed.recv().unwrap();
            Ok(batch.iter().map(|_| Embedding::normalize(vec![1.0])).collect())
        }
    }

    fn image(number: u8) -> Pixels {
        Pixels::new(1, vec![number; 3]).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_search_waits_for_the_batch_in_the_network_only() {
        let (batches, seen) = channel();
        let (release, proceed) = channel();
        let metrics = Arc::new(Metrics::new("slow", "none").unwrap());
        let extractor = Extractor::start(Box::new(Slow { batches, proceed }), metrics).unwrap();
        let sent = |number: u8, priority: Priority| {
            let extractor = extractor.clone();
            tokio::spawn(async move { extractor.embed(image(number), priority).await.map(drop) })
        };
        let mut tasks = vec![sent(0, Priority::Ingest)];
        assert_eq!(seen.recv().unwrap(), [0]);
        tasks.extend((1..=20).map(|number| sent(number, Priority::Ingest)));
        // Until the queue is full.
        while extractor.requests.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        tasks.push(sent(100, Priority::Search));
        while extractor.urgent.capacity() == MAX_BATCH {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        let batch = seen.recv().unwrap();
        assert_eq!((batch[0], batch.len()), (100, MAX_BATCH));
        // No image is forgotten, and the thread ends with the last extractor.
        (0..tasks.len()).for_each(|_| release.send(()).unwrap());
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        drop(extractor);
        while seen.recv().is_ok() {}
    }
}
