//! The bytes of a vgpu region: every offset, size and value, and nothing else in the project knows one.
//!
//! The layouts are wire structs: little-endian fields of alignment 1, to be filled from a *copy* of guest memory. They
//! judge nothing; [`crate::structure`] does. The offsets come from the public part of the producer's `vgpu_stream.h`
//! and, where that is silent, from this project's region ABI; a test compares every one with the C header that is
//! shipped.

#![allow(clippy::arithmetic_side_effects, reason = "constant expressions: an overflow here does not compile")]

use core::fmt;
use core::mem::{offset_of, size_of};

use static_assertions::{assert_eq_align, assert_not_impl_any, const_assert, const_assert_eq};
use zerocopy::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the producer page and of the control page.
pub const PAGE: u64 = 4096;
/// Frames in the ring.
pub const SLOT_COUNT: u32 = 3;
/// Bytes from one slot of the ring to the next.
pub const SLOT_STRIDE: u64 = 32 << 20;
/// Where the producer page lies in the region.
pub const PRODUCER_OFFSET: u64 = 0;
/// Where the control page lies in the region.
pub const CONTROL_OFFSET: u64 = PAGE;
/// Where the ring lies in the region.
pub const RING_OFFSET: u64 = 2 << 20;
/// Bytes of the whole region.
pub const REGION_BYTES: u64 = RING_OFFSET + SLOT_COUNT as u64 * SLOT_STRIDE;
/// The widest frame, in pixels.
pub const MAX_WIDTH: u32 = 3840;
/// The highest frame, in pixels.
pub const MAX_HEIGHT: u32 = 2160;
/// Bytes of one pixel of [`Format::BGRA8888`].
pub const BYTES_PER_PIXEL: u32 = 4;
/// The producer's heartbeat ticks at least this often, in milliseconds, whatever its state.
pub const HEARTBEAT_PERIOD_MS: u32 = 250;
/// `latest` before the first frame.
pub const LATEST_NONE: u32 = 0xffff_ffff;
/// Bytes of the largest frame: a buffer of this size holds any.
pub const MAX_FRAME_BYTES: u64 = MAX_WIDTH as u64 * MAX_HEIGHT as u64 * BYTES_PER_PIXEL as u64;
/// The largest `virt_w` and `virt_h` that a region may state, in pixels.
pub const MAX_VIRTUAL: u32 = 65536;
/// The largest `dpi` that a region may state.
pub const MAX_DPI: u32 = 2400;

const_assert_eq!(REGION_BYTES, 98 << 20);
const_assert!(MAX_FRAME_BYTES <= SLOT_STRIDE);

/// The descriptor of a slot, valid under the slot's `seq`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Desc {
    /// Pixels a row.
    pub width: U32,
    /// Rows.
    pub height: U32,
    /// Bytes a row; always `width * 4`.
    pub stride: U32,
    /// A [`Format`].
    pub format: U32,
    /// The producer's `frame_id` when the slot was published.
    pub frame_id: U64,
    /// When the frame was captured, in nanoseconds of the guest's monotonic clock.
    pub timestamp_ns: U64,
}

/// The first line pair of the producer page: the ring's heads and descriptors.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Heads {
    /// The last completed slot, or [`LATEST_NONE`].
    pub latest: U32,
    /// One seqlock a slot, over its descriptor and its bytes in the ring.
    pub seq: [U32; SLOT_COUNT as usize],
    /// The last published frame; 0 before the first.
    pub frame_id: U64,
    /// Not used.
    pub reserved: [u8; 8],
    /// The slots' descriptors; all zero until a slot was first written.
    pub desc: [Desc; SLOT_COUNT as usize],
}

/// The cursor's line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Cursor {
    /// Seqlock of this line.
    pub seq: U32,
    /// 1 where the cursor is shown.
    pub visible: U32,
    /// Hot spot on the virtual desktop: low half x, high half y, each an `i32`.
    pub pos: U64,
    /// Hot spot in the glyph: low half x, high half y.
    pub hotspot: U32,
    /// Size of the glyph: low half width, high half height.
    pub glyph: U32,
    /// A [`CursorId`].
    pub id: U32,
    /// Not used.
    pub reserved: [u8; 36],
}

