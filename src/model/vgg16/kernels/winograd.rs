//! Winograd's minimal filtering, derived at compile time from its interpolation points.
//!
//! A one-dimensional correlation of `A = M + 2` inputs `d` with 3 weights `g` has `M` outputs `y[k] = sum over t of
//! g[t] * d[k + t]`. With `A - 1` finite points `p[j]` and the point at infinity it takes `A` multiplications:
//!
//! ```text
//! y = output * ((filter * g) .* (input * d))      output[k][j] = p[j]^k
//!                                                 filter[j]    = [1, p[j], p[j]^2] / N'(p[j])
//!                                                 input[j][i]  = coefficient i of N(x) / (x - p[j])
//! N(x) = product of (x - p[j])
//! ```
//!
//! Why: `input[j] / N'(p[j])` is the Lagrange polynomial of point `j`. So what the finite points give `g[t]` in `y[k]` is
//! the interpolation of `x^(k+t)`, read as a row over the inputs: `d[k + t]` itself as long as `k + t < A - 1`. For the
//! last output and the last weight it is `x^(A-1) - N(x)`; the point at infinity, with `N` as its row, gives back the `N`.
//! See Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, and Blahut, "Fast Algorithms for Signal
//! Processing", 2010, chapter 5.
//!
//! In two dimensions each is applied to rows, then to columns.
//!
//! Points come in pairs `p, -p`, so that `N(x) = x^z * product of (x^2 - p^2)`, where `z` is 1 if zero is a point. With
//! `E(x^2)` for the product over the other pairs, the rows of a pair are `x^z (x + p) E(x^2)` and `x^z (x - p) E(x^2)`: up
//! to a sign that the filter's row takes along, their even coefficients are equal and their odd ones opposite, and half
//! of the work serves both.

/// The three matrices of F(M, 3). Rows of points in the order zero (if it is one), `p, -p` of each pair, infinity.
pub(super) struct Matrices<const M: usize, const A: usize> {
    /// Applied to inputs.
    pub(super) input: [[f64; A]; A],
    /// Applied to weights.
    pub(super) filter: [[f64; 3]; A],
    /// Applied to products.
    pub(super) output: [[f64; A]; M],
}

/// The coefficients of the product of `(y - p^2)` over all pairs but `without`, lowest first.
const fn product<const A: usize>(pairs: &[f64], without: usize) -> [f64; A] {
    let mut coefficients = [0.0; A];
    coefficients[0] = 1.0;
    let mut pair = 0;
    while pair < pairs.len() {
        if pair != without {
            let mut i = A - 1;
            while i > 0 {
                coefficients[i] = coefficients[i - 1] - pairs[pair] * pairs[pair] * coefficients[i];
                i -= 1;
            }
            coefficients[0] *= -(pairs[pair] * pairs[pair]);
        }
        pair += 1;
    }
    coefficients
}

/// The matrices for these points: `pairs` has the positive ones, each of which stands for itself and its negative.
pub(super) const fn derive<const M: usize, const A: usize>(pairs: &[f64], zero: bool) -> Matrices<M, A> {
    let z = zero as usize;
    assert!(A == M + 2 && A == 2 * pairs.len() + z + 1, "so many points make other matrices");
    let mut matrices = Matrices { input: [[0.0; A]; A], filter: [[0.0; 3]; A], output: [[0.0; A]; M] };
    let all = product::<A>(pairs, usize::MAX);
    let mut i = 0;
    while i <= pairs.len() {
        if zero {
            matrices.input[0][2 * i] = all[i];
        }
        matrices.input[A - 1][2 * i + z] = all[i];
        i += 1;
    }
    if zero {
        matrices.filter[0][0] = 1.0 / all[0];
        matrices.output[0][0] = 1.0;
    }
    matrices.filter[A - 1][2] = 1.0;
    matrices.output[M - 1][A - 1] = 1.0;
    let mut pair = 0;
    while pair < pairs.len() {
        derive_pair(&mut matrices, pairs, pair, z);
        pair += 1;
    }
    matrices
}

/// Fills in the rows of a pair `p, -p`.
const fn derive_pair<const M: usize, const A: usize>(
    matrices: &mut Matrices<M, A>,
    pairs: &[f64],
    pair: usize,
    z: usize,
) {
    let (p, others) = (pairs[pair], product::<A>(pairs, pair));
    let (plus, minus) = (z + 2 * pair, z + 2 * pair + 1);
    // The value of E at p^2.
    let (mut value, mut power) = (0.0, 1.0);
    let mut i = 0;
    while i < pairs.len() {
        let (low, high) = (2 * i + z, 2 * i + z + 1);
        let (even, odd) = if z == 0 { (low, high) } else { (high, low) };
        matrices.input[plus][low] = p * others[i];
        matrices.input[plus][high] = others[i];
        matrices.input[minus][even] = matrices.input[plus][even];
        matrices.input[minus][odd] = -matrices.input[plus][odd];
        value += others[i] * power;
        power *= p * p;
        i += 1;
    }
    let scale = 1.0 / (2.0 * p * value * if z == 0 { 1.0 } else { p });
    matrices.filter[plus] = [scale, scale * p, scale * p * p];
    matrices.filter[minus] = [scale, -scale * p, scale * p * p];
    let (mut k, mut power) = (0, 1.0);
    while k < M {
        matrices.output[k][plus] = power;
        matrices.output[k][minus] = if k % 2 == 0 { power } else { -power };
        power *= p;
        k += 1;
    }
}
