//! Which tiles each convolution takes, and how many at a time.

use std::ops::Range;

use strum::IntoStaticStr;

use super::first_layer;
use super::geometry::{Convolution, Tile};
use super::multiply::PANEL;
use super::transform::{Algorithm, F4, F7};
use crate::simd::{CACHE_LINE, Simd};

/// What the tiles are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Plan {
    /// The least time.
    Fast,
    /// The least memory for weights.
    Small,
}

/// The tiles of a convolution.
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

/// For all but the first convolution. Measured: a block's points should stay in the second level of the cache, and a group's
/// weights be used for many tiles. The deeper the layer, the more the weights count.
const FAST: [Choice; 12] = [
    seven(16, 32),
    seven(32, 64),
    seven(16, 64),
    seven(16, 64),
    seven(16, 64),
    seven(16, 64),
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
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
    four(28, 64),
];

/// The offsets of the network's packed weights, and how each convolution is computed.
pub(super) struct Layout {
    /// `[panel][tap][output]`
    pub(super) first: Range<usize>,
    pub(super) first_bias: Range<usize>,
    /// All but the first.
    pub(super) convolutions: Vec<Convolution>,
    /// Floats in all.
    pub(super) len: usize,
}

impl Plan {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The layout for an instruction set.
    pub(super) fn layout<S: Simd>(self) -> Layout {
        let choices = match self {
            Self::Fast => &FAST,
            Self::Small => &SMALL,
        };
        let mut len = 0;
        // In whole cache lines, so that every register is aligned.
        let mut allocate = |floats: usize| {
            assert!(floats.is_multiple_of(CACHE_LINE));
            len += floats;
            len - floats..len
        };
        let (mut inputs, mut size) = (first_layer::OUTPUTS, first_layer::INPUT_SIZE);
        let (first, first_bias) = (allocate(first_layer::TAPS * first_layer::OUTPUTS), allocate(first_layer::OUTPUTS));
        let mut convolutions = Vec::with_capacity(LAYERS.len());
        for (&Choice { tile, group, block }, (outputs, pool)) in choices.iter().zip(LAYERS) {
            assert!(group.is_multiple_of(PANEL * S::LANES), "a group has whole panels");
            assert!(block.is_multiple_of(4), "a block has whole squares of tiles");
            let (weights, bias) = (allocate(tile.points() * inputs * outputs), allocate(outputs));
            convolutions.push(Convolution { inputs, outputs, size, pool, tile, group, block, weights, bias });
            inputs = outputs;
            size /= if pool { 2 } else { 1 };
        }
        Layout { first, first_bias, convolutions, len }
    }
}

impl Layout {
    /// Everything that packed weights depend on, except the weights and the order in which [`super::pack`] lays them out.
    pub(super) fn describe(&self, lanes: usize) -> String {
        let tiles = self.convolutions.iter().map(|c| format!("{}/{}", c.tile.outputs(), c.group));
        let tiles = tiles.collect::<Vec<_>>().join(" ");
        let (four, seven) = (points::<F4, 4, 6>(), points::<F7, 7, 9>());
        format!("lanes {lanes}\npanel {PANEL}\ntiles/group {tiles}\npoints of 4 {four}\npoints of 7 {seven}")
    }
}

/// The points of an algorithm, as the powers that its outputs take.
fn points<F: Algorithm<M, A>, const M: usize, const A: usize>() -> String {
    let powers = const { F::MATRICES.output };
    powers[1][..A - 1].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Outputs of each convolution after the first, and whether pooling follows.
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