/// The geometry's line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Geometry {
    /// Seqlock of this line.
    pub seq: U32,
    /// Left edge of the virtual desktop.
    pub virt_x: I32,
    /// Top edge of the virtual desktop.
    pub virt_y: I32,
    /// Width of the virtual desktop.
    pub virt_w: U32,
    /// Height of the virtual desktop.
    pub virt_h: U32,
    /// Left edge of the captured part, on the virtual desktop.
    pub cap_x: I32,
    /// Top edge of the captured part, on the virtual desktop.
    pub cap_y: I32,
    /// Dots an inch.
    pub dpi: U32,
    /// Refresh rate in millihertz.
    pub refresh_mhz: U32,
    /// Not used.
    pub reserved: [u8; 28],
}

/// The lifecycle's line: single atomic fields without a seqlock.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Status {
    /// Ticks at least every [`HEARTBEAT_PERIOD_MS`].
    pub heartbeat: U64,
    /// When the content last changed, in nanoseconds of the guest's monotonic clock.
    pub content_change_ns: U64,
    /// Starts at 1; advances at a session break.
    pub run_epoch: U32,
    /// A [`State`].
    pub status: U32,
    /// A [`Backend`].
    pub backend: U32,
    /// The producer's own error number.
    pub error_code: U32,
    /// Frames a second that the producer aims at.
    pub applied_fps: U32,
    /// Bit n: [`Format`] n can be produced.
    pub supported_formats: U32,
    /// The last `ctrl_gen` that was obeyed.
    pub ctrl_ack: U32,
    /// The last `full_frame_req` that was obeyed.
    pub full_frame_ack: U32,
}

/// The producer page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ProducerPage {
    /// Heads and descriptors.
    pub heads: Heads,
    /// Cursor.
    pub cursor: Cursor,
    /// Geometry.
    pub geometry: Geometry,
    /// Lifecycle.
    pub status: Status,
    /// Not used.
    pub reserved: [u8; 3792],
}

/// The control block at the start of the control page; the host's read-write component owns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Control {
    /// Seqlock of the block, owned by whoever writes it.
    pub ctrl_gen: U32,
    /// A [`Command`].
    pub desired_state: U32,
    /// Frames a second; 0 leaves it to the producer.
    pub target_fps: U32,
    /// 1 to draw the cursor into the frame.
    pub draw_cursor: U32,
    /// Edge counter: bumped to ask for a full frame.
    pub full_frame_req: U32,
    /// Not part of an intent.
    pub attached: U32,
    /// Not part of an intent.
    pub consumer_tick: U64,
    /// Zero.
    pub reserved: [u8; 32],
}

/// Byte offsets in the producer page.
pub mod producer {
    use super::{Cursor, Geometry, Heads, ProducerPage, SLOT_COUNT, Status, offset_of};

    /// `latest`.
    pub const LATEST: u64 = offset_of!(ProducerPage, heads) as u64 + offset_of!(Heads, latest) as u64;
    /// `seq[0]`; the others follow at four bytes.
    pub const SEQ: u64 = offset_of!(Heads, seq) as u64;
    /// `frame_id`.
    pub const FRAME_ID: u64 = offset_of!(Heads, frame_id) as u64;
    /// `desc[0]`; the others follow at [`DESC_BYTES`].
    pub const DESC: u64 = offset_of!(Heads, desc) as u64;
    /// Bytes of one descriptor.
    pub const DESC_BYTES: u64 = size_of::<super::Desc>() as u64;
    /// `frame_id` in a descriptor.
    pub const DESC_FRAME_ID: u64 = offset_of!(super::Desc, frame_id) as u64;
    /// The cursor's line.
    pub const CURSOR: u64 = offset_of!(ProducerPage, cursor) as u64;
    /// `cursor_seq`.
    pub const CURSOR_SEQ: u64 = CURSOR + offset_of!(Cursor, seq) as u64;
    /// The geometry's line.
    pub const GEOMETRY: u64 = offset_of!(ProducerPage, geometry) as u64;
    /// `geom_seq`.
    pub const GEOM_SEQ: u64 = GEOMETRY + offset_of!(Geometry, seq) as u64;
    /// The lifecycle's line.
    pub const STATUS: u64 = offset_of!(ProducerPage, status) as u64;
    /// `heartbeat`.
    pub const HEARTBEAT: u64 = STATUS + offset_of!(Status, heartbeat) as u64;
    /// `run_epoch`.
    pub const RUN_EPOCH: u64 = STATUS + offset_of!(Status, run_epoch) as u64;

