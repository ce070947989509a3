//! Policies, users and permissions of RabbitMQ, which only its management plugin can make; removed when dropped.

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

/// An object that the management plugin made, removed when dropped.
pub struct Resource {
    url: String,
}

impl Resource {
    /// Puts the object at a path of the plugin's API; `None` where the tests have no plugin.
    pub async fn put(path: &str, object: Value) -> Option<Self> {
        let base = std::env::var("IMGDEX_TEST_MANAGEMENT_URL").ok().filter(|url| !url.is_empty())?;
        let resource = Self { url: format!("{}/api/{path}", base.trim_end_matches('/')) };
        let request = request(Method::PUT, &resource.url).header("content-type", "application/json");
        let answer = request.body(object.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        Some(resource)
    }
}

impl Drop for Resource {
    /// On a thread of its own, because the runtime of the test may be ending.
    fn drop(&mut self) {
        let url = std::mem::take(&mut self.url);
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { request(Method::DELETE, &url).send().await }).unwrap();
        });
        // A failed removal must not hide the test's own failure.
        let _ = removing.join();
    }
}

fn request(method: Method, url: &str) -> RequestBuilder {
    Client::new().request(method, url).basic_auth("guest", Some("guest"))
}
