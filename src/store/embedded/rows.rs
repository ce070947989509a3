//! The SQL of documents and tombstones.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, named_params, params};
use serde_json::{Map, Value};

use super::error::Error;
use super::file::File;
use crate::embedding::Embedding;
use crate::store::revision::LARGEST_VERSION;
use crate::store::{Document, Revision, Stored, Tombstone, Write, WriteOutcome};

/// The columns that [`document`] reads, in its order.
macro_rules! columns {
    () => {
        "id, url, collection, version, width, height, bytes, format, content_sha256, indexed_at_ms, metadata"
    };
}

/// The fields of a document that a hit has.
pub(super) struct HitFields {
    pub(super) url: String,
    pub(super) collection: String,
    pub(super) metadata: Map<String, Value>,
}

/// Writes a batch in one transaction.
pub(super) fn write(file: &mut File, batch: &[Write]) -> Result<Vec<WriteOutcome>, Error> {
    // Immediate: a transaction that begins by reading fails at its first write if another process wrote in between.
    let transaction = file.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seq = transaction.query_row("UPDATE meta SET seq = seq + 1 RETURNING seq", [], |row| row.get(0))?;
    let written = batch.iter().map(|write| match write {
        Write::Put(document) => put(&transaction, document, file.dims, seq),
        Write::Delete(tombstone) => delete(&transaction, tombstone, seq),
    });
    let written = written.collect::<Result<Vec<_>, _>>()?;
    transaction.commit()?;
    Ok(written)
}

fn put(transaction: &Transaction<'_>, document: &Document, dims: usize, seq: i64) -> Result<WriteOutcome, Error> {
    let embedding = document.embedding.as_ref();
    if let Some(found) = embedding.map(Embedding::dims).filter(|found| *found != dims) {
        return Ok(rejected("vector", format!("the vector has {found} values; this store's have {dims}")));
    }
    let (version, bytes, indexed_at_ms) = (document.version, document.bytes, document.indexed_at_ms);
    let [Ok(version), Ok(bytes), Ok(indexed_at_ms)] = [version, bytes, indexed_at_ms].map(i64::try_from) else {
        return Ok(rejected("number", "version, bytes or indexed_at_ms is above 2^63 - 1".to_owned()));
    };
    let metadata = match serde_json::to_string(&document.metadata) {
        Ok(text) => text,
        Err(error) => return Ok(rejected("metadata", error.to_string())),
    };
    if is_stale(transaction, &document.id, Revision::Upsert(document.version))? {
        return Ok(WriteOutcome::Stale);
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO documents VALUES (:id, :seq, :version, :url, :collection, :width, :height, :bytes, :format, \
         :content_sha256, :indexed_at_ms, :metadata, :vector) \
         ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, version = excluded.version, url = excluded.url, \
         collection = excluded.collection, width = excluded.width, height = excluded.height, bytes = excluded.bytes, \
         format = excluded.format, content_sha256 = excluded.content_sha256, \
         indexed_at_ms = excluded.indexed_at_ms, metadata = excluded.metadata, vector = excluded.vector",
    )?;
    statement.execute(named_params! {
        ":id": document.id,
        ":seq": seq,
        ":version": version,
        ":url": document.url,
        ":collection": document.collection,
        ":width": document.width,
        ":height": document.height,
        ":bytes": bytes,
        ":format": document.format,
        ":content_sha256": document.content_sha256,
        ":indexed_at_ms": indexed_at_ms,
        ":metadata": metadata,
        ":vector": embedding.map(|embedding| encode(embedding.as_slice())),
    })?;
    transaction.prepare_cached("DELETE FROM tombstones WHERE id = ?1")?.execute([&document.id])?;
    Ok(WriteOutcome::Indexed)
}

