//! Queries and their hits, and the rules of a query that both stores share.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::distance::{Measure, Mode};
use crate::embedding::Embedding;
use crate::model::manifest::Manifest;

/// What to search for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The image, by its features or by the id of its document.
    pub target: Target,
    /// How vectors are compared.
    pub mode: Mode,
    /// The most hits to return.
    pub k: usize,
    /// Leave out hits whose similarity is below.
    pub min_similarity: Option<f64>,
    /// Only this collection.
    pub collection: Option<String>,
    /// Only documents whose metadata has these values, each compared as text. Keys name nested fields with dots.
    pub filters: BTreeMap<String, String>,
    /// Let the store use an approximate index, then rescore exactly.
    pub approximate: bool,
}

/// What hits are compared with.
#[derive(Clone, Debug)]
pub enum Target {
    /// Features of a query image.
    Embedding(Embedding),
    /// The id of a stored document, which is itself left out of the hits.
    Id(String),
}

/// One hit of a query, as printed in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// 1 is the nearest.
    pub rank: usize,
    pub id: String,
    pub url: String,
    pub collection: String,
    /// Score, distance and similarity.
    #[serde(flatten)]
    pub measure: Measure,
    /// The producer's metadata, unchanged.
    pub metadata: Map<String, Value>,
}

/// Refuses a mode for which a model's features are not fit. A dot product is a score only where no feature is negative.
///
/// # Errors
/// The reason, for the user of `--mode`.
pub fn check_mode(mode: Mode, model: &Manifest) -> Result<(), String> {
    if mode == Mode::Dot && !model.nonnegative {
        return Err(format!(
            "--mode dot needs a model without negative features, which {} is not; take cosine",
            model.name
        ));
    }
    Ok(())
}

impl Query {
    /// Why no store answers this query with this vector: the rule of [`check_mode`], for a store that knows no manifest.
    pub(super) fn refusal(&self, vector: &[f32]) -> Option<String> {
        let refused = self.mode == Mode::Dot && vector.iter().any(|&value| value < 0.0);
        refused.then(|| {
            "mode dot needs a model whose features cannot be negative, and this query's are; use cosine".to_owned()
        })
    }
}

/// The bound that `min_similarity` sets for the similarity of a hit, which is computed in float64. A hit of exactly
/// `min_similarity` may be off by its last bit.
pub(super) fn similarity_bound(min_similarity: Option<f64>) -> f64 {
    const ROUNDING: f64 = 1e-12;
    min_similarity.map_or(f64::NEG_INFINITY, |similarity| similarity - ROUNDING)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dot_product_is_refused_for_negative_features() {
        let refusal = |mode, vector: &[f32]| {
            let query = Query {
                target: Target::Id("a".to_owned()),
                mode,
                k: 1,
                min_similarity: None,
                collection: None,
                filters: BTreeMap::new(),
                approximate: false,
            };
            query.refusal(vector)
        };
        assert_eq!(refusal(Mode::Dot, &[0.6, 0.8]), None);
        assert_eq!(refusal(Mode::Cosine, &[-0.6, 0.8]), None);
        assert!(refusal(Mode::Dot, &[-0.6, 0.8]).is_some_and(|reason| reason.contains("use cosine")));
        let mut model = Manifest::find("vgg16").unwrap();
        assert_eq!(check_mode(Mode::Dot, &model), Ok(()));
        model.nonnegative = false;
        assert_eq!(check_mode(Mode::Cosine, &model), Ok(()));
        assert!(check_mode(Mode::Dot, &model).unwrap_err().contains("take cosine"));
    }
}
