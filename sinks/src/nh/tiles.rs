//! A frame on its way to hashes of its tiles.

use vgpu_perception::region::FrameDesc;

use super::{Key, PAIRS, Sums, total};
use crate::TILE;

/// The row of tiles that is being read.
#[derive(Debug)]
pub(crate) struct Tiles {
    key: Key,
    sums: Vec<Sums>,
}

impl Tiles {
    pub(crate) fn new(key: u64) -> Self {
        Self { key: Key::new(key), sums: Vec::new() }
    }

    /// A frame begins.
    pub(crate) fn begin(&mut self, desc: &FrameDesc) {
        self.sums.clear();
        self.sums.resize(desc.width.div_ceil(TILE) as usize, [[0; PAIRS]; 2]);
    }

    /// Takes in rows. Each tile that is whole with them goes to `done`, from left to right, row by row.
    pub(crate) fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8], mut done: impl FnMut([u64; 2])) {
        for (row, y) in rows.chunks_exact(desc.stride.max(1) as usize).zip(first..) {
            self.key.add(&mut self.sums, y, row);
            if y % TILE == TILE - 1 || y + 1 == desc.height {
                for sums in &mut self.sums {
                    done(total(sums));
                    *sums = [[0; PAIRS]; 2];
                }
            }
        }
    }
}
