//! Which parts of a frame differ from the frame before.

use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};

use crate::Refusal;
use crate::nh::Tiles;

/// Pixels of a tile, in both directions.
pub const TILE: u32 = 64;

/// A part of a frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tile {
    /// Its first column.
    pub x: u32,
    /// Its first row.
    pub y: u32,
    /// Columns: [`TILE`], or fewer at the frame's edge.
    pub width: u32,
    /// Rows: [`TILE`], or fewer at the frame's edge.
    pub height: u32,
}

/// The tiles of 64 × 64 pixels in which a frame differs from the last one that was read whole.
///
/// Tiles are compared by two sums of 64 bits under a key. A tile that changed is missed by a chance of 2^-64, whatever
/// the guest writes, as long as it does not know the key: take a random one. That is proven for a key as long as a
/// tile; this one is spread from 64 bits by a generator that is no cipher. Frames that were missed between two reads do
/// not matter: the frames that were read are what is compared.
///
/// It takes 20 KiB for its key, 33 bytes for each tile and 128 for each column of tiles, and no frame.
#[derive(Debug)]
pub struct Damage {
    tiles: Tiles,
    /// Sums of the tiles of the frame that is being read, and of the last whole one.
    new: Vec<[u64; 2]>,
    last: Vec<[u64; 2]>,
    /// Width and height of those frames; 0 before the first.
    size: (u32, u32),
    last_size: (u32, u32),
    changed: Vec<bool>,
}

impl Damage {
    /// No frame yet: all of the first one counts as changed.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self {
            tiles: Tiles::new(key),
            new: Vec::new(),
            last: Vec::new(),
            size: (0, 0),
            last_size: (0, 0),
            changed: Vec::new(),
        }
    }

    /// The tiles that changed, row by row; none where the last read gave no frame.
    pub fn tiles(&self) -> impl Iterator<Item = Tile> {
        let (width, height) = self.last_size;
        let columns = width.div_ceil(TILE).max(1);
        self.changed.iter().zip(0..).filter(|(changed, _)| **changed).map(move |(_, nth)| {
            let (x, y) = (nth % columns * TILE, nth / columns * TILE);
            Tile { x, y, width: TILE.min(width.saturating_sub(x)), height: TILE.min(height.saturating_sub(y)) }
        })
    }

    /// How many tiles the frame has.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.last.len()
    }

    /// Forgets the last frame: all of the next one counts as changed.
    pub fn forget(&mut self) {
        self.last.clear();
        self.changed.clear();
        self.last_size = (0, 0);
    }
}

impl FrameSink for Damage {
    type Refusal = Refusal;

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), Refusal> {
        self.size = (desc.width, desc.height);
        self.new.clear();
        self.changed.clear();
        self.tiles.begin(desc);
        Ok(())
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        self.tiles.rows(desc, first, rows, |sums| self.new.push(sums));
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.changed.clear();
        if frame.is_none() {
            return;
        }
        let same_size = self.size == self.last_size && self.new.len() == self.last.len();
        let pairs = self.new.iter().zip(self.last.iter().map(Some).chain(core::iter::repeat(None)));
        self.changed.extend(pairs.map(|(new, last)| !same_size || Some(new) != last));
        core::mem::swap(&mut self.new, &mut self.last);
        self.last_size = self.size;
    }
}
