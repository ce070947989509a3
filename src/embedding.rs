//! Feature vectors that can be stored and compared.

use serde::{Deserialize, Serialize};

/// A finite vector of unit L2 length.
///
/// Every constructor checks or establishes both properties, so no store or formula checks them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f32>", into = "Vec<f32>")]
pub struct Embedding(Box<[f32]>);

/// Why a vector is not an embedding.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Degenerate {
    /// All features are zero, so there is no direction to compare.
    #[error("the feature vector is zero")]
    Zero,
    /// A feature is infinite or not a number.
    #[error("feature {0} is not finite")]
    NotFinite(usize),
    /// A stored vector does not have unit length.
    #[error("the vector's L2 norm is {0}, not 1")]
    NotUnit(f64),
}

/// How far the norm of a stored vector may be from 1: float32 rounding of 512 terms stays well below it.
const UNIT_TOLERANCE: f64 = 1e-4;

impl TryFrom<Vec<f32>> for Embedding {
    type Error = Degenerate;

    fn try_from(values: Vec<f32>) -> Result<Self, Degenerate> {
        Self::from_unit(values)
    }
}

impl From<Embedding> for Vec<f32> {
    fn from(embedding: Embedding) -> Self {
        embedding.0.into_vec()
    }
}

impl Embedding {
    /// Divides raw features by their L2 norm (computed in f64).
    ///
    /// # Errors
    /// [`Degenerate::Zero`] or [`Degenerate::NotFinite`].
    pub fn normalize(mut features: Vec<f32>) -> Result<Self, Degenerate> {
        let norm = norm(&features)?;
        for value in &mut features {
            *value = (f64::from(*value) / norm) as f32;
        }
        Ok(Self(features.into_boxed_slice()))
    }

    /// Checks a vector that should have unit length, read from a store or a file.
    pub fn from_unit(values: Vec<f32>) -> Result<Self, Degenerate> {
        let norm = norm(&values)?;
        if (norm - 1.0).abs() > UNIT_TOLERANCE {
            return Err(Degenerate::NotUnit(norm));
        }
        Ok(Self(values.into_boxed_slice()))
    }

    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The number of values.
    pub fn dims(&self) -> usize {
        self.0.len()
    }
}

fn norm(values: &[f32]) -> Result<f64, Degenerate> {
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(Degenerate::NotFinite(at));
    }
    let norm = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    // With a smaller norm the quotients lose all precision, and with a subnormal one they are infinite.
    if norm < f64::from(f32::MIN_POSITIVE) { Err(Degenerate::Zero) } else { Ok(norm) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn normalizes_to_unit_length() {
        let embedding = Embedding::normalize(vec![3.0, 0.0, 4.0]).unwrap();
        assert_eq!(embedding.as_slice(), [0.6, 0.0, 0.8]);
    }

    #[test]
    fn vectors_without_a_direction_are_refused() {
        assert_eq!(Embedding::normalize(vec![0.0; 4]), Err(Degenerate::Zero));
        assert_eq!(Embedding::normalize(vec![]), Err(Degenerate::Zero));
        assert_eq!(Embedding::normalize(vec![1.0, f32::NAN]), Err(Degenerate::NotFinite(1)));
        assert_eq!(Embedding::normalize(vec![f32::INFINITY]), Err(Degenerate::NotFinite(0)));
    }

    #[test]
    fn normalizes_extremes_without_overflow() {
        let embedding = Embedding::normalize(vec![f32::MAX, f32::MAX]).unwrap();
        assert!((embedding.as_slice()[0] - 0.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn stored_vectors_must_be_unit() {
        assert!(Embedding::from_unit(vec![0.6, 0.8]).is_ok());
        assert!(matches!(Embedding::from_unit(vec![0.6, 0.9]), Err(Degenerate::NotUnit(_))));
    }
}
