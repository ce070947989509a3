//! Documents out of the file, and the search over the matrix.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::{Map, Value};

use super::matrix::Matrix;
use super::{Failure, filter, scan};
use crate::distance::{Measure, Mode};
use crate::embedding::Embedding;
use crate::store::{Document, Error, Hit, Query, Target};

const COLUMNS: &str =
    "id, url, collection, version, width, height, bytes, format, content_sha256, indexed_at_ms, metadata";

/// One document without its vector.
pub(super) fn document(connection: &Connection, id: &str) -> Result<Option<Document>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM documents WHERE id = ? AND url IS NOT NULL");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(read).transpose()
}

/// How many documents there are; tombstones are none.
pub(super) fn count(connection: &Connection) -> Result<u64, Failure> {
    let sql = "SELECT count(url) FROM documents";
    Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// Documents with their vectors, by id.
pub(super) fn page(connection: &Connection, after: &str, size: usize) -> Result<Vec<Document>, Failure> {
    let sql =
        format!("SELECT {COLUMNS}, vector FROM documents WHERE id > ? AND url IS NOT NULL ORDER BY id LIMIT ?");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((after, i64::try_from(size).unwrap_or(i64::MAX)))?;
    let mut documents = Vec::new();
    while let Some(row) = rows.next()? {
        let mut document = read(row)?;
        let vector: Option<Vec<u8>> = row.get("vector")?;
        document.embedding = vector.map(|bytes| embedding(&document.id, &bytes)).transpose()?;
        documents.push(document);
    }
    Ok(documents)
}

fn embedding(id: &str, bytes: &[u8]) -> Result<Embedding, Failure> {
    let (chunks, rest) = bytes.as_chunks::<{ size_of::<f32>() }>();
    if !rest.is_empty() {
        return Err(Failure::Damaged(format!("document {id:?} has a vector of {} bytes", bytes.len())));
    }
    Embedding::from_unit(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
        .map_err(|error| Failure::Damaged(format!("document {id:?}: {error}")))
}

fn read(row: &Row<'_>) -> Result<Document, Failure> {
    let id: String = row.get("id")?;
    let metadata = metadata(&row.get::<_, String>("metadata")?)?;
    Ok(Document {
        url: row.get("url")?,
        collection: row.get("collection")?,
        version: row.get::<_, i64>("version")?.cast_unsigned(),
        width: row.get("width")?,
        height: row.get("height")?,
        bytes: row.get::<_, i64>("bytes")?.cast_unsigned(),
        format: row.get("format")?,
        content_sha256: row.get("content_sha256")?,
        indexed_at_ms: row.get::<_, i64>("indexed_at_ms")?.cast_unsigned(),
        metadata,
        embedding: None,
        id,
    })
}

fn metadata(text: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Damaged(format!("metadata: {error}")))
}

/// A document that may be a hit.
struct Candidate {
    row: usize,
    raw: f64,
    measure: Measure,
    id: String,
}

/// The nearest documents. The scan in float32 finds who may be among them; those are computed again in float64.
pub(super) fn search(
    connection: &Connection,
    matrix: &Matrix,
    query: &Query,
    store: &str,
) -> Result<Vec<Hit>, Failure> {
    let (vector, own) = target(connection, matrix, query, store)?;
    if vector.len() != matrix.dims() {
        let reason = format!("the query has {} values, the store's vectors {}", vector.len(), matrix.dims());
        return Err(Error::Refused { store: store.to_owned(), reason }.into());
    }
    if query.mode == Mode::Dot && vector.iter().any(|&value| value < 0.0) {
        let reason = "mode dot needs a model whose features cannot be negative, and this query's are; use cosine";
        return Err(Error::Refused { store: store.to_owned(), reason: reason.to_owned() }.into());
    }
    let mut nearness = scan::scan(query.mode, matrix.values(), &vector);
    if query.mode == Mode::Cosine {
        for (nearness, inverse_norm) in nearness.iter_mut().zip(matrix.inverse_norms()) {
            *nearness *= inverse_norm;
        }
    }
    let allowed = allowed(connection, query)?;
    let passes = |row: usize| {
        Some(row) != own && allowed.as_ref().is_none_or(|allowed| allowed.contains(&matrix.numbers()[row]))
    };
    let rows = best(&nearness, query.k, passes);
    let mut candidates = Vec::with_capacity(rows.len());
    for row in rows {
        let raw = scan::exact(query.mode, matrix.row(row), &vector);
        let measure = query.mode.measure(raw);
        if query.min_similarity.is_none_or(|least| measure.similarity >= least) {
            candidates.push(Candidate { row, raw, measure, id: id(connection, matrix.numbers()[row])? });
        }
    }
    let near = |raw: f64| if matches!(query.mode, Mode::L1 | Mode::L2) { -raw } else { raw };
    candidates.sort_by(|a, b| near(b.raw).total_cmp(&near(a.raw)).then_with(|| a.id.cmp(&b.id)));
    candidates.truncate(query.k);
    candidates.into_iter().zip(1..).map(|(candidate, rank)| hit(connection, matrix, candidate, rank)).collect()
}

/// The vector to compare with, and the row to leave out.
fn target(
    connection: &Connection,
    matrix: &Matrix,
    query: &Query,
    store: &str,
) -> Result<(Vec<f32>, Option<usize>), Failure> {
    let id = match &query.target {
        Target::Embedding(embedding) => return Ok((embedding.as_slice().to_vec(), None)),
        Target::Id(id) => id,
    };
    let sql = "SELECT number FROM documents WHERE id = ?";
    let number: Option<i64> = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    match number.and_then(|number| matrix.row_of(number)) {
        Some(row) => Ok((matrix.row(row).to_vec(), Some(row))),
        None => Err(Error::UnknownId { store: store.to_owned(), id: id.clone() }.into()),
    }
}

/// The documents that collection and filters let pass; `None` for all.
fn allowed(connection: &Connection, query: &Query) -> Result<Option<HashSet<i64>>, Failure> {
    if query.collection.is_none() && query.filters.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT number, metadata FROM documents WHERE url IS NOT NULL AND (?1 IS NULL OR collection = ?1)";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&query.collection])?;
    let mut allowed = HashSet::new();
    while let Some(row) = rows.next()? {
        let passes = query.filters.is_empty() || filter::passes(&metadata(&row.get::<_, String>(1)?)?, &query.filters);
        if passes {
            allowed.insert(row.get(0)?);
        }
    }
    Ok(Some(allowed))
}

/// The rows that may be among the `k` nearest once they are computed exactly: those as near as the `k`-th, and those so
/// little farther that float32 cannot tell.
fn best(nearness: &[f32], k: usize, passes: impl Fn(usize) -> bool) -> Vec<usize> {
    /// Far above the error of a sum of 512 products in float32, far below differences that matter.
    const ERROR: f32 = 1e-5;
    let mut rows: Vec<usize> = (0..nearness.len()).filter(|&row| passes(row)).collect();
    if k == 0 {
        return Vec::new();
    }
    if rows.len() > k {
        let (_, &mut last, _) = rows.select_nth_unstable_by(k - 1, |&a, &b| nearness[b].total_cmp(&nearness[a]));
        let bound = nearness[last] - ERROR * (1.0 + nearness[last].abs());
        rows.retain(|&row| nearness[row] >= bound);
    }
    rows
}

fn id(connection: &Connection, number: i64) -> Result<String, Failure> {
    Ok(connection.prepare_cached("SELECT id FROM documents WHERE number = ?")?.query_row([number], |row| row.get(0))?)
}

fn hit(connection: &Connection, matrix: &Matrix, candidate: Candidate, rank: usize) -> Result<Hit, Failure> {
    let Candidate { row, measure, id, .. } = candidate;
    let sql = "SELECT url, collection, metadata FROM documents WHERE number = ?";
    let (url, collection, text): (_, _, String) = connection
        .prepare_cached(sql)?
        .query_row([matrix.numbers()[row]], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Hit { rank, id, url, collection, measure, metadata: metadata(&text)? })
}
