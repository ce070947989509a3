//! Batches of writes, each one transaction.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Failure, schema};
use crate::store::{Document, Write, Written};

/// Applies a batch, in order; it is durable when this returns.
pub(super) fn apply(connection: &mut Connection, batch: &[Write]) -> Result<Vec<Written>, Failure> {
    let dims = schema::dims(connection)?;
    // Immediate: a transaction that begins as a reader could fail when it starts to write.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last: i64 = transaction.query_row("SELECT coalesce(max(change), 0) FROM documents", [], |row| row.get(0))?;
    let results = batch.iter().zip(last + 1..).map(|(write, change)| one(&transaction, write, change, dims));
    let results = results.collect::<Result<Vec<_>, _>>()?;
    transaction.commit()?;
    Ok(results)
}

/// As Elasticsearch's `external_gte`: a write of the stored version is applied again, an older one is not.
fn one(transaction: &Transaction<'_>, write: &Write, change: i64, dims: usize) -> Result<Written, Failure> {
    let (id, version) = match write {
        Write::Put(document) => (&document.id, document.version),
        Write::Delete { id, version } => (id, *version),
    };
    let Ok(version) = i64::try_from(version) else {
        return Ok(rejected(format!("version {version} is out of range")));
    };
    let stored: Option<i64> = transaction
        .prepare_cached("SELECT version FROM documents WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if stored.is_some_and(|stored| stored > version) {
        return Ok(Written::Stale);
    }
    match write {
        Write::Put(document) => put(transaction, document, version, change, dims),
        Write::Delete { id, .. } => {
            let sql = "INSERT INTO documents (id, change, version) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET change = ?2, version = ?3, url = NULL, collection = NULL, width = NULL,
                     height = NULL, bytes = NULL, format = NULL, content_sha256 = NULL, indexed_at_ms = NULL,
                     metadata = NULL, vector = NULL";
            transaction.prepare_cached(sql)?.execute(params![id, change, version])?;
            Ok(Written::Deleted)
        }
    }
}

fn put(
    transaction: &Transaction<'_>,
    document: &Document,
    version: i64,
    change: i64,
    dims: usize,
) -> Result<Written, Failure> {
    let vector: Option<Vec<u8>> = match &document.embedding {
        Some(embedding) if embedding.dims() != dims => {
            return Ok(rejected(format!("the vector has {} values, not {dims}", embedding.dims())));
        }
        Some(embedding) => Some(embedding.as_slice().iter().flat_map(|value| value.to_le_bytes()).collect()),
        None => None,
    };
    let (Ok(bytes), Ok(indexed_at_ms)) = (i64::try_from(document.bytes), i64::try_from(document.indexed_at_ms)) else {
        return Ok(rejected("a number is out of range".to_owned()));
    };
    let metadata = match serde_json::to_string(&document.metadata) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(rejected(format!("metadata: {error}"))),
    };
    let sql = "INSERT INTO documents (id, change, version, url, collection, width, height, bytes, format,
             content_sha256, indexed_at_ms, metadata, vector)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (id) DO UPDATE SET change = ?2, version = ?3, url = ?4, collection = ?5, width = ?6, height = ?7,
             bytes = ?8, format = ?9, content_sha256 = ?10, indexed_at_ms = ?11, metadata = ?12, vector = ?13";
    transaction.prepare_cached(sql)?.execute(params![
        document.id,
        change,
        version,
        document.url,
        document.collection,
        document.width,
        document.height,
        bytes,
        document.format,
        document.content_sha256,
        indexed_at_ms,
        metadata,
        vector,
    ])?;
    Ok(Written::Indexed)
}

fn rejected(reason: String) -> Written {
    Written::Rejected { kind: "invalid_document".to_owned(), reason }
}
