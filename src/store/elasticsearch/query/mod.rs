//! The bodies of searches, and the reading of their answers. Pure.
//!
//! A hit is found by Elasticsearch's vector functions, whose scores are float32. From such a score a small distance
//! cannot be had: near-duplicates lie at cosine scores just below 2, where neighbouring float32 values are 1e-7 apart. So
//! each hit also brings the mode's raw value, computed by a second script in float64 over the stored vector. That runs for
//! the hits alone, not for all documents, and score, distance and similarity follow from it as in the embedded store.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::distance::Mode;
use crate::store::{Document, Hit, Query, Target};

/// The field with the features.
const FIELD: &str = "image_vector";

/// What a hit needs of the document.
const HIT_FIELDS: [&str; 4] = ["id", "url", "collection", "metadata"];

/// The source of the script that scores documents. Constant, so that Elasticsearch compiles it once; the query is in
/// `params`. The guard serves documents without a vector, on which the functions throw; the maximum serves rounding,
/// because a negative score fails the whole search.
pub fn score_script(mode: Mode) -> &'static str {
    match mode {
        Mode::Cosine => {
            "doc['image_vector'].size() == 0 ? 0 : Math.max(0.0, cosineSimilarity(params.query_vector, 'image_vector') + 1.0)"
        }
        Mode::L1 => "doc['image_vector'].size() == 0 ? 0 : 1.0 / (1.0 + l1norm(params.query_vector, 'image_vector'))",
        Mode::L2 => "doc['image_vector'].size() == 0 ? 0 : 1.0 / (1.0 + l2norm(params.query_vector, 'image_vector'))",
        Mode::Dot => {
            "doc['image_vector'].size() == 0 ? 0 : Math.max(0.0, dotProduct(params.query_vector, 'image_vector'))"
        }
    }
}

/// The source of the script that computes a hit's raw value in float64.
fn raw_script(mode: Mode) -> &'static str {
    match mode {
        Mode::Cosine => {
            "float[] d = doc['image_vector'].vectorValue; double dot = 0; double dd = 0; double qq = 0; \
             for (int i = 0; i < d.length; i++) { double q = params.query_vector[i]; double v = d[i]; \
             dot += q * v; dd += v * v; qq += q * q; } return dot / Math.sqrt(dd * qq);"
        }
        Mode::L1 => {
            "float[] d = doc['image_vector'].vectorValue; double sum = 0; \
             for (int i = 0; i < d.length; i++) { double q = params.query_vector[i]; sum += Math.abs(q - d[i]); } \
             return sum;"
        }
        Mode::L2 => {
            "float[] d = doc['image_vector'].vectorValue; double sum = 0; \
             for (int i = 0; i < d.length; i++) { double q = params.query_vector[i]; double v = q - d[i]; \
             sum += v * v; } return Math.sqrt(sum);"
        }
        Mode::Dot => {
            "float[] d = doc['image_vector'].vectorValue; double sum = 0; \
             for (int i = 0; i < d.length; i++) { double q = params.query_vector[i]; sum += q * d[i]; } return sum;"
        }
    }
}

/// The most hits and candidates that Elasticsearch takes, by default.
const MOST: usize = 10_000;

/// Why Elasticsearch cannot answer a query, where that is known before asking.
pub fn refusal(query: &Query, vector: &[f32]) -> Option<String> {
    if query.k > MOST {
        return Some(format!("at most {MOST} hits can be asked for, not {}", query.k));
    }
    if query.approximate && query.mode == Mode::L1 {
        return Some("there is no approximate index for mode l1; leave --approximate out".to_owned());
    }
    if query.mode == Mode::Dot && vector.iter().any(|&value| value < 0.0) {
        return Some(
            "mode dot needs a model whose features cannot be negative, and this query's are; use cosine".to_owned(),
        );
    }
    None
}

/// The body of a search.
pub fn search(query: &Query, vector: &[f32]) -> Value {
    let mut filters = Vec::new();
    if let Some(collection) = &query.collection {
        filters.push(json!({ "term": { "collection": collection } }));
    }
    for (key, value) in &query.filters {
        let field = format!("metadata.{key}");
        filters.push(json!({ "term": { field: value } }));
    }
    if let Target::Id(id) = &query.target {
        filters.push(json!({ "bool": { "must_not": { "ids": { "values": [id] } } } }));
    }
    let candidates = if query.approximate { nearest(query.k, vector, &filters) } else { all(filters) };
    let params = json!({ "query_vector": vector });
    let mut scored = json!({
        "query": candidates,
        "script": { "source": score_script(query.mode), "params": params },
    });
    if let Some(similarity) = query.min_similarity {
        scored["min_score"] = json!(least_score(query.mode, similarity));
    }
    json!({
        "size": query.k,
        "track_total_hits": false,
        "query": { "script_score": scored },
        "sort": [{ "_score": "desc" }, { "id": "asc" }],
        "_source": { "includes": HIT_FIELDS },
        "script_fields": { "raw": { "script": { "source": raw_script(query.mode), "params": params } } },
    })
}

fn all(mut filters: Vec<Value>) -> Value {
    filters.push(json!({ "exists": { "field": FIELD } }));
    json!({ "bool": { "filter": filters } })
}

