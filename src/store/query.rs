//! A question to a store, and its answers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::distance::{Measure, Mode};
use crate::embedding::Embedding;

/// What to search for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The image, by its features or by the id of its document.
    pub target: Target,
    /// How vectors are compared.
    pub mode: Mode,
    /// How many hits at most.
    pub k: usize,
    /// Leave out hits whose similarity is below.
    pub min_similarity: Option<f64>,
    /// Only this collection.
    pub collection: Option<String>,
    /// Only documents whose metadata has these values, each compared as text. Keys name nested fields with dots.
    pub filters: BTreeMap<String, String>,
    /// Let the store use an approximate index, then rescore exactly.
    pub approximate: bool,
}

/// What hits are compared with.
#[derive(Clone, Debug)]
pub enum Target {
    /// Features of a query image.
    Embedding(Embedding),
    /// A stored document, which is itself left out of the hits.
    Id(String),
}

/// One answer to a query, as printed in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// 1 is the nearest.
    pub rank: usize,
    /// The document's id.
    pub id: String,
    /// Where the image is.
    pub url: String,
    /// Its collection.
    pub collection: String,
    /// Score, distance and similarity.
    #[serde(flatten)]
    pub measure: Measure,
    /// Whatever the producer sent along.
    pub metadata: Map<String, Value>,
}
