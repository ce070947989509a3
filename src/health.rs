//! The conditions of readiness, each kept up to date by the part of the worker that observes it.

use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// `Ok` if the condition is met, else the reason why not.
pub type Condition = Result<(), String>;

/// The worker is ready when all of these are met.
#[derive(Clone, Debug)]
pub struct Health {
    /// There is a session with the broker, and the queues accept messages.
    pub broker: watch::Receiver<Condition>,
    /// The store answers, is made for this model and mapping, and accepts writes.
    pub store: watch::Receiver<Condition>,
    /// Image hosts can be reached. Met until fetches show otherwise.
    pub network: watch::Receiver<Condition>,
    /// The model is loaded and has computed its first features.
    pub model: watch::Receiver<Condition>,
}

impl Health {
    /// Each condition by name, and whether all are met.
    pub fn report(&self) -> (bool, Value) {
        let conditions =
            [("broker", &self.broker), ("store", &self.store), ("network", &self.network), ("model", &self.model)];
        let mut ready = true;
        let mut report = Map::new();
        for (name, condition) in conditions {
            let state = match &*condition.borrow() {
                Ok(()) => json!({ "ready": true }),
                Err(reason) => {
                    ready = false;
                    json!({ "ready": false, "reason": reason })
                }
            };
            report.insert(name.to_owned(), state);
        }
        (ready, json!({ "ready": ready, "conditions": report }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ready_only_when_every_condition_is_met_and_each_unmet_one_has_its_reason() {
        let met = || watch::Sender::new(Ok(()));
        let (broker, store, network, model) = (met(), met(), met(), met());
        let health = Health {
            broker: broker.subscribe(),
            store: store.subscribe(),
            network: network.subscribe(),
            model: model.subscribe(),
        };
        assert!(health.report().0);
        for sender in [&broker, &store, &network, &model] {
            let _ = sender.send_replace(Err("down".to_owned()));
            assert!(!health.report().0);
            let _ = sender.send_replace(Ok(()));
        }
        let _ = store.send_replace(Err("down".to_owned()));
        let (ready, report) = health.report();
        assert!(!ready);
        assert_eq!(report["conditions"]["store"], json!({ "ready": false, "reason": "down" }));
        assert_eq!(report["conditions"]["broker"], json!({ "ready": true }));
    }
}
