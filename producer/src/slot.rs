//! One frame, from the odd number to `latest`.

use core::fmt;
use core::mem::offset_of;

use vgpu_perception::abi::{self, Format, producer};

use crate::producer::{Producer, odd_after, status};
use crate::write::RegionWrite;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Pixels a row, 1 to [`abi::MAX_WIDTH`].
    pub width: u32,
    /// Rows, 1 to [`abi::MAX_HEIGHT`].
    pub height: u32,
    /// When it was captured, in nanoseconds of this machine's monotonic clock.
    pub timestamp_ns: u64,
}

/// A frame that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The size is 0 or larger than a slot's.
    Size {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The pixels are not as many as the size says.
    Pixels {
        /// Bytes that the size asks for.
        need: u64,
        /// Bytes that were given.
        have: usize,
    },
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most_w, most_h) = (abi::MAX_WIDTH, abi::MAX_HEIGHT);
        match self {
            Self::Size { width, height } => {
                write!(f, "a frame of {width} x {height} pixels is not between 1 x 1 and {most_w} x {most_h}")
            }
            Self::Pixels { need, have } => write!(f, "the frame takes {need} bytes, {have} were given"),
        }
    }
}

impl core::error::Error for BadFrame {}

impl FrameMeta {
    /// Bytes a row.
    ///
    /// # Errors
    /// [`BadFrame::Size`] where the size cannot be.
    pub fn stride(&self) -> Result<u64, BadFrame> {
        let (width, height) = (self.width, self.height);
        if (1..=abi::MAX_WIDTH).contains(&width) && (1..=abi::MAX_HEIGHT).contains(&height) {
            Ok(u64::from(width) * u64::from(abi::BYTES_PER_PIXEL))
        } else {
            Err(BadFrame::Size { width, height })
        }
    }

    pub(crate) fn check_len(&self, have: usize) -> Result<(), BadFrame> {
        let need = self.stride()?.wrapping_mul(u64::from(self.height));
        if need == have as u64 { Ok(()) } else { Err(BadFrame::Pixels { need, have }) }
    }
}

/// A frame that is being written. Dropped before [`finish`](Self::finish), its slot stays as a writer leaves it that
/// stops half-way: the number odd, and `latest` elsewhere. The next frame takes the same slot.
#[derive(Debug)]
#[must_use = "a frame that is not finished leaves its slot half written"]
pub struct SlotWrite<'p, W> {
    producer: &'p mut Producer<W>,
    meta: FrameMeta,
    slot: u32,
    odd: u32,
    seq_at: u64,
    ring_at: u64,
}

impl<'p, W: RegionWrite> SlotWrite<'p, W> {
    pub(crate) fn begin(producer: &'p mut Producer<W>, meta: &FrameMeta) -> Result<Self, BadFrame> {
        let stride = meta.width.wrapping_mul(abi::BYTES_PER_PIXEL);
        meta.stride()?;
        // The one after the last: the oldest, which readers have left longest ago, and never the latest.
        let slot = producer.last_slot.wrapping_add(1) % abi::SLOT_COUNT;
        let bad = BadFrame::Size { width: meta.width, height: meta.height };
        let seq_at = producer::seq(slot).ok_or(bad)?;
        let desc_at = producer::desc(slot).ok_or(bad)?;
        let ring_at = abi::slot_offset(slot).ok_or(bad)?;
        let number = producer.seq.get_mut(slot as usize).ok_or(bad)?;
        let odd = odd_after(*number);
        *number = odd;

        let region = &producer.region;
        region.store_u32(seq_at, odd);
        region.fence_release();
        let field = |field: usize| desc_at + field as u64;
        region.store_u32(field(offset_of!(abi::Desc, width)), meta.width);
        region.store_u32(field(offset_of!(abi::Desc, height)), meta.height);
        region.store_u32(field(offset_of!(abi::Desc, stride)), stride);
        region.store_u32(field(offset_of!(abi::Desc, format)), Format::BGRA8888.0);
        region.store_u64(field(offset_of!(abi::Desc, frame_id)), producer.frame_id.wrapping_add(1));
        region.store_u64(field(offset_of!(abi::Desc, timestamp_ns)), meta.timestamp_ns);
        Ok(Self { producer, meta: *meta, slot, odd, seq_at, ring_at })
    }

    /// The slot that is written.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// The number that the frame will have.
    #[must_use]
    pub const fn frame_id(&self) -> u64 {
        self.producer.frame_id.wrapping_add(1)
    }

    /// Stores pixels from byte `offset` of the frame on: whole pixels, cut at the end of the slot.
    pub fn bytes(&self, offset: u64, pixels: &[u8]) {
        let room = usize::try_from(abi::SLOT_STRIDE.saturating_sub(offset)).unwrap_or(usize::MAX);
        let inside = pixels.get(..room).unwrap_or(pixels);
        if !inside.is_empty() {
            self.producer.region.store_bytes(self.ring_at.wrapping_add(offset), inside);
        }
    }

    /// Beats the heart in the middle of a long write.
    pub fn beat(&mut self) {
        self.producer.beat();
    }

    /// Ends the write and makes the frame the latest. Returns its `frame_id`.
    #[expect(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn finish(self) -> u64 {
        let frame_id = self.frame_id();
        let even = self.odd.wrapping_add(1);
        let Self { producer, meta, slot, seq_at, .. } = self;
        if let Some(number) = producer.seq.get_mut(slot as usize) {
            *number = even;
        }
        producer.last_slot = slot;
        producer.frame_id = frame_id;
        let region = &producer.region;
        region.store_release_u32(seq_at, even);
        region.store_release_u64(producer::FRAME_ID, frame_id);
        region.store_release_u32(producer::LATEST, slot);
        region.store_u64(status(offset_of!(abi::Status, content_change_ns)), meta.timestamp_ns);
        frame_id
    }
}