    /// `seq[slot]`, or `None` where there is no such slot.
    #[must_use]
    pub const fn seq(slot: u32) -> Option<u64> {
        if slot < SLOT_COUNT { Some(SEQ + 4 * slot as u64) } else { None }
    }

    /// `desc[slot]`, or `None` where there is no such slot.
    #[must_use]
    pub const fn desc(slot: u32) -> Option<u64> {
        if slot < SLOT_COUNT { Some(DESC + DESC_BYTES * slot as u64) } else { None }
    }
}

/// The part of the control block that an intent sets: `desired_state` up to and with `full_frame_req`.
pub const INTENT_OFFSET: u32 = offset_of!(Control, desired_state) as u32;
/// Bytes of that part.
pub const INTENT_LEN: u32 = offset_of!(Control, attached) as u32 - INTENT_OFFSET;

/// Where slot `slot` of the ring starts in the region, or `None` where there is no such slot.
#[must_use]
pub const fn slot_offset(slot: u32) -> Option<u64> {
    if slot < SLOT_COUNT { Some(RING_OFFSET + SLOT_STRIDE * slot as u64) } else { None }
}

const_assert_eq!(size_of::<Desc>(), 32);
const_assert_eq!(offset_of!(Desc, width), 0);
const_assert_eq!(offset_of!(Desc, height), 4);
const_assert_eq!(offset_of!(Desc, stride), 8);
const_assert_eq!(offset_of!(Desc, format), 12);
const_assert_eq!(offset_of!(Desc, frame_id), 16);
const_assert_eq!(offset_of!(Desc, timestamp_ns), 24);

const_assert_eq!(size_of::<ProducerPage>(), PAGE as usize);
const_assert_eq!(producer::LATEST, 0x000);
const_assert_eq!(producer::SEQ, 0x004);
const_assert_eq!(producer::FRAME_ID, 0x010);
const_assert_eq!(offset_of!(Heads, reserved), 0x018);
const_assert_eq!(producer::DESC, 0x020);
const_assert_eq!(size_of::<Heads>(), 0x080);

const_assert_eq!(producer::CURSOR_SEQ, 0x080);
const_assert_eq!(producer::CURSOR as usize + offset_of!(Cursor, visible), 0x084);
const_assert_eq!(producer::CURSOR as usize + offset_of!(Cursor, pos), 0x088);
const_assert_eq!(producer::CURSOR as usize + offset_of!(Cursor, hotspot), 0x090);
const_assert_eq!(producer::CURSOR as usize + offset_of!(Cursor, glyph), 0x094);
const_assert_eq!(producer::CURSOR as usize + offset_of!(Cursor, id), 0x098);
const_assert_eq!(size_of::<Cursor>(), 0x040);

const_assert_eq!(producer::GEOM_SEQ, 0x0c0);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, virt_x), 0x0c4);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, virt_y), 0x0c8);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, virt_w), 0x0cc);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, virt_h), 0x0d0);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, cap_x), 0x0d4);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, cap_y), 0x0d8);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, dpi), 0x0dc);
const_assert_eq!(producer::GEOMETRY as usize + offset_of!(Geometry, refresh_mhz), 0x0e0);
const_assert_eq!(size_of::<Geometry>(), 0x040);

