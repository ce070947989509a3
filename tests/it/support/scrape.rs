//! Reads `/metrics`.

use std::collections::BTreeMap;

use imgdex::testing::Metrics;

/// All metrics at one moment.
pub struct Scrape {
    text: String,
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Reads the Prometheus text format, as far as the program uses it.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Self { text: text.to_owned(), samples }
    }

    /// The metrics of this process.
    pub fn of(metrics: &Metrics) -> Self {
        Self::parse(&String::from_utf8(metrics.render().unwrap()).unwrap())
    }

    /// The sum over all samples of a metric that have these labels. The name is without prefix.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let name = format!("imgdex_{name}");
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(fits).map(|sample| sample.value).sum::<f64>() as u64
    }

    /// How many deliveries have this outcome.
    pub fn outcome(&self, outcome: &str) -> u64 {
        self.value("messages_total", &[("outcome", outcome)])
    }

    /// The values that are not zero, by this label.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let name = format!("imgdex_{name}");
        let counted = self.samples.iter().filter(|sample| sample.name == name && sample.value != 0.0);
        counted.map(|sample| (sample.labels[label].clone(), sample.value as u64)).collect()
    }

    /// Whether a metric has samples of exactly these labels; a histogram has `_bucket`.
    pub fn has(&self, name: &str, labels: &[&str]) -> bool {
        let names = [format!("imgdex_{name}"), format!("imgdex_{name}_bucket")];
        self.samples.iter().any(|sample| {
            let own = sample.labels.keys().filter(|key| *key != "le");
            names.contains(&sample.name) && own.eq(labels.iter())
        })
    }

    /// Checks that every delivery is either settled once or in flight.
    pub fn reconcile(&self) {
        let (received, settled) = (self.value("messages_received_total", &[]), self.value("messages_total", &[]));
        let in_flight = self.value("inflight_messages", &[]);
        assert_eq!(received, settled + in_flight, "received is not settled and in flight:\n{}", self.text);
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
    Sample { name: name.to_owned(), labels, value: value.parse().unwrap() }
}
