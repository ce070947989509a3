//! The copy of the file's vectors that a search scans.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::Transaction;

use super::error::Error;
use super::rows;
use super::scan::LANES;
use super::terms::Terms;
use crate::simd::Buffer;

/// Rows in one piece of memory: 32 MiB for 512 features. Memory is added in pieces, because a single buffer would have to
/// be copied to grow, which takes twice its memory.
pub(super) const PIECE: usize = 16_384;

/// The documents that have a vector, one per row, in no order.
pub(super) struct Matrix {
    dims: usize,
    /// The number of the last batch that was read from the file; `None` before the first search.
    seq: Option<i64>,
    pieces: Vec<Buffer>,
    ids: Vec<Arc<str>>,
    terms: Vec<Terms>,
    /// 1 / L2 norm of each row: the norm of a stored vector is 1 to within 1e-4 only.
    inverse_norms: Vec<f32>,
    rows: HashMap<Arc<str>, usize>,
}

impl Matrix {
    pub(super) fn new(dims: usize) -> Self {
        Self {
            dims,
            seq: None,
            pieces: Vec::new(),
            ids: Vec::new(),
            terms: Vec::new(),
            inverse_norms: Vec::new(),
            rows: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Values from one row to the next: the vector, then zeros that change no mode's result.
    pub(super) fn stride(&self) -> usize {
        self.dims.next_multiple_of(LANES)
    }

    pub(super) fn id(&self, row: usize) -> &str {
        &self.ids[row]
    }

    pub(super) fn row_of(&self, id: &str) -> Option<usize> {
        self.rows.get(id).copied()
    }

    pub(super) fn terms(&self, row: usize) -> &Terms {
        &self.terms[row]
    }

    pub(super) fn inverse_norms(&self, rows: Range<usize>) -> &[f32] {
        &self.inverse_norms[rows]
    }

    /// The values of a row, without padding.
    pub(super) fn vector(&self, row: usize) -> &[f32] {
        &self.padded(row..row + 1)[..self.dims]
    }

    /// The values of rows that lie in one piece, padded.
    pub(super) fn padded(&self, rows: Range<usize>) -> &[f32] {
        let (piece, stride) = (rows.start / PIECE, self.stride());
        let first = rows.start % PIECE;
        &self.pieces[piece][first * stride..(first + rows.len()) * stride]
    }

    /// Reads the changes since the last call from the file. A failure in between does no harm: the next call reads the
    /// same changes again.
    pub(super) fn sync(&mut self, file: &Transaction<'_>) -> Result<(), Error> {
        let (seq, purged): (i64, i64) =
            file.query_row("SELECT seq, purged_seq FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        match self.seq {
            Some(seen) if seen == seq => {}
            Some(seen) if (purged..seq).contains(&seen) => {
                let mut deleted = file.prepare_cached("SELECT id FROM tombstones WHERE seq > ?1")?;
                let mut deleted = deleted.query([seen])?;
                while let Some(row) = deleted.next()? {
                    self.remove(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?);
                }
                self.read(file, "SELECT id, collection, metadata, vector FROM documents WHERE seq > ?1", [seen])?;
            }
            // The first call, or the file's contents were replaced by an older copy, or a tombstone that was not read yet is
            // purged, so that nothing tells which rows are gone.
            _ => {
                *self = Self::new(self.dims);
                // A scan of the table, not of the index on seq, which would read the rows in random order.
                self.read(file, "SELECT id, collection, metadata, vector FROM documents", [])?;
            }
        }
        self.seq = Some(seq);
        Ok(())
    }

    fn read(&mut self, file: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> Result<(), Error> {
        let mut statement = file.prepare_cached(sql)?;
        let mut found = statement.query(params)?;
        while let Some(row) = found.next()? {
            let id = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
            match row.get_ref(3)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
                None => self.remove(id),
                Some(blob) => {
                    let collection = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
                    let terms = Terms::of(collection, &rows::metadata(row, 2)?);
                    self.put(id, rows::decode(id, blob, self.dims)?.as_slice(), terms)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, id: &str, vector: &[f32], terms: Terms) -> Result<(), Error> {
        let norm = vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let inverse_norm = (1.0 / norm) as f32;
        let row = if let Some(row) = self.row_of(id) {
            self.terms[row] = terms;
            self.inverse_norms[row] = inverse_norm;
            row
        } else {
            let row = self.len();
            if row == self.pieces.len() * PIECE {
                self.pieces.push(Buffer::with_capacity(PIECE * self.stride())?);
            }
            let stride = self.stride();
            self.pieces[row / PIECE].grow((row % PIECE + 1) * stride);
            let id = Arc::from(id);
            self.rows.insert(Arc::clone(&id), row);
            self.ids.push(id);
            self.terms.push(terms);
            self.inverse_norms.push(inverse_norm);
            row
        };
        self.vector_mut(row).copy_from_slice(vector);
        Ok(())
    }

    /// Removes a row by moving the last row into its place.
    fn remove(&mut self, id: &str) {
        let Some(row) = self.rows.remove(id) else { return };
        let last = self.len() - 1;
        if row != last {
            let moved = self.vector(last).to_vec();
            self.vector_mut(row).copy_from_slice(&moved);
            self.rows.insert(Arc::clone(&self.ids[last]), row);
        }
        self.ids.swap_remove(row);
        self.terms.swap_remove(row);
        self.inverse_norms.swap_remove(row);
    }

    fn vector_mut(&mut self, row: usize) -> &mut [f32] {
        let at = row % PIECE * self.stride();
        &mut self.pieces[row / PIECE][at..at + self.dims]
    }
}

#[cfg(test)]
impl Matrix {
    /// A matrix of these vectors in the collection `default`, without a file. Ids are row numbers.
    pub(super) fn of(vectors: &[Vec<f32>]) -> Self {
        let mut matrix = Self::new(vectors[0].len());
        for (row, vector) in vectors.iter().enumerate() {
            let terms = Terms::of("default", &serde_json::Map::new());
            assert!(matrix.put(&format!("{row:06}"), vector, terms).is_ok());
        }
        matrix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms::of("default", &serde_json::Map::new())
    }

    #[test]
    fn rows_stay_with_their_ids_through_changes() {
        // More than one piece, and an odd number of values.
        let count = PIECE + 5;
        let vectors: Vec<_> = (0..count).map(|n| vec![n as f32, 1.0, 0.5]).collect();
        let mut matrix = Matrix::of(&vectors);
        for n in (0..count).step_by(3) {
            matrix.remove(&format!("{n:06}"));
        }
        matrix.remove("absent");
        assert!(matrix.put("000001", &[7.0, 8.0, 9.0], terms()).is_ok());
        assert!(matrix.put("new", &[0.0, 0.0, 2.0], terms()).is_ok());
        assert_eq!(matrix.len(), count - count.div_ceil(3) + 1);
        for row in 0..matrix.len() {
            let expected = match matrix.id(row) {
                "000001" => vec![7.0, 8.0, 9.0],
                "new" => vec![0.0, 0.0, 2.0],
                id => id.parse().map(|n: usize| vectors[n].clone()).unwrap_or_default(),
            };
            assert_eq!(matrix.vector(row), expected);
            assert_eq!(matrix.row_of(matrix.id(row)), Some(row));
            assert!(matrix.padded(row..row + 1)[3..].iter().all(|&value| value == 0.0));
            let norm = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((matrix.inverse_norms(row..row + 1)[0] * norm - 1.0).abs() < 1e-6);
        }
    }
}
