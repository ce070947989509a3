//! A scripted Elasticsearch: for answers that a real one gives rarely.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use imgdex::testing::model::Manifest;
use imgdex::testing::store::StoreMeta;
use imgdex::testing::store::mapping;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use super::proxy::{on_the_wire, read_request};

const ALIAS: &str = "images";
/// The path in front of the alias, as of a server behind a proxy.
const PREFIX: &str = "/some/prefix";

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
    /// A status line and a body as they are. The header promises `missing` more bytes, but the connection ends.
    Raw {
        /// Code and reason.
        status: &'static str,
        /// Any bytes.
        body: &'static str,
        /// Bytes that do not come.
        missing: usize,
    },
}

/// The running stub.
pub struct ElasticsearchStub {
    address: SocketAddr,
    state: Arc<Inner>,
}

struct Inner {
    script: Box<Script>,
    requests: Mutex<Vec<Vec<String>>>,
}

impl ElasticsearchStub {
    /// Starts on a free port of 127.0.0.1; ends with the runtime of the test.
    pub async fn start(script: impl Fn(usize, &[String]) -> Answer + Send + Sync + 'static) -> Self {
        let state = Arc::new(Inner { script: Box::new(script), requests: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self { address: listener.local_addr().unwrap(), state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                // A client may leave before its answer.
                tokio::spawn(async move { state.serve(BufStream::new(stream)).await });
            }
        });
        stub
    }

    /// The address of the alias.
    pub fn store(&self) -> String {
        format!("http://{}{PREFIX}/{ALIAS}", self.address)
    }

    /// The ids of each bulk request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Vec<String>> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Inner {
    /// One request and its answer; each connection carries one.
    async fn serve(&self, mut stream: BufStream<TcpStream>) -> std::io::Result<()> {
        let (_, target, body) = read_request(&mut stream).await?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let answer = match path.strip_prefix(PREFIX).unwrap_or_default().trim_start_matches('/') {
            "images/_bulk" if query.starts_with("require_alias=true&") => self.bulk(&body),
            ALIAS => json_answer(200, &index()),
            "_nodes/_all/_none" => json_answer(200, &json!({"nodes": {"a": {"version": "9.4.3"}}})),
            _ => json_answer(404, &json!({})),
        };
        stream.write_all(&answer).await?;
        stream.flush().await
    }

    fn bulk(&self, body: &[u8]) -> Vec<u8> {
        let ids: Vec<String> = body.split(|&b| b == b'\n').filter_map(action_id).collect();
        let before = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(ids.clone());
            requests.len() - 1
        };
        match (self.script)(before, &ids) {
            Answer::Items(statuses) => {
                let items: Vec<Value> = ids.iter().zip(statuses).map(|(id, status)| item(id, status)).collect();
                json_answer(200, &json!({"took": 1, "errors": true, "items": items}))
            }
            Answer::Truncated => on_the_wire("200 OK", br#"{"took":1,"errors":false,"items":[{"index":{"_id":"#, 0),
            Answer::Request(status) => {
                let error = json!({"type": "scripted", "reason": "as the test says"});
                json_answer(status, &json!({"error": error, "status": status}))
            }
            Answer::Raw { status, body, missing } => on_the_wire(status, body.as_bytes(), missing),
        }
    }
}

/// The index behind the alias, as `mappings apply --model stub` makes it.
fn index() -> Value {
    let origin = StoreMeta::new(&Manifest::find("stub").unwrap(), mapping::CURRENT_VERSION);
    let mut index = mapping::index_body(&origin, ALIAS).unwrap();
    index["settings"] = json!({"index": {}});
    json!({ mapping::index_name(ALIAS): index })
}

fn json_answer(status: u16, body: &Value) -> Vec<u8> {
    on_the_wire(format_args!("{status} ."), body.to_string().as_bytes(), 0)
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
    let mut entry = json!({"_index": "images-v1", "_id": id, "status": status});
    match error {
        Some(kind) => entry["error"] = json!({"type": kind, "reason": "as the test says"}),
        None => entry["result"] = json!("created"),
    }
    json!({"index": entry})
}
