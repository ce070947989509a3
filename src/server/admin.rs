//! `/live`, `/ready` and `/metrics` of the worker.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};

use crate::health::Health;
use crate::metrics::Metrics;

pub fn router(health: Health, metrics: Arc<Metrics>) -> Router {
    Router::new()
        // Answers as long as the runtime makes progress: an unavailable service is no reason to restart the worker.
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
