//! One convolution, with its bias, `ReLU` and perhaps 2 x 2 pooling: tiles in, points, multiplication, tiles out.

use std::marker::PhantomData;
use std::ops::Range;

use super::first::{First, Patch};
use super::memory::{Buffer, LINE, Map, Shared};
use super::simd::Simd;
use super::steps::{LINES, Multiply, Place, ToOutputs, ToPoints, Window, points_before};
use super::team::Member;
use super::transform::{Algorithm, F4, F7};

/// The size of a convolution's tiles.
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

/// How threads share a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Each takes some tiles through all channels. What it works on stays in its own cache.
    Tiles,
    /// Each takes some outputs of all tiles: for few tiles, so that weights are read once.
    Outputs,
}

impl Split {
    /// Whether there are enough tiles for each thread to have its own.
    pub(super) fn of(convolution: &Convolution, images: usize, team: usize) -> Self {
        let tiles = Tiling::of(convolution, images, false).tiles();
        if tiles < convolution.block * team { Self::Outputs } else { Self::Tiles }
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
    /// How many outputs are multiplied, then transformed back, at a time.
    pub(super) group: usize,
    /// How many tiles go through together.
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

    /// Blocks of tiles in an image.
    pub(super) fn blocks(&self) -> usize {
        Tiling::of(self, 1, false).tiles() / self.block
    }

    /// Height and width of its output.
    pub(super) fn output_size(&self) -> usize {
        self.size / if self.pool { 2 } else { 1 }
    }
}

/// What a convolution reads.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Map(Shared<'a>, Map),
    /// Pixels: the network's first convolution is done on the way, patch by patch.
    Pixels(First<'a>, &'a [f32]),
}

/// One convolution of a forward pass.
pub(super) struct Job<'a> {
    pub(super) convolution: &'a Convolution,
    /// The network's packed weights.
    pub(super) packed: &'a [f32],
    pub(super) source: Source<'a>,
    pub(super) target: (Shared<'a>, Map),
    pub(super) images: usize,
    /// The numbers of the first image there.
    pub(super) first: (usize, usize),
    /// Points of tiles that all threads multiply.
    pub(super) together: Shared<'a>,
}

/// What a thread works in.
pub(super) struct Scratch {
    points: Buffer,
    sums: Buffer,
    lines: Buffer,
    patch: Buffer,
    places: Vec<Place>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            points: Buffer::new(0),
            sums: Buffer::new(0),
            lines: Buffer::new(LINES),
            patch: Buffer::new(0),
            places: Vec::new(),
        }
    }
}

/// Tiles in the order in which they are worked on: strips of a few rows of tiles, each from left to right.
struct Tiling {
    tile: usize,
    /// Tiles along a side of the map.
    side: usize,
    /// Rows of tiles in a strip.
    strip: usize,
    images: usize,
}

impl Tiling {
    fn of(convolution: &Convolution, images: usize, from_pixels: bool) -> Self {
        let tile = convolution.tile.outputs();
        let strip = match (convolution.pool, convolution.tile) {
            // Pooling joins outputs of neighbouring tiles.
            (true, Tile::Seven) => 2,
            // A patch of the first convolution has rows above and below that its neighbours have too.
            _ if from_pixels => 4,
            _ => 1,
        };
        // Whole strips. A strip of four is of the network's first map only, which it divides.
        let side = convolution.size.div_ceil(tile).next_multiple_of(strip.min(2));
        Self { tile, side, strip, images }
    }

    fn tiles(&self) -> usize {
        self.images * self.side * self.side
    }

    /// How many tiles are to stay together: those whose outputs are pooled together.
    fn unit(&self) -> usize {
        self.strip * self.strip.min(2)
    }

    /// The tiles of each block: about `block`, and of one strip only where that is asked for.
    fn blocks(&self, block: usize, within_strip: bool) -> impl Fn(usize) -> Option<Range<usize>> {
        let (tiles, unit) = (self.tiles(), self.unit());
        let strip = if within_strip { self.side * self.strip } else { tiles };
        let blocks = tiles / strip * strip.div_ceil(block);
        let start = move |block| tiles / unit * block / blocks * unit;
        move |block| (block < blocks).then(|| start(block)..start(block + 1))
    }

    /// Image, row and column of a tile.
    fn place(&self, index: usize) -> (usize, usize, usize) {
        let (image, index) = (index / (self.side * self.side), index % (self.side * self.side));
        let (strip, index) = (index / (self.side * self.strip), index % (self.side * self.strip));
        (image, strip * self.strip + index % self.strip, index / self.strip)
    }
}

