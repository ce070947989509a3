//! Fetching from slow, lying and malicious hosts, name servers and files.

mod files;
mod hosts;
mod names;
mod redirects;
mod tls;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imgdex::testing::Metrics;
use imgdex::testing::fetch::{Error, Fetcher, Settings, Timeouts};
use url::Url;

use crate::support::http::WebHost;

/// Short, for a test that waits for it; long enough for a busy machine.
const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(20);
const PATIENT: Timeouts = Timeouts { connect: LONG, headers: LONG, idle: LONG, total: LONG };

/// Settings that allow these hosts on the loopback address, and nothing else there.
fn reaching(hosts: &[&WebHost]) -> Settings {
    Settings {
        allow_nets: vec!["127.0.0.1/32".parse().unwrap()],
        allow_ports: hosts.iter().map(|host| host.port()).collect(),
        timeouts: PATIENT,
        ..Settings::default()
    }
}

/// A fetcher and its metrics.
struct Subject {
    fetcher: Fetcher,
    metrics: Arc<Metrics>,
}

impl Subject {
    #[allow(clippy::needless_pass_by_value)] // Callers make the settings in place.
    fn new(settings: Settings) -> Self {
        let metrics = Arc::new(Metrics::new("test", "test").unwrap());
        Self { fetcher: Fetcher::new(&settings, Arc::clone(&metrics)).unwrap(), metrics }
    }

    async fn get(&self, url: &Url) -> Result<Bytes, Error> {
        self.fetcher.get(url).await
    }

    async fn error(&self, url: &Url) -> Error {
        let error = self.get(url).await.expect_err("the fetch should fail");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(self.metric("inflight_bytes"), 0, "{error}: bytes are still counted as held");
        error
    }

    /// The value of a metric without labels, or written with them.
    fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("imgdex_{name} ")));
        value.map_or(0, |value| value.parse().unwrap())
    }
}
