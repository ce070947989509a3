//! The matrices in exact arithmetic: numbers `a + b * sqrt(2)` with rational `a` and `b`, which hold every point.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::super::transform::{Algorithm, F4, F7};
use super::super::winograd::Matrices;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratio(i128, i128);

impl Ratio {
    fn new(numerator: i128, denominator: i128) -> Self {
        let (mut a, mut b) = (numerator.abs(), denominator.abs());
        while b > 0 {
            (a, b) = (b, a % b);
        }
        let divisor = a.max(1) * denominator.signum();
        Self(numerator / divisor, denominator / divisor)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Exact(Ratio, Ratio);

const ZERO: Exact = Exact(Ratio(0, 1), Ratio(0, 1));
const ONE: Exact = Exact(Ratio(1, 1), Ratio(0, 1));

impl Exact {
    fn ratio(numerator: i128, denominator: i128) -> Self {
        Self(Ratio::new(numerator, denominator), Ratio(0, 1))
    }

    fn value(self) -> f64 {
        let Self(a, b) = self;
        a.0 as f64 / a.1 as f64 + b.0 as f64 / b.1 as f64 * std::f64::consts::SQRT_2
    }

    fn power(self, exponent: usize) -> Self {
        (0..exponent).fold(ONE, |power, _| power * self)
    }
}

fn add(a: Ratio, b: Ratio) -> Ratio {
    Ratio::new(a.0 * b.1 + b.0 * a.1, a.1 * b.1)
}

fn mul(a: Ratio, b: Ratio) -> Ratio {
    Ratio::new(a.0 * b.0, a.1 * b.1)
}

impl Add for Exact {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(add(self.0, other.0), add(self.1, other.1))
    }
}

impl Neg for Exact {
    type Output = Self;
    fn neg(self) -> Self {
        Self(Ratio(-self.0.0, self.0.1), Ratio(-self.1.0, self.1.1))
    }
}

impl Sub for Exact {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Exact {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let (Self(a, b), Self(c, d)) = (self, other);
        Self(add(mul(a, c), mul(Ratio(2, 1), mul(b, d))), add(mul(a, d), mul(b, c)))
    }
}

impl Div for Exact {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let conjugate = Self(other.0, -other.1);
        let Self(norm, _) = other * conjugate;
        let inverse = Self(Ratio::new(norm.1, norm.0), Ratio(0, 1));
        self * conjugate * inverse
    }
}

impl Neg for Ratio {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0, self.1)
    }
}

/// The coefficients of the product of `(x - point)` over all points but `without`, lowest first.
fn polynomial(points: &[Exact], without: Option<usize>) -> Vec<Exact> {
    let mut coefficients = vec![ONE];
    for (_, point) in points.iter().enumerate().filter(|(number, _)| Some(*number) != without) {
        let shifted = std::iter::once(ZERO).chain(coefficients.iter().copied());
        let scaled = coefficients.iter().map(|c| *c * *point).chain([ZERO]);
        coefficients = shifted.zip(scaled).map(|(a, b)| a - b).collect();
    }
    coefficients
}

struct Reference {
    input: Vec<Vec<Exact>>,
    filter: Vec<[Exact; 3]>,
    output: Vec<Vec<Exact>>,
}

/// The matrices as the algorithm defines them, without any use of pairs.
fn reference(points: &[Exact], outputs: usize) -> Reference {
    let mut input: Vec<_> = (0..points.len()).map(|number| polynomial(points, Some(number))).collect();
    for row in &mut input {
        row.push(ZERO);
    }
    input.push(polynomial(points, None));
    let mut filter: Vec<_> = points
        .iter()
        .enumerate()
        .map(|(number, point)| {
            let others = points.iter().enumerate().filter(|(other, _)| *other != number);
            let scale = others.fold(ONE, |product, (_, other)| product * (*point - *other));
            [ONE / scale, *point / scale, *point * *point / scale]
        })
        .collect();
    filter.push([ZERO, ZERO, ONE]);
    let output = (0..outputs)
        .map(|k| {
            let infinity = if k + 1 == outputs { ONE } else { ZERO };
            points.iter().map(|point| point.power(k)).chain([infinity]).collect()
        })
        .collect();
    Reference { input, filter, output }
}

fn check<const M: usize, const A: usize>(matrices: &Matrices<M, A>, points: &[Exact]) {
    let Reference { input, filter, output } = reference(points, M);
    // The definition is right: for any inputs and weights, for it is linear in both.
    for k in 0..M {
        for t in 0..3 {
            for i in 0..A {
                let sum = (0..A).fold(ZERO, |sum, j| sum + output[k][j] * filter[j][t] * input[j][i]);
                assert_eq!(sum, if i == k + t { ONE } else { ZERO }, "output {k}, weight {t}, input {i}");
            }
        }
    }
    // What is derived at compile time is the definition, up to a sign that a point's two rows share.
    let close = |found: f64, exact: Exact| (found - exact.value()).abs() <= 4e-15 * exact.value().abs();
    for j in 0..A {
        let signs = [1.0, -1.0].into_iter().filter(|sign| {
            (0..A).all(|i| close(matrices.input[j][i] * sign, input[j][i]))
                && (0..3).all(|t| close(matrices.filter[j][t] * sign, filter[j][t]))
        });
        assert_eq!(signs.count(), 1, "point {j}: {:?}", matrices.input[j]);
        for k in 0..M {
            assert!(close(matrices.output[k][j], output[k][j]), "output {k}, point {j}");
        }
    }
}

#[test]
fn tiles_of_seven_are_exact() {
    let positive = [(1, 4), (2, 3), (11, 10), (2, 1)].map(|(a, b)| Exact::ratio(a, b));
    let points: Vec<_> = positive.iter().flat_map(|point| [*point, -*point]).collect();
    check(&<F7 as Algorithm<7, 9>>::MATRICES, &points);
}

#[test]
fn tiles_of_four_are_exact() {
    let root = Exact(Ratio(0, 1), Ratio(1, 1));
    let half = Exact(Ratio(0, 1), Ratio(1, 2));
    check(&<F4 as Algorithm<4, 6>>::MATRICES, &[ZERO, half, -half, root, -root]);
}