const_assert_eq!(producer::HEARTBEAT, 0x100);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, content_change_ns), 0x108);
const_assert_eq!(producer::RUN_EPOCH, 0x110);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, status), 0x114);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, backend), 0x118);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, error_code), 0x11c);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, applied_fps), 0x120);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, supported_formats), 0x124);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, ctrl_ack), 0x128);
const_assert_eq!(producer::STATUS as usize + offset_of!(Status, full_frame_ack), 0x12c);
const_assert_eq!(size_of::<Status>(), 0x030);

const_assert_eq!(size_of::<Control>(), 0x40);
const_assert_eq!(offset_of!(Control, ctrl_gen), 0x00);
const_assert_eq!(offset_of!(Control, desired_state), 0x04);
const_assert_eq!(offset_of!(Control, target_fps), 0x08);
const_assert_eq!(offset_of!(Control, draw_cursor), 0x0c);
const_assert_eq!(offset_of!(Control, full_frame_req), 0x10);
const_assert_eq!(offset_of!(Control, attached), 0x14);
const_assert_eq!(offset_of!(Control, consumer_tick), 0x18);
const_assert_eq!(INTENT_OFFSET, 0x04);
const_assert_eq!(INTENT_OFFSET + INTENT_LEN, 0x14);

// Wire structs are filled from bytes at any address, and never hold a pointer's worth of meaning.
assert_eq_align!(ProducerPage, Control, Desc, u8);
assert_not_impl_any!(ProducerPage: Drop);

macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $value:ident = $number:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u32);

        impl $name {
            $($(#[$vdoc])* pub const $value: Self = Self($number);)+

            /// The name that the ABI gives this number, where it gives one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$value => Some(stringify!($value)),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

values! {
    /// A pixel format; numbers that this version does not know are kept.
    Format {
        /// Blue, green, red, alpha: one byte each, in this order in memory.
        BGRA8888 = 0,
    }
}

values! {
    /// What the producer is doing; numbers that this version does not know are kept.
    State {
        /// Not capturing yet.
        INIT = 0,
        /// Frames are published.
        CAPTURING = 1,
        /// Held by the consumer.
        PAUSED = 2,
        /// Ended by the consumer.
        STOPPED = 3,
        /// `error_code` says more.
        ERROR = 4,
    }
}

values! {
    /// How the producer captures; numbers that this version does not know are kept.
    Backend {
        /// Not chosen yet.
        NONE = 0,
        /// NVIDIA frame buffer capture.
        NVFBC = 1,
        /// Desktop duplication.
        DDA = 2,
        /// GDI.
        GDI = 3,
    }
}

values! {
    /// What the consumer wants of the producer.
    Command {
        /// Stop.
        STOP = 0,
        /// Capture.
        RUN = 1,
        /// Hold.
        PAUSE = 2,
    }
}

values! {
    /// The shape of the cursor; numbers that this version does not know are kept.
    CursorId {
        /// A shape of the application's own.
        CUSTOM = 0,
        /// Arrow.
        ARROW = 1,
        /// Text.
        IBEAM = 2,
        /// Busy.
        WAIT = 3,
        /// Cross.
        CROSS = 4,
        /// Hand.
        HAND = 5,
        /// Up and down.
        SIZE_NS = 6,
        /// Left and right.
        SIZE_WE = 7,
        /// Falling diagonal.
        SIZE_NWSE = 8,
        /// Rising diagonal.
        SIZE_NESW = 9,
        /// All directions.
        SIZE_ALL = 10,
        /// Not here.
        NO = 11,
        /// Help.
        HELP = 12,
        /// Busy in the background.
        APPSTARTING = 13,
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn unknown_numbers_keep_their_value() {
        assert_eq!(State(9).to_string(), "9");
        assert_eq!(State::ERROR.to_string(), "ERROR");
        assert_eq!(CursorId(77).name(), None);
    }

    #[test]
    fn slots_end_where_the_region_ends() {
        assert_eq!(slot_offset(2).map(|at| at + SLOT_STRIDE), Some(REGION_BYTES));
        assert_eq!(slot_offset(3), None);
        assert_eq!(producer::seq(3), None);
        assert_eq!(producer::desc(2), Some(0x60));
    }
}
