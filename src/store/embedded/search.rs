//! The nearest rows: all rows are scanned in float32, and those that may be among the best are compared in float64.
//!
//! The scan gives each row a *key*, smaller for nearer, whose error has a bound. A row whose key is beyond the k-th best
//! by more than the errors of both cannot be among the k best. So comparing the other rows in float64 gives the same hits
//! and numbers as comparing all rows in float64, including equal documents and their order by id.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::error::Error;
use super::file::File;
use super::matrix::{Matrix, PIECE};
use super::rows::{self, HitFields};
use super::scan::{RowSums, Sum, relative_error};
use super::terms::Filter;
use crate::distance::{Measure, Mode};
use crate::simd::{self, Buffer};
use crate::store::query::similarity_bound;
use crate::store::{Hit, Query, Target};

/// Rows that a thread takes at a time, 1 MiB of 512 features each: small enough that threads end together, large enough
/// that taking one costs nothing. A piece of the matrix is a multiple of it.
const BLOCK: usize = 512;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));
/// Blocks per thread that make another thread worth its start, which takes as long as reading about half a megabyte.
const BLOCKS_PER_THREAD: usize = 4;
/// The key of a row that is left out.
const LEFT_OUT: f32 = f32::INFINITY;

/// A connection to the file, with the copy of its vectors.
pub(super) struct Searcher {
    file: File,
    matrix: Matrix,
}

impl From<File> for Searcher {
    fn from(file: File) -> Self {
        Self { matrix: Matrix::new(file.dims), file }
    }
}

impl Searcher {
    /// Answers a query from one snapshot of the file.
    pub(super) fn hits(&mut self, query: &Query) -> Result<Vec<Hit>, Error> {
        let Self { file, matrix } = self;
        let snapshot = file.connection.transaction()?;
        matrix.sync(&snapshot)?;
        let (vector, left_out) = match &query.target {
            Target::Embedding(embedding) => (embedding.as_slice(), None),
            Target::Id(id) => {
                let row = matrix.row_of(id).ok_or_else(|| Error::UnknownId(id.clone()))?;
                (matrix.vector(row), Some(row))
            }
        };
        if let Some(reason) = refusal(query, vector, file.dims) {
            return Err(Error::Refused(reason));
        }
        let scan = Scan { matrix, mode: query.mode, vector, filter: Filter::of(query), left_out };
        let ranked = scan.nearest(query.k, query.min_similarity).into_iter().enumerate().map(|(at, (row, measure))| {
            let id = matrix.id(row);
            let HitFields { url, collection, metadata } = rows::hit_fields(&snapshot, id)?;
            Ok(Hit { rank: at + 1, id: id.to_owned(), url, collection, measure, metadata })
        });
        ranked.collect()
    }
}

/// Why this store cannot answer a query.
fn refusal(query: &Query, vector: &[f32], dims: usize) -> Option<String> {
    if vector.len() != dims {
        return Some(format!("the query has {} values; this store's vectors have {dims}", vector.len()));
    }
    query.refusal(vector)
}

struct Scan<'a> {
    matrix: &'a Matrix,
    mode: Mode,
    vector: &'a [f32],
    filter: Filter,
    left_out: Option<usize>,
}

