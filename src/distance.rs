//! The four exact modes, and the table of formulas that both stores follow.
//!
//! Each mode has a *raw* value (what a vector kernel or Elasticsearch computes) and three numbers derived from it:
//!
//! | mode | raw | `score` | `distance` | `similarity` in 0..1 |
//! |---|---|---|---|---|
//! | cosine | cosine of the angle | raw + 1 | 1 - raw | (1 + raw) / 2 |
//! | dot | dot product | raw | -raw | (1 + raw) / 2, for unit vectors |
//! | l1 | sum of absolute differences | 1 / (1 + raw) | raw | 1 / (1 + raw) |
//! | l2 | Euclidean distance | 1 / (1 + raw) | raw | 1 / (1 + raw) |
//!
//! `score` is what Elasticsearch returns for the scripts of `store::elasticsearch::query`; a larger score is
//! always a nearer document.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// How two vectors are compared.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Mode {
    /// Cosine of the angle between the vectors.
    #[default]
    Cosine,
    /// Sum of absolute differences.
    L1,
    /// Euclidean distance.
    L2,
    /// Dot product; only for models whose features cannot be negative.
    Dot,
}

/// The three numbers that every hit carries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// What Elasticsearch's `script_score` returns: at least 0, larger is nearer.
    pub score: f64,
    /// Smaller is nearer.
    pub distance: f64,
    /// From 0 to 1, larger is nearer.
    pub similarity: f64,
}

impl Mode {
    /// Derives the three numbers from the raw value of this mode.
    pub fn measure(self, raw: f64) -> Measure {
        match self {
            Self::Cosine => Measure { score: raw + 1.0, distance: 1.0 - raw, similarity: unit(0.5 + raw / 2.0) },
            Self::Dot => Measure { score: raw, distance: -raw, similarity: unit(0.5 + raw / 2.0) },
            Self::L1 | Self::L2 => {
                let inverse = 1.0 / (1.0 + raw);
                Measure { score: inverse, distance: raw, similarity: inverse }
            }
        }
    }

    /// The least `score` of a document whose `similarity` is at least this: Elasticsearch's `min_score`.
    pub fn score_of_similarity(self, similarity: f64) -> f64 {
        match self {
            Self::Cosine => 2.0 * similarity,
            Self::Dot => 2.0 * similarity - 1.0,
            Self::L1 | Self::L2 => similarity,
        }
    }
}

/// Keeps a similarity in its range where rounding makes a cosine slightly larger than 1.
fn unit(similarity: f64) -> f64 {
    similarity.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn formulas() {
        for (mode, raw, score, distance, similarity) in [
            (Mode::Cosine, 1.0, 2.0, 0.0, 1.0),
            (Mode::Cosine, 0.5, 1.5, 0.5, 0.75),
            (Mode::Cosine, -1.0, 0.0, 2.0, 0.0),
            (Mode::Dot, 0.5, 0.5, -0.5, 0.75),
            (Mode::L1, 0.0, 1.0, 0.0, 1.0),
            (Mode::L1, 3.0, 0.25, 3.0, 0.25),
            (Mode::L2, 1.0, 0.5, 1.0, 0.5),
        ] {
            let measure = mode.measure(raw);
            assert!(close(measure.score, score), "{mode:?} {raw}: score {}", measure.score);
            assert!(close(measure.distance, distance), "{mode:?} {raw}: distance {}", measure.distance);
            assert!(close(measure.similarity, similarity), "{mode:?} {raw}: similarity {}", measure.similarity);
        }
    }

    #[test]
    fn the_score_of_a_similarity_is_the_score_measured_with_it() {
        for mode in Mode::VARIANTS {
            for raw in [0.0, 0.1, 0.5, 0.99] {
                let measure = mode.measure(raw);
                assert!(close(mode.score_of_similarity(measure.similarity), measure.score), "{mode:?} {raw}");
            }
        }
    }

    #[test]
    fn a_similarity_stays_in_its_range() {
        assert!(close(Mode::Cosine.measure(1.000_000_1).similarity, 1.0));
    }
}
