//! Hands out messages that were requeued too often, one at a time.
//!
//! Such a message may crash the worker, by its use of memory or by a fault that ends the process. When a process dies, the
//! broker requeues every message in flight, not only the one that killed it; the cause is certain only if a single message
//! was in flight. So a message that was requeued too often moves to a queue of its own, from which one is taken only while
//! the worker has nothing else in flight. There the broker's delivery count counts crashes with this message alone.
//! Messages of a lost session are requeued as well, so a worker that lost a session recently quarantines and dead-letters
//! no message for its count.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::BasicGetOptions;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connection::ANSWER_TIMEOUT;
use super::receipt::Receipt;
use super::session::{End, Session};
use super::topology::message_count;

/// How often the queue is polled. A consumer would be notified at once, but would have its message in flight while the
/// worker still processes others.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The quarantine queue, read through the session that is open.
#[derive(Clone)]
pub struct Quarantine {
    sessions: watch::Receiver<Option<Arc<Session>>>,
    gate: watch::Receiver<bool>,
}

impl Quarantine {
    pub(super) fn new(sessions: watch::Receiver<Option<Arc<Session>>>, gate: watch::Receiver<bool>) -> Self {
        Self { sessions, gate }
    }

    /// Completes when the queue has messages and the gate is open.
    pub async fn until_ready(&self) {
        while !*self.gate.borrow() || self.message_count().await == 0 {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Takes a message. `None` if another worker took the last one, or no session is open.
    pub async fn take(&self) -> Option<Receipt> {
        let session = self.session()?;
        let queue = session.topology().quarantine().clone();
        let taken = timeout(ANSWER_TIMEOUT, session.quarantine.basic_get(queue, BasicGetOptions::default())).await;
        let BasicGetMessage { delivery, .. } = answer(&session, taken)??;
        Some(Receipt::quarantined(delivery, session))
    }

    async fn message_count(&self) -> u64 {
        let Some(session) = self.session() else { return 0 };
        let queue = session.topology().quarantine().clone();
        let counted = timeout(ANSWER_TIMEOUT, message_count(&session.quarantine, queue)).await;
        answer(&session, counted).unwrap_or(0)
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.sessions.borrow().clone()
    }
}

/// The broker's answer. An error or a timeout ends the session, and the next session declares the queue again.
fn answer<T>(session: &Session, result: Result<lapin::Result<T>, tokio::time::error::Elapsed>) -> Option<T> {
    let end = match result {
        Ok(Ok(answer)) => return Some(answer),
        Ok(Err(error)) => End::from(error),
        Err(_) => End::no_answer(),
    };
    session.end(end);
    None
}