/// Candidates from the graph. Elasticsearch orders them by quantised values; the script around them scores them exactly,
/// so more are taken than are wanted.
fn nearest(k: usize, vector: &[f32], filters: &[Value]) -> Value {
    /// Below this the graph is walked too greedily to find near neighbours reliably.
    const FEWEST: usize = 200;
    let candidates = k.saturating_mul(10).clamp(FEWEST, MOST);
    json!({ "knn": {
        "field": FIELD, "query_vector": vector, "k": candidates, "num_candidates": candidates, "filter": filters,
    } })
}

/// A bound for Elasticsearch's float32 scores that cuts off no document of this similarity: the exact comparison follows
/// on the hits.
fn least_score(mode: Mode, similarity: f64) -> f64 {
    const ROUNDING: f64 = 1e-5;
    (mode.score_of_similarity(similarity) - ROUNDING).max(0.0)
}

#[derive(Deserialize)]
struct Answer<T> {
    hits: Hits<T>,
}

#[derive(Deserialize)]
struct Hits<T> {
    hits: Vec<T>,
}

#[derive(Deserialize)]
struct Scored {
    #[serde(rename = "_source")]
    source: Stored,
    fields: Raw,
}

#[derive(Deserialize)]
struct Raw {
    raw: [f64; 1],
}

/// Reads the answer to [`search`].
///
/// # Errors
/// When it is not such an answer.
pub fn hits(query: &Query, answer: &[u8]) -> Result<Vec<Hit>, serde_json::Error> {
    /// What the last bit of a float64 may take from a similarity of exactly the bound.
    const ROUNDING: f64 = 1e-12;
    let answer: Answer<Scored> = serde_json::from_slice(answer)?;
    let mut found: Vec<_> = answer.hits.hits.into_iter().map(|hit| (hit.fields.raw[0], hit.source)).collect();
    let least = query.min_similarity.map_or(f64::NEG_INFINITY, |similarity| similarity - ROUNDING);
    found.retain(|(raw, _)| query.mode.measure(*raw).similarity >= least);
    // Elasticsearch ordered by float32, where more documents tie.
    found.sort_by(|(a, x), (b, y)| {
        let (a, b) = (query.mode.measure(*a).score, query.mode.measure(*b).score);
        b.total_cmp(&a).then_with(|| x.id.cmp(&y.id))
    });
    let ranked = found.into_iter().enumerate().map(|(at, (raw, stored))| Hit {
        rank: at + 1,
        id: stored.id,
        url: stored.url,
        collection: stored.collection,
        measure: query.mode.measure(raw),
        metadata: stored.metadata,
    });
    Ok(ranked.collect())
}

/// The body that reads the vector of one document. `fields` gives it on every version, `_source` does not from 9.2 on.
pub fn vector_of(id: &str) -> Value {
    json!({ "size": 1, "query": { "ids": { "values": [id] } }, "_source": false, "fields": [FIELD] })
}

/// Reads the answer to [`vector_of`]; `None` for a document that is not there or has no vector.
///
/// # Errors
/// When it is not such an answer.
pub fn vector(answer: &[u8]) -> Result<Option<Vec<f32>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(default)]
        fields: Fields,
    }
    let answer: Answer<Found> = serde_json::from_slice(answer)?;
    Ok(answer.hits.hits.into_iter().next().and_then(|hit| hit.fields.image_vector))
}

/// The body that reads a page of documents with their vectors, ordered by id.
pub fn page(after: Option<&str>, size: usize) -> Value {
    let mut body = json!({
        "size": size,
        "track_total_hits": false,
        "query": { "exists": { "field": "id" } },
        "sort": [{ "id": "asc" }],
        "_source": { "excludes": [FIELD] },
        "fields": [FIELD],
    });
    if let Some(id) = after {
        body["search_after"] = json!([id]);
    }
    body
}

/// A document, and its vector's values, which are still to be checked.
pub type Unchecked = (Document, Option<Vec<f32>>);

/// Reads the answer to [`page`].
///
/// # Errors
/// When it is not such an answer.
pub fn documents(answer: &[u8]) -> Result<Vec<Unchecked>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(rename = "_source")]
        source: Stored,
        #[serde(default)]
        fields: Fields,
    }
    let answer: Answer<Found> = serde_json::from_slice(answer)?;
    Ok(answer.hits.hits.into_iter().map(|hit| (hit.source.into(), hit.fields.image_vector)).collect())
}

#[derive(Default, Deserialize)]
struct Fields {
    image_vector: Option<Vec<f32>>,
}

/// A document as it is stored, without its vector. A field that somebody else's writer left out is empty.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Stored {
    id: String,
    url: String,
    collection: String,
    version: u64,
    width: u32,
    height: u32,
    bytes: u64,
    format: String,
    content_sha256: String,
    indexed_at: u64,
    metadata: Map<String, Value>,
}

impl From<Stored> for Document {
    fn from(stored: Stored) -> Self {
        Self {
            id: stored.id,
            url: stored.url,
            collection: stored.collection,
            version: stored.version,
            width: stored.width,
            height: stored.height,
            bytes: stored.bytes,
            format: stored.format,
            content_sha256: stored.content_sha256,
            indexed_at_ms: stored.indexed_at,
            metadata: stored.metadata,
            embedding: None,
        }
    }
}

#[cfg(test)]
mod tests;
