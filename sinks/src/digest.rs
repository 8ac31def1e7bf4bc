//! One number of a whole frame.

use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};

use crate::Refusal;
use crate::hash::{Key, State};
use crate::nh::Tiles;

/// A digest of 64 bits of a frame's pixels and size.
///
/// Equal frames have equal digests under one key. Others have the same by a chance of about 2^-64 where the guest does
/// not know the key; it is no cryptographic hash.
#[derive(Debug)]
pub struct Digest {
    tiles: Tiles,
    /// Tiles are hashed, and the hashes of tiles in turn.
    key: Key,
    state: State,
    value: Option<u64>,
}

impl Digest {
    /// A digest under a key: any number, the same for digests that are to be compared.
    #[must_use]
    pub fn new(key: u64) -> Self {
        let tiles = Tiles::new(key);
        let key = Key::new(!key);
        Self { tiles, key, state: key.begin(), value: None }
    }

    /// The digest of the last frame; `None` where the last read gave none.
    #[must_use]
    pub const fn value(&self) -> Option<u64> {
        self.value
    }
}

impl FrameSink for Digest {
    type Refusal = Refusal;

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), Refusal> {
        self.state = self.key.begin();
        self.value = None;
        self.state.add(self.key, &desc.width.to_le_bytes());
        self.state.add(self.key, &desc.height.to_le_bytes());
        self.tiles.begin(desc);
        Ok(())
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        self.tiles.rows(desc, first, rows, |sums| {
            self.state.add(self.key, sums.map(u64::to_le_bytes).as_flattened());
        });
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.value = frame.map(|_| self.state.end(self.key));
    }
}
