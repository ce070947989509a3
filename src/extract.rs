//! The model on its own thread, behind one `async fn`.

use std::sync::Arc;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::embedding::{Degenerate, Embedding};
use crate::metrics::Metrics;
use crate::model::{Model, Pixels};

/// Images in one forward pass: past this the network is no faster per image, and a search would wait longer.
pub const MAX_BATCH: usize = 8;

/// Why there are no features.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The features of this image are no direction, as for an all-black input that activates nothing.
    #[error("the image has no usable features: {0}")]
    Degenerate(Degenerate),
    /// The network failed; not the image's fault.
    #[error("the model failed: {0}")]
    Model(String),
    /// The model thread has ended.
    #[error("the model has stopped")]
    Stopped,
}

/// Hands images to the model thread. Cheap to clone; the thread ends when the last clone is gone.
#[derive(Clone)]
pub struct Extractor {
    requests: mpsc::Sender<Request>,
}

struct Request {
    pixels: Pixels,
    answer: oneshot::Sender<Result<Embedding, Error>>,
}

impl Extractor {
    /// Starts the model thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(model: Box<dyn Model>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        // Two batches: one in the network, one ready for it. More would only hide pixels from the memory bound.
        let (requests, intake) = mpsc::channel(2 * MAX_BATCH);
        thread::Builder::new().name("model".into()).spawn(move || run(model, intake, &metrics))?;
        Ok(Self { requests })
    }

    /// Computes the features of one image. Waits for room, then for the batch that takes the image along.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn embed(&self, pixels: Pixels) -> Result<Embedding, Error> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { pixels, answer }).await.map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }
}

fn run(mut model: Box<dyn Model>, mut intake: mpsc::Receiver<Request>, metrics: &Metrics) {
    let mut waiting = Vec::with_capacity(MAX_BATCH);
    // Takes what is waiting and never waits for more: a lone image must not be held up to fill a batch.
    while intake.blocking_recv_many(&mut waiting, MAX_BATCH) > 0 {
        // A caller that has gone (timed out, cancelled) needs no features.
        waiting.retain(|request| !request.answer.is_closed());
        let (batch, answers): (Vec<_>, Vec<_>) = waiting.drain(..).map(|r| (r.pixels, r.answer)).unzip();
        if batch.is_empty() {
            continue;
        }
        metrics.extract_batch(batch.len());
        match model.embed(&batch) {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // A caller that left meanwhile does not mind.
                    let _ = answer.send(result.map_err(Error::Degenerate));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the model failed on a batch");
                for answer in answers {
                    let _ = answer.send(Err(Error::Model(error.to_string())));
                }
            }
        }
    }
}
