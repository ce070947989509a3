//! Convolutions, and the order in which their tiles are computed.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Four,
    Seven,
}

impl Tile {
    /// Outputs along a side.
    pub(super) fn outputs(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Seven => 7,
        }
    }

    /// Points: the inputs of a tile.
    pub(super) fn points(self) -> usize {
        (self.outputs() + 2).pow(2)
    }
}

/// A 3 x 3 convolution with a border of one zero.
pub(super) struct Convolution {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Height and width of its input.
    pub(super) size: usize,
    /// Whether 2 x 2 pooling follows.
    pub(super) pool: bool,
    pub(super) tile: Tile,
    /// How many outputs are multiplied and then transformed back at a time.
    pub(super) group: usize,
    /// How many tiles are computed at a time.
    pub(super) block: usize,
    /// Its transformed weights among those of the network: `[outputs / group][point][panel of the group][input][output]`.
    pub(super) weights: Range<usize>,
    pub(super) bias: Range<usize>,
}

impl Convolution {
    /// Height and width of its input in whole tiles.
    pub(super) fn extent(&self) -> usize {
        let tiling = Tiling::of(self, 1, false);
        tiling.side * tiling.tile
    }

    /// Whole blocks of tiles in an image.
    pub(super) fn blocks(&self) -> usize {
        Tiling::of(self, 1, false).tiles() / self.block
    }

    pub(super) fn groups(&self) -> usize {
        self.outputs / self.group
    }

    /// Height and width of its output.
    pub(super) fn output_size(&self) -> usize {
        self.size / if self.pool { 2 } else { 1 }
    }
}

/// Strips of a few rows of tiles, one below the other; in a strip columns of tiles, from left to right.
pub(super) struct Tiling {
    /// Outputs along a side of a tile.
    pub(super) tile: usize,
    /// Tiles along a side of the map.
    pub(super) side: usize,
    /// Rows of tiles in a strip.
    pub(super) strip: usize,
    images: usize,
}

impl Tiling {
    pub(super) fn of(convolution: &Convolution, images: usize, from_pixels: bool) -> Self {
        let tile = convolution.tile.outputs();
        let strip = match (convolution.pool, convolution.tile) {
            // Pooling joins outputs of neighbouring tiles.
            (true, Tile::Seven) => 2,
            // A patch of the first convolution has rows above and below that its neighbours have too.
            _ if from_pixels => 4,
            _ => 1,
        };
        let side = convolution.size.div_ceil(tile).next_multiple_of(strip);
        Self { tile, side, strip, images }
    }

    pub(super) fn tiles(&self) -> usize {
        self.images * self.side * self.side
    }

    /// The tiles of each block: about `most`, and with `within_strip` of one strip only.
    pub(super) fn blocks(&self, most: usize, within_strip: bool) -> impl Fn(usize) -> Option<Range<usize>> + use<> {
        let tiles = self.tiles();
        // Tiles that must be in one block: a square for pooling, a column for a patch, which is a rectangle.
        let unit = (self.strip * self.strip).min(4);
        let strip = if within_strip { self.side * self.strip } else { tiles };
        let blocks = tiles / strip * strip.div_ceil(most);
        let start = move |block| tiles / unit * block / blocks * unit;
        move |block| (block < blocks).then(|| start(block)..start(block + 1))
    }

    /// Image, row and column of a tile.
    pub(super) fn position(&self, index: usize) -> (usize, usize, usize) {
        let (image, index) = (index / (self.side * self.side), index % (self.side * self.side));
        let (strip, index) = (index / (self.side * self.strip), index % (self.side * self.strip));
        (image, strip * self.strip + index % self.strip, index / self.strip)
    }
}
