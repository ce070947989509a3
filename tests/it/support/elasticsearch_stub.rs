//! A scripted Elasticsearch: for answers that a real one gives rarely.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use imgdex::model::manifest::Manifest;
use imgdex::store::Origin;
use imgdex::store::elasticsearch::mapping;
use serde_json::{Value, json};

/// What to answer to one bulk request, given the ids in it and how many requests came before.
pub type Script = dyn Fn(usize, &[String]) -> Answer + Send + Sync;

/// The answer to one bulk request.
pub enum Answer {
    /// One status per item.
    Items(Vec<u16>),
    /// The request as a whole.
    Request(u16),
    /// A success whose body breaks off.
    Truncated,
}

/// The running stub.
pub struct BulkStub {
    address: SocketAddr,
    state: Arc<Inner>,
}

struct Inner {
    script: Box<Script>,
    requests: Mutex<Vec<Vec<String>>>,
}

impl BulkStub {
    /// Starts on a free port.
    pub async fn start(script: impl Fn(usize, &[String]) -> Answer + Send + Sync + 'static) -> Self {
        let state = Arc::new(Inner { script: Box::new(script), requests: Mutex::default() });
        let router = Router::new()
            .route("/", get(|| async { product(json!({"version": {"number": "9.4.3"}}).to_string()) }))
            .route("/{alias}/_bulk", post(bulk))
            .route("/{alias}", get(index))
            .with_state(Arc::clone(&state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state }
    }

    /// The store address of an alias behind the stub.
    pub fn store(&self) -> String {
        format!("http://{}/images", self.address)
    }

    /// The ids of each bulk request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Vec<String>> {
        self.state.requests.lock().unwrap().clone()
    }
}

/// The index behind the alias, as `mappings apply --model stub` makes it.
async fn index(Path(alias): Path<String>) -> Response {
    let origin = Origin::new(&Manifest::find("stub").unwrap());
    let mut index = mapping::index_body(&origin, &alias).unwrap();
    index["settings"] = json!({"index": {}});
    product(json!({ mapping::index_name(&alias): index }).to_string())
}

/// The header by which clients recognise a genuine server.
fn product(body: String) -> Response {
    ([("x-elastic-product", "Elasticsearch"), ("content-type", "application/json")], body).into_response()
}

async fn bulk(State(state): State<Arc<Inner>>, body: Bytes) -> Response {
    let ids: Vec<String> = body.split(|&b| b == b'\n').filter_map(action_id).collect();
    let before = {
        let mut requests = state.requests.lock().unwrap();
        requests.push(ids.clone());
        requests.len() - 1
    };
    match (state.script)(before, &ids) {
        Answer::Items(statuses) => {
            let items: Vec<Value> = ids.iter().zip(statuses).map(|(id, status)| item(id, status)).collect();
            product(json!({"took": 1, "errors": true, "items": items}).to_string())
        }
        Answer::Truncated => product(r#"{"took":1,"errors":false,"items":[{"index":{"_id":"#.to_owned()),
        Answer::Request(status) => {
            let error = json!({"error": {"type": "scripted", "reason": "as the test says"}, "status": status});
            let status = StatusCode::from_u16(status).unwrap();
            (status, [("content-type", "application/json")], error.to_string()).into_response()
        }
    }
}

/// The id in an action line; other lines have none.
fn action_id(line: &[u8]) -> Option<String> {
    let action: Value = serde_json::from_slice(line).ok()?;
    let (_, target) = action.as_object()?.iter().find(|(name, _)| ["index", "delete"].contains(&name.as_str()))?;
    Some(target.get("_id")?.as_str()?.to_owned())
}

fn item(id: &str, status: u16) -> Value {
    let error = match status {
        400 => Some("document_parsing_exception"),
        409 => Some("version_conflict_engine_exception"),
        429 => Some("es_rejected_execution_exception"),
        503 => Some("unavailable_shards_exception"),
        _ => None,
    };
    let mut fate = json!({"_index": "images-v1", "_id": id, "status": status});
    match error {
        Some(kind) => fate["error"] = json!({"type": kind, "reason": "as the test says"}),
        None => fate["result"] = json!("created"),
    }
    json!({"index": fate})
}
