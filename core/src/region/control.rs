//! The control block as the caller wants it: built here, written elsewhere. Nothing in this crate can write guest
//! memory.

use super::Region;
use crate::abi::{self, Command};
use crate::addr::{Cr3, Gva};
use crate::paging::NotPresentResolver;

/// What the caller wants of the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlIntent {
    /// What it should do.
    pub desired_state: Command,
    /// Frames a second; 0 leaves it to the producer.
    pub target_fps: u32,
    /// Whether to draw the cursor into the frame.
    pub draw_cursor: bool,
    /// Edge counter: a value other than the previous one asks for a full frame.
    pub full_frame_req: u32,
}

/// A control block that is ready to be written, by a component that has read-write access to the region.
///
/// The writer stores `image[offset .. offset + len]` at `gva + offset` in the address space at `root`, between the two
/// steps of `ctrl_gen`, which it owns: the image's `ctrl_gen` is 0 and lies outside the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlWrite {
    /// The whole block.
    pub image: abi::Control,
    /// Where the block lies, in the producer's address space.
    pub gva: Gva,
    /// The producer's address space; not the System process's.
    pub root: Cr3,
    /// The first byte of the block that the intent sets.
    pub offset: u32,
    /// How many bytes it sets.
    pub len: u32,
}

impl<R: NotPresentResolver> Region<R> {
    /// Builds the control block for `intent`. Reads and writes no guest memory.
    #[must_use]
    pub fn build_control_write(&self, intent: &ControlIntent) -> ControlWrite {
        let image = abi::Control {
            desired_state: intent.desired_state.0.into(),
            target_fps: intent.target_fps.into(),
            draw_cursor: u32::from(intent.draw_cursor).into(),
            full_frame_req: intent.full_frame_req.into(),
            ..abi::Control::default()
        };
        ControlWrite {
            image,
            gva: self.gva(abi::CONTROL_OFFSET),
            root: self.space().root,
            offset: abi::INTENT_OFFSET,
            len: abi::INTENT_LEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::AddressSpace;

    #[test]
    fn an_intent_fills_its_range_and_nothing_else() {
        let region = Region::new(AddressSpace::new(Cr3::new(0x5000)), Gva::new(0x7f00_0000_0000));
        let write = region.build_control_write(&ControlIntent {
            desired_state: Command::PAUSE,
            target_fps: 0x1122_3344,
            draw_cursor: true,
            full_frame_req: 9,
        });
        assert_eq!((write.offset, write.len), (4, 16));
        assert_eq!(write.gva, Gva::new(0x7f00_0000_1000));
        assert_eq!(write.root, Cr3::new(0x5000));
        let mut expected = [0_u8; 64];
        expected[4..20].copy_from_slice(&[2, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 1, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(write.image.as_bytes(), expected);
    }
}