fn delete(transaction: &Transaction<'_>, tombstone: &Tombstone, seq: i64) -> Result<WriteOutcome, Error> {
    let Tombstone { id, version, collection, deleted_at_ms } = tombstone;
    let [Ok(stored_version), Ok(deleted_at_ms)] = [*version, *deleted_at_ms].map(i64::try_from) else {
        return Ok(rejected("number", "version or deleted_at_ms is above 2^63 - 1".to_owned()));
    };
    if is_stale(transaction, id, Revision::Deletion(*version))? {
        return Ok(WriteOutcome::Stale);
    }
    transaction.prepare_cached("DELETE FROM documents WHERE id = ?1")?.execute([id])?;
    let mut insert = transaction.prepare_cached(
        "INSERT OR REPLACE INTO tombstones (id, seq, version, collection, deleted_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    insert.execute(params![id, seq, stored_version, collection, deleted_at_ms])?;
    Ok(WriteOutcome::Deleted)
}

/// Whether what is stored stands against a write.
fn is_stale(transaction: &Transaction<'_>, id: &str, new: Revision) -> rusqlite::Result<bool> {
    let mut statement = transaction.prepare_cached(
        "SELECT version, 0 FROM documents WHERE id = ?1 UNION ALL SELECT version, 1 FROM tombstones WHERE id = ?1",
    )?;
    let stored = statement.query_row([id], |row| {
        let (version, deleted) = (unsigned(row, 0)?, row.get(1)?);
        Ok(if deleted { Revision::Deletion(version) } else { Revision::Upsert(version) })
    });
    Ok(stored.optional()?.is_some_and(|stored| !new.replaces(stored)))
}

/// Removes tombstones, and remembers up to which batch, for the readers that are behind.
pub(super) fn purge_tombstones(file: &mut File, before_ms: u64) -> Result<u64, Error> {
    macro_rules! old {
        () => {
            "FROM tombstones WHERE deleted_at_ms < ?1 AND version < ?2"
        };
    }
    let old = [before_ms, LARGEST_VERSION].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    let transaction = file.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last = concat!("UPDATE meta SET purged_seq = max(purged_seq, coalesce((SELECT max(seq) ", old!(), "), 0))");
    transaction.execute(last, old)?;
    let purged = transaction.execute(concat!("DELETE ", old!()), old)?;
    transaction.commit()?;
    Ok(purged as u64)
}

fn rejected(kind: &str, reason: String) -> WriteOutcome {
    WriteOutcome::Rejected { kind: kind.to_owned(), reason }
}

/// What is stored under an id, without its vector.
pub(super) fn get(file: &mut File, id: &str) -> Result<Option<Stored>, Error> {
    // One snapshot: another process may move the id from one table to the other in between.
    let snapshot = file.connection.transaction()?;
    let mut live = snapshot.prepare_cached(concat!("SELECT ", columns!(), " FROM documents WHERE id = ?1"))?;
    if let Some(document) = live.query_row([id], document).optional()? {
        return Ok(Some(Stored::Live(Box::new(document))));
    }
    let mut deleted =
        snapshot.prepare_cached("SELECT id, version, collection, deleted_at_ms FROM tombstones WHERE id = ?1")?;
    Ok(deleted.query_row([id], tombstone).optional()?.map(Stored::Deleted))
}

pub(super) fn count(file: &File) -> Result<u64, Error> {
    Ok(file.connection.query_row("SELECT count(*) FROM documents", [], |row| unsigned(row, 0))?)
}

pub(super) fn count_tombstones(file: &File) -> Result<u64, Error> {
    Ok(file.connection.query_row("SELECT count(*) FROM tombstones", [], |row| unsigned(row, 0))?)
}

/// Documents with their vectors, and tombstones, ordered by id, after the given id.
pub(super) fn list(file: &mut File, after: Option<&str>, limit: usize) -> Result<Vec<Stored>, Error> {
    // No id is empty, so every id comes after the empty text.
    let (after, rows) = (after.unwrap_or(""), i64::try_from(limit).unwrap_or(i64::MAX));
    let snapshot = file.connection.transaction()?;
    let mut found = Vec::new();
    let mut live = snapshot.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        ", vector FROM documents WHERE id > ?1 ORDER BY id LIMIT ?2"
    ))?;
    let mut live = live.query(params![after, rows])?;
    while let Some(row) = live.next()? {
        let mut document = document(row)?;
        if let Some(blob) = row.get_ref(11)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
            document.embedding = Some(decode(&document.id, blob, file.dims)?);
        }
        found.push(Stored::Live(Box::new(document)));
    }
    let mut deleted = snapshot.prepare_cached(
        "SELECT id, version, collection, deleted_at_ms FROM tombstones WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    for tombstone in deleted.query_map(params![after, rows], tombstone)? {
        found.push(Stored::Deleted(tombstone?));
    }
    found.sort_unstable_by(|a, b| a.id().cmp(b.id()));
    found.truncate(limit);
    Ok(found)
}

pub(super) fn hit_fields(transaction: &Transaction<'_>, id: &str) -> Result<HitFields, Error> {
    let mut statement = transaction.prepare_cached("SELECT url, collection, metadata FROM documents WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| {
        Ok(HitFields { url: row.get(0)?, collection: row.get(1)?, metadata: metadata(row, 2)? })
    })?)
}

fn document(row: &Row<'_>) -> rusqlite::Result<Document> {
    Ok(Document {
        id: row.get(0)?,
        url: row.get(1)?,
        collection: row.get(2)?,
        version: unsigned(row, 3)?,
        width: row.get(4)?,
        height: row.get(5)?,
        bytes: unsigned(row, 6)?,
        format: row.get(7)?,
        content_sha256: row.get(8)?,
        indexed_at_ms: unsigned(row, 9)?,
        metadata: metadata(row, 10)?,
        embedding: None,
    })
}

fn tombstone(row: &Row<'_>) -> rusqlite::Result<Tombstone> {
    Ok(Tombstone {
        id: row.get(0)?,
        version: unsigned(row, 1)?,
        collection: row.get(2)?,
        deleted_at_ms: unsigned(row, 3)?,
    })
}

fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

pub(super) fn metadata(row: &Row<'_>, index: usize) -> rusqlite::Result<Map<String, Value>> {
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
}

fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Reads a vector from its column.
pub(super) fn decode(id: &str, blob: &[u8], dims: usize) -> Result<Embedding, Error> {
    let damaged = |reason| Error::Damaged { id: id.to_owned(), reason };
    let (values, rest) = blob.as_chunks();
    if values.len() != dims || !rest.is_empty() {
        return Err(damaged(format!("its vector has {} bytes instead of {}", blob.len(), dims * size_of::<f32>())));
    }
    let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Embedding::from_unit(values).map_err(|error| damaged(error.to_string()))
}
