//! The bodies of searches, and the reading of their responses. Pure.
//!
//! Elasticsearch's vector functions find the hits, with scores in float32. Such a score cannot express a small distance:
//! near-duplicates have cosine scores just below 2, where neighbouring float32 values are 1e-7 apart. So a second script
//! computes each hit's raw value of the mode in float64 from the stored vector. It runs for the hits only, not for all
//! documents. Score, distance and similarity follow from the raw value as in the embedded store.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::live::{self, Selection};
use crate::distance::Mode;
use crate::embedding::{Degenerate, Embedding};
use crate::store::query::similarity_bound;
use crate::store::revision::LARGEST_VERSION;
use crate::store::{Document, Hit, Query, Stored, Target};

/// The field with the features.
const FIELD: &str = "image_vector";

/// The fields of a document that a hit has.
const HIT_FIELDS: [&str; 4] = ["id", "url", "collection", "metadata"];

/// The source of the script that scores documents. It is constant, so that Elasticsearch compiles it once; the query is in
/// `params`. The size is checked because the functions throw on a document without a vector. The maximum guards against
/// rounding, because a negative score fails the whole search.
pub(super) fn score_script(mode: Mode) -> &'static str {
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

/// The most hits and candidates that Elasticsearch allows, by default.
const MAX_HITS: usize = 10_000;

/// Why Elasticsearch cannot answer a query, as far as that is known without a request.
pub(super) fn refusal(query: &Query, vector: &[f32]) -> Option<String> {
    if query.k > MAX_HITS {
        return Some(format!("at most {MAX_HITS} hits can be asked for, not {}", query.k));
    }
    if query.approximate && query.mode == Mode::L1 {
        return Some("there is no approximate index for mode l1; leave --approximate out".to_owned());
    }
    query.refusal(vector)
}

/// The body of a request that reads documents. It is made from a [`Selection`] alone, so that none forgets which documents it
/// is about.
pub(super) struct ReadBody(Value);

impl ReadBody {
    /// The selected documents that pass every filter; `rest` is the body without `query`.
    fn new(selection: Selection, filters: Vec<Value>, mut rest: Value) -> Self {
        rest["query"] = selection.among(filters);
        Self(rest)
    }

    /// The same, scored; `scored` is a `script_score` without `query`.
    fn scored(selection: Selection, filters: Vec<Value>, mut scored: Value, mut rest: Value) -> Self {
        scored["query"] = selection.among(filters);
        rest["query"] = json!({ "script_score": scored });
        Self(rest)
    }

    /// Nothing but the selection, as for a count.
    pub(super) fn all(selection: Selection) -> Self {
        Self::new(selection, Vec::new(), json!({}))
    }

    pub(super) fn into_json(self) -> Value {
        self.0
    }
}

/// The body of a search.
pub(super) fn search(query: &Query, vector: &[f32]) -> ReadBody {
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
    let candidates = if query.approximate {
        vec![nearest(query.k, vector, &filters)]
    } else {
        filters.push(json!({ "exists": { "field": FIELD } }));
        filters
    };
    let params = json!({ "query_vector": vector });
    let mut scored = json!({ "script": { "source": score_script(query.mode), "params": params } });
    if let Some(similarity) = query.min_similarity {
        scored["min_score"] = json!(min_score(query.mode, similarity));
    }
    let rest = json!({
        "size": query.k,
        "track_total_hits": false,
        "sort": [{ "_score": "desc" }, { "id": "asc" }],
        "_source": { "includes": HIT_FIELDS },
        "script_fields": { "raw": { "script": { "source": raw_script(query.mode), "params": params } } },
    });
    ReadBody::scored(Selection::Live, candidates, scored, rest)
}

/// Candidates from the HNSW graph, which orders them by quantised values. More candidates than hits are requested,
/// because the script around this query orders them by exact scores.
fn nearest(k: usize, vector: &[f32], filters: &[Value]) -> Value {
    /// With fewer candidates the search of the graph is too greedy to find near neighbours reliably.
    const MIN_CANDIDATES: usize = 200;
    let candidates = k.saturating_mul(10).clamp(MIN_CANDIDATES, MAX_HITS);
    json!({ "knn": {
        "field": FIELD, "query_vector": vector, "k": candidates, "num_candidates": candidates, "filter": filters,
    } })
}

/// A bound for Elasticsearch's float32 scores that excludes no document of this similarity. The exact comparison is made
/// on the hits.
fn min_score(mode: Mode, similarity: f64) -> f64 {
    const ROUNDING: f64 = 1e-5;
    (mode.score_of_similarity(similarity) - ROUNDING).max(0.0)
}

#[derive(Deserialize)]
struct SearchResponse<T> {
    hits: Hits<T>,
}

#[derive(Deserialize)]
struct Hits<T> {
    hits: Vec<T>,
}

#[derive(Deserialize)]
struct Scored {
    #[serde(rename = "_source")]
    source: StoredDocument,
    fields: Raw,
}

#[derive(Deserialize)]
struct Raw {
    raw: [f64; 1],
}

