//! `/live`, `/ready` and `/metrics` of the worker.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Whether a condition of readiness is met, or why not.
pub type Condition = Result<(), String>;

/// What the worker needs before it can work; each is kept up to date by whoever knows.
#[derive(Clone, Debug)]
pub struct Health {
    /// There is a session with the broker.
    pub broker: watch::Receiver<Condition>,
    /// The store answers, and was made for this model and mapping.
    pub store: watch::Receiver<Condition>,
    /// Image hosts can be reached, as far as is known.
    pub network: watch::Receiver<Condition>,
    /// The model is loaded and has computed its first features.
    pub model: watch::Receiver<Condition>,
}

impl Health {
    /// Each condition by name, and whether all are met.
    fn report(&self) -> (bool, Value) {
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

/// The admin routes.
pub fn router(health: Health, metrics: Arc<Metrics>) -> Router {
    Router::new()
        // Answers as long as the runtime makes progress. A service that is down is no reason to restart the worker.
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready).with_state(health))
        .route("/metrics", get(render).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let (ready, report) = health.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(report))
}

async fn render(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.render() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text),
        Err(error) => {
            let text = error.to_string().into_bytes();
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], text)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ready_only_when_every_condition_is_met_and_each_other_one_says_why() {
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