impl Scan<'_> {
    /// The best `k` rows of at least this similarity, best first, ties by id.
    fn nearest(&self, k: usize, min_similarity: Option<f64>) -> Vec<(usize, Measure)> {
        if k == 0 || self.matrix.len() == 0 {
            return Vec::new();
        }
        let (keys, farthest) = self.keys(k);
        let least = similarity_bound(min_similarity);
        let candidates = keys.iter().enumerate().filter(|(_, key)| **key <= farthest && **key < LEFT_OUT);
        let measured =
            candidates.map(|(row, _)| (row, self.mode.measure(raw(self.mode, self.vector, self.matrix.vector(row)))));
        let mut found: Vec<_> = measured.filter(|(_, measure)| measure.similarity >= least).collect();
        found.sort_unstable_by(|(a, x), (b, y)| {
            y.score.total_cmp(&x.score).then_with(|| self.matrix.id(*a).cmp(self.matrix.id(*b)))
        });
        found.truncate(k);
        found
    }

    /// The key of every row, and the largest key that a row among the best `k` may have.
    fn keys(&self, k: usize) -> (Vec<f32>, f32) {
        let rows = self.matrix.len();
        let mut query = Buffer::new(self.matrix.stride());
        query[..self.vector.len()].copy_from_slice(self.vector);

        let mut keys = vec![0.0; rows];
        let blocks = rows.div_ceil(BLOCK);
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(blocks.div_ceil(BLOCKS_PER_THREAD));
        let work = Mutex::new(keys.chunks_mut(BLOCK).enumerate());
        let take = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = || {
            let mut best = Best { k, keys: BinaryHeap::new() };
            while let Some((block, keys)) = take() {
                self.block(&query, block * BLOCK, keys);
                for key in keys {
                    best.offer(*key);
                }
            }
            best
        };
        let best = thread::scope(|scope| {
            // If a thread cannot be started, the others do its work.
            let spawn = |_| thread::Builder::new().name("scan".to_owned()).spawn_scoped(scope, run).ok();
            let others: Vec<_> = (1..threads).filter_map(spawn).collect();
            let mut best = run();
            for other in others {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                other.keys.into_iter().for_each(|Key(key)| best.offer(key));
            }
            best
        });
        (keys, best.last().map_or(f32::MAX, |key| self.farthest(key)))
    }

    /// Computes the keys of rows from `first` on.
    fn block(&self, query: &[f32], first: usize, keys: &mut [f32]) {
        let sum = match self.mode {
            Mode::Cosine | Mode::Dot => Sum::Dot,
            Mode::L1 => Sum::L1,
            Mode::L2 => Sum::SquaredL2,
        };
        let run = |first: usize, keys: &mut [f32]| {
            let rows = self.matrix.padded(first..first + keys.len());
            simd::dispatch(RowSums { sum, query, rows, sums: &mut *keys });
            match self.mode {
                Mode::Cosine => {
                    // The query's norm is the same for all rows and changes no order.
                    let norms = self.matrix.inverse_norms(first..first + keys.len());
                    keys.iter_mut().zip(norms).for_each(|(key, norm)| *key *= -norm);
                }
                Mode::Dot => keys.iter_mut().for_each(|key| *key = -*key),
                Mode::L1 | Mode::L2 => {}
            }
        };
        if self.filter.is_empty() {
            run(first, keys);
        } else {
            for (row, key) in (first..).zip(&mut *keys) {
                if self.filter.matches(self.matrix.terms(row)) {
                    run(row, std::slice::from_mut(key));
                } else {
                    *key = LEFT_OUT;
                }
            }
        }
        let left_out = self.left_out.and_then(|row| row.checked_sub(first)).and_then(|at| keys.get_mut(at));
        if let Some(key) = left_out {
            *key = LEFT_OUT;
        }
    }

    /// The largest key of a row that may be as near as a row with this key: larger by the errors of both.
    fn farthest(&self, key: f32) -> f32 {
        let error = relative_error(self.vector.len());
        match self.mode {
            // By Cauchy and Schwarz the sum of the products is at most the product of the norms: 1 to within 2e-4.
            Mode::Cosine | Mode::Dot => key + 2.001 * error,
            // (1 + e) / (1 - e) < 1 + 3e; the minimum stands for squares too small for float32.
            Mode::L1 | Mode::L2 => key * (1.0 + 3.0 * error) + f32::MIN_POSITIVE * self.vector.len() as f32,
        }
    }
}

/// The raw value of a mode by the formulas of [`crate::distance`].
fn raw(mode: Mode, query: &[f32], row: &[f32]) -> f64 {
    let pairs = query.iter().zip(row).map(|(&q, &r)| (f64::from(q), f64::from(r)));
    match mode {
        Mode::Cosine => {
            let (dot, qq, rr) =
                pairs.fold((0.0, 0.0, 0.0), |(dot, qq, rr), (q, r)| (dot + q * r, qq + q * q, rr + r * r));
            dot / f64::sqrt(qq * rr)
        }
        Mode::Dot => pairs.map(|(q, r)| q * r).sum(),
        Mode::L1 => pairs.map(|(q, r)| (q - r).abs()).sum(),
        Mode::L2 => pairs.map(|(q, r)| (q - r).powi(2)).sum::<f64>().sqrt(),
    }
}

/// The `k` smallest keys so far.
struct Best {
    k: usize,
    /// The largest key is on top.
    keys: BinaryHeap<Key>,
}

