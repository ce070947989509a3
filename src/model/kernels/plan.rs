//! Which tiles each convolution takes, and how many at a time.

use super::layer::{Convolution, Tile};
use super::memory::Buffer;
use super::multiply::PANEL;
use super::simd::Simd;

/// What the choice of tiles is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The least time.
    Fast,
    /// The least memory for weights.
    Small,
}

/// A convolution's choice.
struct Choice {
    tile: Tile,
    /// See [`Convolution`].
    group: usize,
    block: usize,
}

const fn seven(block: usize, group: usize) -> Choice {
    Choice { tile: Tile::Seven, group, block }
}

const fn four(block: usize, group: usize) -> Choice {
    Choice { tile: Tile::Four, group, block }
}

/// All but the first convolution. A block's points shall stay in the second level of the cache, and a group's weights be
/// used for as many tiles as possible: measured.
const FAST: [Choice; 12] = [
    seven(16, 32),
    seven(32, 64),
    seven(16, 64),
    seven(32, 32),
    seven(32, 32),
    seven(32, 32),
    seven(32, 32),
    seven(32, 32),
    seven(32, 32),
    four(32, 32),
    four(32, 32),
    four(32, 32),
];

const SMALL: [Choice; 12] = [
    four(28, 32),
    four(56, 64),
    four(28, 64),
    four(56, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
];

impl Plan {
    /// The convolutions of the network behind the first, without biases.
    pub(super) fn convolutions<S: Simd>(self) -> Vec<Convolution> {
        let choices = match self {
            Self::Fast => &FAST,
            Self::Small => &SMALL,
        };
        let (mut inputs, mut size, mut start) = (64, 224, 0);
        let mut convolutions = Vec::new();
        for (choice, (outputs, pool)) in choices.iter().zip(LAYERS) {
            assert!(choice.group.is_multiple_of(PANEL * S::LANES), "a group has whole panels");
            let end = start + choice.tile.points() * inputs * outputs;
            convolutions.push(Convolution {
                inputs,
                outputs,
                size,
                pool,
                tile: choice.tile,
                group: choice.group,
                block: choice.block,
                weights: start..end,
                bias: Buffer::new(outputs),
            });
            (inputs, start) = (outputs, end);
            size /= if pool { 2 } else { 1 };
        }
        convolutions
    }
}

/// Outputs of each convolution behind the first, and whether pooling follows.
pub(super) const LAYERS: [(usize, bool); 12] = [
    (64, true),
    (128, false),
    (128, true),
    (256, false),
    (256, false),
    (256, true),
    (512, false),
    (512, false),
    (512, true),
    (512, false),
    (512, false),
    (512, true),
];
