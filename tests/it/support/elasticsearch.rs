//! The real Elasticsearch of the tests, and an alias in it for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use imgdex::testing::model::Manifest;
use imgdex::testing::store::{Settings, Store};
use serde_json::Value;

/// The server's address, without a slash at its end.
pub(crate) fn url() -> String {
    let url = std::env::var("IMGDEX_TEST_ES_URL")
        .expect("IMGDEX_TEST_ES_URL is not set: run `make test`, which starts an Elasticsearch, or point it at one");
    url.trim_end_matches('/').to_owned()
}

pub(crate) fn settings(address: impl Into<String>) -> Settings {
    Settings { address: address.into().into(), api_key: None, ca: None, allow_plain_http: false, accept_earlier: false }
}

pub(crate) fn model() -> Manifest {
    Manifest::find("vgg16").unwrap()
}

/// A request with a JSON answer, beside the code under test.
pub(crate) async fn request(method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
    request_at(&url(), method, path, body).await
}

/// The same, to any server.
pub(crate) async fn request_at(server: &str, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = reqwest::Client::new().request(method, format!("{server}/{path}"));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// An alias with its index and template, removed when the test ends.
pub(crate) struct Alias {
    pub(crate) name: String,
    server: String,
}

impl Alias {
    pub(crate) fn new() -> Self {
        Self::at(url())
    }

    /// In any server.
    pub(crate) fn at(server: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed), fastrand::u32(..));
        Self { name: format!("test-{}-{}-{:x}", unique.0, unique.1, unique.2), server }
    }

    pub(crate) async fn created() -> (Self, Store) {
        let alias = Self::new();
        let store = alias.open();
        store.create(&model()).await.unwrap();
        (alias, store)
    }

    pub(crate) fn address(&self) -> String {
        format!("{}/{}", self.server, self.name)
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(&settings(self.address())).unwrap()
    }

    /// A request about this alias, beside the code under test; `path` begins with a slash.
    pub(crate) async fn request(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        request_at(&self.server, method, &format!("{}{path}", self.name), body).await
    }

    /// Changes settings of the index.
    pub(crate) async fn set(&self, settings: Value) {
        let (status, answer) = self.request(reqwest::Method::PUT, "/_settings", Some(settings.clone())).await;
        assert_eq!(status, 200, "{settings}: {answer}");
    }

    /// Makes writes visible to searches.
    pub(crate) async fn refresh(&self) {
        let (status, answer) = self.request(reqwest::Method::POST, "/_refresh", None).await;
        assert_eq!(status, 200, "{answer}");
    }
}

impl Drop for Alias {
    /// On a thread of its own, because the runtime of the test may be ending.
    fn drop(&mut self) {
        let (server, alias) = (self.server.clone(), self.name.clone());
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for path in [format!("{alias}-v1"), alias.clone(), format!("_index_template/imgdex-{alias}")] {
                    request_at(&server, reqwest::Method::DELETE, &path, None).await;
                }
            });
        });
        // A failed cleaning must not hide the test's own failure.
        let _ = cleaning.join();
    }
}