impl Best {
    fn offer(&mut self, key: f32) {
        if self.keys.len() < self.k {
            if key < LEFT_OUT {
                self.keys.push(Key(key));
            }
        } else if let Some(mut last) = self.keys.peek_mut()
            && key < last.0
        {
            last.0 = key;
        }
    }

    /// The largest key, if there are `k` keys.
    fn last(&self) -> Option<f32> {
        self.keys.peek().filter(|_| self.keys.len() == self.k).map(|key| key.0)
    }
}

struct Key(f32);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    fn everything<'a>(matrix: &'a Matrix, mode: Mode, vector: &'a [f32]) -> Scan<'a> {
        Scan { matrix, mode, vector, filter: Filter::none(), left_out: None }
    }

    /// The hits by the documented formulas, without a scan.
    fn expected(scan: &Scan<'_>, k: usize) -> Vec<(usize, Measure)> {
        let (matrix, mode) = (scan.matrix, scan.mode);
        let measure = |row| (row, mode.measure(raw(mode, scan.vector, matrix.vector(row))));
        let mut all: Vec<_> = (0..matrix.len()).filter(|row| Some(*row) != scan.left_out).map(measure).collect();
        all.sort_by(|(a, x), (b, y)| y.score.total_cmp(&x.score).then_with(|| matrix.id(*a).cmp(matrix.id(*b))));
        all.truncate(k);
        all
    }

    /// Vectors of unit length to within 1e-4. A third of them repeat another, some with a different last bit.
    fn vectors(count: usize, dims: usize, random: &mut fastrand::Rng) -> Vec<Vec<f32>> {
        let mut vectors: Vec<Vec<f32>> = Vec::new();
        for _ in 0..count {
            let mut vector: Vec<f32> = (0..dims).map(|_| random.f32()).collect();
            let norm =
                vector.iter().map(|value| value * value).sum::<f32>().sqrt() * (1.0 + 1.8e-4 * (random.f32() - 0.5));
            for value in &mut vector {
                *value /= norm;
            }
            if let Some(other) = vectors.get(random.usize(0..count)).filter(|_| random.u8(0..3) == 0) {
                vector.clone_from(other);
                vector[0] = f32::from_bits(vector[0].to_bits() + random.u32(0..2));
            }
            vectors.push(vector);
        }
        vectors
    }

    #[test]
    fn scanning_changes_neither_hits_nor_order() {
        let mut random = fastrand::Rng::with_seed(3);
        for (count, dims) in [(1, 512), (300, 3), (BLOCK * 9 + 7, 40), (PIECE + 1, 16)] {
            let vectors = vectors(count, dims, &mut random);
            let matrix = Matrix::of(&vectors);
            for &mode in Mode::VARIANTS {
                for k in [1, 10, count / 2, count, usize::MAX] {
                    let left_out = Some(random.usize(0..2 * count));
                    let scan = Scan { left_out, ..everything(&matrix, mode, &vectors[count / 2]) };
                    assert_eq!(scan.nearest(k, None), expected(&scan, k), "{mode:?} {k} of {count}");
                }
            }
        }
    }

    #[test]
    fn equal_rows_are_ordered_by_id() {
        let matrix = Matrix::of(&vec![vec![0.6, 0.8]; 5000]);
        for &mode in Mode::VARIANTS {
            let found = everything(&matrix, mode, &[0.8, 0.6]).nearest(3, None);
            assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2]);
        }
    }

    #[test]
    fn the_least_similarity_is_included() {
        let matrix = Matrix::of(&[vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]]);
        for &mode in Mode::VARIANTS {
            let scan = everything(&matrix, mode, &[1.0, 0.0]);
            let all = scan.nearest(9, None);
            assert_eq!(scan.nearest(9, Some(all[1].1.similarity)), all[..2]);
            assert_eq!(scan.nearest(9, Some(1.0)), all[..1]);
            assert_eq!(scan.nearest(0, None), []);
        }
    }

    #[test]
    fn a_query_with_another_number_of_values_is_refused() {
        let query = Query {
            target: Target::Id("a".to_owned()),
            mode: Mode::L2,
            k: 1,
            min_similarity: None,
            collection: None,
            filters: std::collections::BTreeMap::new(),
            approximate: false,
        };
        assert_eq!(refusal(&query, &[-0.6, 0.8], 2), None);
        assert!(refusal(&query, &[1.0], 2).is_some_and(|reason| reason.contains("1 values")));
    }
}
