//! Messages that were delivered again and again without an outcome, taken one at a time.
//!
//! One of them may be what ends the workers: by using up the memory, or through a fault that takes the process with it. Whoever
//! is in hand when a process dies is delivered again, the culprit as well as its neighbours; only a message that was alone
//! in hand can be blamed. So a message that was taken back often moves to a queue of its own, from which one is taken only
//! while the worker has nothing else in hand: there the broker's count of takings-back counts deaths of lone messages.
//! Messages of a lost session are taken back as well, so a worker that has lost one lately suspects and blames nobody.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::ANSWER_TIMEOUT;
use super::receipt::Receipt;
use super::session::{End, Session};

/// How often the queue is looked at. A consumer would be told at once, but would have its message in hand before the worker
/// has nothing else.
const INTERVAL: Duration = Duration::from_secs(2);

/// The suspects of whichever session lives.
#[derive(Clone)]
pub struct Quarantine {
    sessions: watch::Receiver<Option<Arc<Session>>>,
    gate: watch::Receiver<bool>,
}

impl Quarantine {
    pub(super) fn new(sessions: watch::Receiver<Option<Arc<Session>>>, gate: watch::Receiver<bool>) -> Self {
        Self { sessions, gate }
    }

    /// Waits until there are some and they may be processed.
    pub async fn waiting(&self) {
        while !*self.gate.borrow() || self.count().await == 0 {
            sleep(INTERVAL).await;
        }
    }

    /// Takes one. `None` where another worker was faster, or there is no session.
    pub async fn take(&self) -> Option<Receipt> {
        let session = self.session()?;
        let queue = session.topology().quarantine().clone();
        let taken = timeout(ANSWER_TIMEOUT, session.quarantine.basic_get(queue, BasicGetOptions::default())).await;
        let BasicGetMessage { delivery, .. } = ended(&session, taken)??;
        Some(Receipt::quarantined(delivery, session))
    }

    async fn count(&self) -> u32 {
        let Some(session) = self.session() else { return 0 };
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = session.topology().quarantine().clone();
        let found =
            timeout(ANSWER_TIMEOUT, session.quarantine.queue_declare(queue, passive, FieldTable::default())).await;
        ended(&session, found).map_or(0, |queue| queue.message_count())
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.sessions.borrow().clone()
    }
}

/// The broker's answer. Where there is none the session ends, and the next one declares the queue again.
fn ended<T>(session: &Session, answer: Result<lapin::Result<T>, tokio::time::error::Elapsed>) -> Option<T> {
    match answer {
        Ok(Ok(found)) => Some(found),
        Ok(Err(error)) => {
            session.end(End::from(error));
            None
        }
        Err(_) => {
            session.end(End::no_answer());
            None
        }
    }
}