/// Reads the response to [`search`].
pub(super) fn hits(query: &Query, response: &[u8]) -> Result<Vec<Hit>, serde_json::Error> {
    let response: SearchResponse<Scored> = serde_json::from_slice(response)?;
    let mut found: Vec<_> = response.hits.hits.into_iter().map(|hit| (hit.fields.raw[0], hit.source)).collect();
    let least = similarity_bound(query.min_similarity);
    found.retain(|(raw, _)| query.mode.measure(*raw).similarity >= least);
    // Elasticsearch ordered the hits by float32 scores, of which more are equal.
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

/// The body that reads the vector of one document. `fields` has it in every version, `_source` only before 9.2.
pub(super) fn vector_of(id: &str) -> ReadBody {
    let filters = vec![json!({ "ids": { "values": [id] } })];
    ReadBody::new(Selection::Live, filters, json!({ "size": 1, "_source": false, "fields": [FIELD] }))
}

/// Reads the response to [`vector_of`]; `None` where the document is missing or has no vector.
pub(super) fn vector(response: &[u8]) -> Result<Option<Vec<f32>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(default)]
        fields: Fields,
    }
    let response: SearchResponse<Found> = serde_json::from_slice(response)?;
    Ok(response.hits.hits.into_iter().next().and_then(|hit| hit.fields.image_vector))
}

/// The body that reads documents with their vectors, and tombstones, ordered by id, after the given id.
pub(super) fn list(after: Option<&str>, limit: usize) -> ReadBody {
    let page = json!({ "_source": { "excludes": [FIELD] }, "fields": [FIELD] });
    ReadBody::new(Selection::All, Vec::new(), paged(page, after, limit))
}

/// The body that finds the tombstones made before a time, ordered by id, after the given id, with what a deletion of exactly
/// this state of theirs needs.
pub(super) fn old_tombstones(before_ms: u64, after: Option<&str>, limit: usize) -> ReadBody {
    let filters = vec![
        json!({ "range": { "indexed_at": { "lt": before_ms, "format": "epoch_millis" } } }),
        json!({ "range": { "version": { "lt": LARGEST_VERSION } } }),
    ];
    let page = json!({ "_source": ["id"], "seq_no_primary_term": true });
    ReadBody::new(Selection::Tombstones, filters, paged(page, after, limit))
}

/// Adds to a body what makes its result a page.
fn paged(mut body: Value, after: Option<&str>, limit: usize) -> Value {
    body["size"] = limit.into();
    body["track_total_hits"] = false.into();
    body["sort"] = json!([{ "id": "asc" }]);
    if let Some(id) = after {
        body["search_after"] = json!([id]);
    }
    body
}

/// Why a stored document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("document {id:?}: {error}")]
    Vector { id: String, error: Degenerate },
}

/// Reads the response to [`list`].
pub(super) fn page(response: &[u8]) -> Result<Vec<Stored>, Unreadable> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(rename = "_source")]
        source: Map<String, Value>,
        #[serde(default)]
        fields: Fields,
    }
    let response: SearchResponse<Found> = serde_json::from_slice(response)?;
    let found = response.hits.hits.into_iter().map(|Found { source, fields }| {
        let mut stored = match fields.image_vector {
            None => stored(source)?,
            // Whatever fields it lacks.
            Some(_) => live_document(source)?,
        };
        if let (Stored::Live(document), Some(vector)) = (&mut stored, fields.image_vector) {
            let unreadable = |error| Unreadable::Vector { id: document.id.clone(), error };
            document.embedding = Some(Embedding::from_unit(vector).map_err(unreadable)?);
        }
        Ok(stored)
    });
    found.collect()
}

/// The document or tombstone that has this `_source`.
pub(super) fn stored(source: Map<String, Value>) -> Result<Stored, serde_json::Error> {
    live::tombstone(&source).map_or_else(|| live_document(source), |tombstone| Ok(Stored::Deleted(tombstone)))
}

fn live_document(source: Map<String, Value>) -> Result<Stored, serde_json::Error> {
    let document: StoredDocument = serde_json::from_value(Value::Object(source))?;
    Ok(Stored::Live(Box::new(document.into())))
}

/// A tombstone in exactly one state.
#[derive(Deserialize)]
pub(super) struct FoundTombstone {
    #[serde(rename = "_index")]
    pub(super) index: String,
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "_seq_no")]
    pub(super) seq_no: u64,
    #[serde(rename = "_primary_term")]
    pub(super) primary_term: u64,
}

/// Reads the response to [`old_tombstones`].
pub(super) fn found_tombstones(response: &[u8]) -> Result<Vec<FoundTombstone>, serde_json::Error> {
    let response: SearchResponse<FoundTombstone> = serde_json::from_slice(response)?;
    Ok(response.hits.hits)
}

#[derive(Default, Deserialize)]
struct Fields {
    image_vector: Option<Vec<f32>>,
}

/// The `_source` of a document without its vector. Fields that are missing, in a document of another writer, are empty.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct StoredDocument {
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

impl From<StoredDocument> for Document {
    fn from(stored: StoredDocument) -> Self {
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