impl Job<'_> {
    /// Does this thread's share. It is finished when all have met.
    pub(super) fn run<S: Simd>(&self, simd: S, member: &Member<'_>, scratch: &mut Scratch) {
        match self.convolution.tile {
            Tile::Four => self.run_tiles::<S, F4, 4, 6>(simd, member, scratch),
            Tile::Seven => self.run_tiles::<S, F7, 7, 9>(simd, member, scratch),
        }
    }

    fn run_tiles<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
        &self,
        simd: S,
        member: &Member<'_>,
        scratch: &mut Scratch,
    ) {
        let convolution = self.convolution;
        let from_pixels = matches!(self.source, Source::Pixels(..));
        let tiling = Tiling::of(convolution, self.images, from_pixels);
        let tiles = tiling.blocks(convolution.block, from_pixels);
        let groups = convolution.outputs / convolution.group;
        let blocks = convolution.inputs / S::LANES;
        match Split::of(convolution, self.images, member.team()) {
            Split::Tiles => {
                while let Some(tiles) = tiles(member.take()) {
                    let patch = self.place(simd, &tiling, tiles, scratch);
                    let Scratch { points, sums, lines, places, patch: buffer } = &mut *scratch;
                    points.reserve(points_len::<S>(convolution, places.len()));
                    let points = Shared::new(points);
                    let source = self.window(patch, Shared::new(buffer));
                    simd.vectorize(ToPoints::<F, M, A>::new(convolution, source, places, 0..blocks, points, lines));
                    for group in 0..groups {
                        self.group::<S, F, M, A>(simd, group, places, points, sums, lines);
                    }
                }
            }
            Split::Outputs => {
                for block in 0.. {
                    let Some(tiles) = tiles(block) else { break };
                    if block > 0 {
                        member.meet();
                    }
                    let patch = self.place(simd, &tiling, tiles, scratch);
                    let Scratch { sums, lines, places, patch: buffer, .. } = &mut *scratch;
                    let source = self.window(patch, Shared::new(buffer));
                    let share = blocks * member.index() / member.team()..blocks * (member.index() + 1) / member.team();
                    let points = self.together;
                    simd.vectorize(ToPoints::<F, M, A>::new(convolution, source, places, share, points, lines));
                    member.meet();
                    while let Some(group) = Some(member.take()).filter(|group| *group < groups) {
                        self.group::<S, F, M, A>(simd, group, places, points, sums, lines);
                    }
                }
            }
        }
        member.meet();
    }

    /// Multiplies a group of outputs of all tiles in hand, and writes it.
    fn group<S: Simd, F: Algorithm<M, A>, const M: usize, const A: usize>(
        &self,
        simd: S,
        group: usize,
        places: &[Place],
        points: Shared<'_>,
        sums: &mut Buffer,
        lines: &mut Buffer,
    ) {
        let convolution = self.convolution;
        let apart = convolution.group * places.len() + LINE;
        sums.reserve(A * A * apart);
        let sums = Shared::new(sums);
        let len = A * A * convolution.inputs * convolution.group;
        let weights = &self.packed[convolution.weights.start + group * len..][..len];
        simd.vectorize(Multiply { convolution, points, weights, tiles: places.len(), sums, apart });
        let (target, map) = self.target;
        simd.vectorize(ToOutputs::<F, M, A> {
            convolution,
            bias: &self.packed[convolution.bias.start + group * convolution.group..][..convolution.group],
            group,
            sums,
            apart,
            places,
            target,
            map,
            lines,
            algorithm: PhantomData,
        });
    }

    /// Finds where the tiles are read and written. From pixels, computes their inputs first.
    fn place<S: Simd>(&self, simd: S, tiling: &Tiling, tiles: Range<usize>, scratch: &mut Scratch) -> Option<Patch> {
        let (tile, size) = (tiling.tile, self.convolution.size);
        let shrink = if self.convolution.pool { 2 } else { 1 };
        let patch = match self.source {
            Source::Map(..) => None,
            Source::Pixels(first, pixels) => {
                let (image, row, left) = tiling.place(tiles.start);
                let (last, _, right) = tiling.place(tiles.end - 1);
                debug_assert!(image == last, "a patch lies in one image");
                let extent = (tiling.strip * tile + 2, (right + 1 - left) * tile + 2);
                let patch = Patch::new(self.first.0 + image, (row * tile, left * tile), extent);
                scratch.patch.reserve(self.convolution.inputs / S::LANES * patch.plane(S::LANES));
                simd.vectorize(first.fill(pixels, patch, &mut scratch.patch));
                Some(patch)
            }
        };
        scratch.places.clear();
        scratch.places.extend(tiles.map(|index| {
            let (image, row, column) = tiling.place(index);
            let (y, x) = (row * tile, column * tile);
            let from = match (self.source, patch) {
                (_, Some(patch)) => patch.window(S::LANES, y, x),
                (Source::Map(_, map), None) => map.window(self.first.0 + image, y, x),
                (Source::Pixels(..), None) => 0,
            };
            let to = self.target.1.position(self.first.1 + image, y / shrink, x / shrink);
            Place { from, to, rows: tile.min(size.saturating_sub(y)), columns: tile.min(size.saturating_sub(x)) }
        }));
        patch
    }

    fn window<'a>(&'a self, patch: Option<Patch>, buffer: Shared<'a>) -> Window<'a> {
        match (self.source, patch) {
            (Source::Map(floats, map), _) => Window { floats, row: map.row(), plane: map.plane() },
            (Source::Pixels(..), patch) => {
                let lanes = self.target.1.lanes;
                let (row, plane) = patch.map_or((0, 0), |patch| (patch.row(lanes), patch.plane(lanes)));
                Window { floats: buffer, row, plane }
            }
        }
    }
}

/// Floats for the points of so many tiles.
pub(super) fn points_len<S: Simd>(convolution: &Convolution, tiles: usize) -> usize {
    points_before(convolution.tile.points(), convolution.inputs, tiles.div_ceil(S::TILES), tiles)
}
