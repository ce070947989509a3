//! Kernels without processor features, in a form that the compiler turns into whatever vectors the target has.

use super::LANES;

pub(super) fn dot(query: &[f32], rows: &[f32], sums: &mut [f32]) {
    each(query, rows, sums, |sum, q, r| sum + q * r);
}

pub(super) fn l1(query: &[f32], rows: &[f32], sums: &mut [f32]) {
    each(query, rows, sums, |sum, q, r| sum + (q - r).abs());
}

pub(super) fn squared_l2(query: &[f32], rows: &[f32], sums: &mut [f32]) {
    each(query, rows, sums, |sum, q, r| sum + (q - r) * (q - r));
}

#[inline]
fn each(query: &[f32], rows: &[f32], sums: &mut [f32], add: impl Fn(f32, f32, f32) -> f32) {
    let (query_groups, _) = query.as_chunks::<LANES>();
    for (row, sum) in rows.chunks_exact(query.len()).zip(sums) {
        let mut lanes = [0.0; LANES];
        for (query, row) in query_groups.iter().zip(row.as_chunks::<LANES>().0) {
            for ((lane, &q), &r) in lanes.iter_mut().zip(query).zip(row) {
                *lane = add(*lane, q, r);
            }
        }
        *sum = lanes.iter().sum();
    }
}
