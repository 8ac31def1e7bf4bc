//! Why a read gave nothing, as C takes it.

use vgpu_perception::region::Skip;

/// `VGPUX_SKIP_*`.
pub(crate) mod reason {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const BUSY: u32 = 1;
    pub(crate) const TORN: u32 = 2;
    pub(crate) const MOVED: u32 = 3;
    pub(crate) const NO_FRAME: u32 = 4;
    pub(crate) const UNCHANGED: u32 = 5;
    pub(crate) const OLDER: u32 = 6;
    pub(crate) const BAD_LATEST: u32 = 7;
    pub(crate) const BAD_DESCRIPTOR: u32 = 8;
    pub(crate) const TOO_SMALL: u32 = 9;
    pub(crate) const BUSY_HANDLE: u32 = 10;
    pub(crate) const SAMPLED: u32 = 11;
    pub(crate) const OTHER: u32 = 99;
}

/// `vgpux_skip`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SkipC {
    pub(crate) reason: u32,
    pub(crate) seq: u32,
    pub(crate) slot: u32,
    pub(crate) reserved: u32,
    pub(crate) needed: u64,
    pub(crate) capacity: u64,
    pub(crate) frame_id: u64,
    pub(crate) last: u64,
}

impl SkipC {
    pub(crate) const NONE: Self =
        Self { reason: reason::NONE, seq: 0, slot: 0, reserved: 0, needed: 0, capacity: 0, frame_id: 0, last: 0 };
    /// Another call on the handle is taking a frame.
    pub(crate) const BUSY_HANDLE: Self = Self { reason: reason::BUSY_HANDLE, ..Self::NONE };

    #[cold]
    pub(crate) const fn of(skip: Skip) -> Self {
        let none = Self::NONE;
        match skip {
            Skip::Busy { seq } => Self { reason: reason::BUSY, seq, ..none },
            Skip::Torn { seq } => Self { reason: reason::TORN, seq, ..none },
            Skip::Moved => Self { reason: reason::MOVED, ..none },
            Skip::Sampled => Self { reason: reason::SAMPLED, ..none },
            Skip::NoFrame => Self { reason: reason::NO_FRAME, ..none },
            Skip::Unchanged { frame_id } => Self { reason: reason::UNCHANGED, frame_id, ..none },
            Skip::Older { frame_id, last } => Self { reason: reason::OLDER, frame_id, last, ..none },
            Skip::BadLatest(slot) => Self { reason: reason::BAD_LATEST, slot, ..none },
            Skip::BadDescriptor { slot, .. } => Self { reason: reason::BAD_DESCRIPTOR, slot, ..none },
            Skip::TooSmall { needed, capacity } => Self { reason: reason::TOO_SMALL, needed, capacity, ..none },
            _ => Self { reason: reason::OTHER, ..none },
        }
    }
}
