//! Snapshots of the small lines: cursor, geometry, lifecycle.

use core::marker::PhantomData;

use zerocopy::{FromBytes, IntoBytes};

use super::{ReadError, Region, Sample, Skip, Snapshot, Try};
use crate::abi::{self, Backend, CursorId, State, producer};
use crate::addr::Gpa;
use crate::paging::NotPresentResolver;
use crate::phys::{PhysError, PhysRead};
use crate::seqlock::{Begin, ReadSection};

/// The cursor, consistent under its seqlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorSnapshot {
    /// The sequence number of this snapshot: tells an idle cursor from a producer that stopped reporting.
    pub seq: u32,
    /// Whether it is shown.
    pub visible: bool,
    /// Hot spot on the virtual desktop, in pixels; may be negative.
    pub x: i32,
    /// Hot spot on the virtual desktop, in pixels; may be negative.
    pub y: i32,
    /// Hot spot in the glyph, in pixels.
    pub hot_x: u16,
    /// Hot spot in the glyph, in pixels.
    pub hot_y: u16,
    /// Width of the glyph, in pixels.
    pub glyph_w: u16,
    /// Height of the glyph, in pixels.
    pub glyph_h: u16,
    /// Its shape.
    pub id: CursorId,
}

/// The geometry of the display, consistent under its seqlock. Lengths are in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeometrySnapshot {
    /// Left edge of the virtual desktop.
    pub virt_x: i32,
    /// Top edge of the virtual desktop.
    pub virt_y: i32,
    /// Width of the virtual desktop.
    pub virt_w: u32,
    /// Height of the virtual desktop.
    pub virt_h: u32,
    /// Left edge of what is captured, on the virtual desktop.
    pub cap_x: i32,
    /// Top edge of what is captured, on the virtual desktop.
    pub cap_y: i32,
    /// Dots an inch.
    pub dpi: u32,
    /// Refresh rate in millihertz.
    pub refresh_mhz: u32,
}

/// The lifecycle line: every field is whole, but they are not of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// Ticks at least every [`abi::HEARTBEAT_PERIOD_MS`] while the producer lives.
    pub heartbeat: u64,
    /// Advances at a session break.
    pub run_epoch: u32,
    /// What the producer is doing.
    pub status: State,
    /// How it captures.
    pub backend: Backend,
    /// Its own error number.
    pub error_code: u32,
    /// Frames a second that it aims at.
    pub applied_fps: u32,
    /// Bit n: format n can be produced.
    pub supported_formats: u32,
    /// The last control generation that it obeyed.
    pub ctrl_ack: u32,
    /// The last full-frame request that it obeyed.
    pub full_frame_ack: u32,
    /// When the content last changed, in nanoseconds of the guest's monotonic clock: never compare it with a host
    /// clock.
    pub content_change_ns: u64,
}

/// Loads `WORDS` aligned words at `gpa` as the start of a wire struct; what lies beyond them stays zero.
#[inline(always)]
pub(crate) fn load_wire<M: PhysRead, T: FromBytes + IntoBytes, const WORDS: usize>(
    mem: &M,
    gpa: Gpa,
) -> Result<T, PhysError> {
    load_line::<M, WORDS>(mem, gpa).map(|words| wire(&words))
}

#[inline(always)]
pub(super) fn load_line<M: PhysRead, const WORDS: usize>(mem: &M, gpa: Gpa) -> Result<[u64; WORDS], PhysError> {
    let mut words = [0_u64; WORDS];
    mem.load_words(gpa, &mut words)?;
    Ok(words)
}

/// The fields of words. Words travel as words up to here: a wire struct that is moved about is moved in pieces that are
/// not those it was stored in, and then every load waits for stores.
#[inline(always)]
pub(super) fn wire<T: FromBytes + IntoBytes>(words: &[u64]) -> T {
    let mut wire = T::new_zeroed();
    for (to, word) in wire.as_mut_bytes().chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    wire
}

/// A line that starts with its sequence number.
trait Line: FromBytes + IntoBytes {
    type Snapshot;

    /// Where the line lies in the producer page.
    const OFFSET: u64;

    fn snapshot(&self, seq: u32) -> Self::Snapshot;
}

impl Line for abi::Cursor {
    type Snapshot = CursorSnapshot;

    const OFFSET: u64 = producer::CURSOR;

    #[inline(always)]
    fn snapshot(&self, seq: u32) -> CursorSnapshot {
        let (x, y) = halves_u32(self.pos.get());
        let (hot_x, hot_y) = halves_u16(self.hotspot.get());
        let (glyph_w, glyph_h) = halves_u16(self.glyph.get());
        CursorSnapshot {
            seq,
            visible: self.visible.get() != 0,
            x: x.cast_signed(),
            y: y.cast_signed(),
            hot_x,
            hot_y,
            glyph_w,
            glyph_h,
            id: CursorId(self.id.get()),
        }
    }
}

impl Line for abi::Geometry {
    type Snapshot = GeometrySnapshot;

    const OFFSET: u64 = producer::GEOMETRY;

    #[inline(always)]
    fn snapshot(&self, _seq: u32) -> GeometrySnapshot {
        GeometrySnapshot {
            virt_x: self.virt_x.get(),
            virt_y: self.virt_y.get(),
            virt_w: self.virt_w.get(),
            virt_h: self.virt_h.get(),
            cap_x: self.cap_x.get(),
            cap_y: self.cap_y.get(),
            dpi: self.dpi.get(),
            refresh_mhz: self.refresh_mhz.get(),
        }
    }
}

/// The first `WORDS` words of a line, under its seqlock.
struct Locked<T, const WORDS: usize>(PhantomData<T>);

impl<T: Line, const WORDS: usize> Locked<T, WORDS> {
    #[inline(always)]
    fn once<M: PhysRead>(mem: &M, at: Gpa) -> Result<Try<T::Snapshot>, PhysError> {
        let section = match ReadSection::begin(mem, at)? {
            Begin::Open(section) => section,
            Begin::Busy { seq } => return Ok(Try::Again(Skip::Busy { seq })),
        };
        let words = load_line::<M, WORDS>(mem, at)?;
        let seq = section.seq();
        Ok(if section.is_unchanged()? {
            Try::Fresh(wire::<T>(&words).snapshot(seq))
        } else {
            Try::Again(Skip::Torn { seq })
        })
    }
}

impl<T: Line, const WORDS: usize> Snapshot for Locked<T, WORDS> {
    type Of = T::Snapshot;

    #[inline(always)]
    fn take<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        region: &Region<R>,
        mem: &M,
        page: Gpa,
    ) -> Result<Try<T::Snapshot>, ReadError> {
        Self::once(mem, page.wrapping_add(T::OFFSET)).map_err(|error| ReadError::in_page(region.base, error))
    }
}

/// The lifecycle line.
struct Lifecycle;

impl Snapshot for Lifecycle {
    type Of = StatusSnapshot;

    #[inline(always)]
    fn take<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        region: &Region<R>,
        mem: &M,
        page: Gpa,
    ) -> Result<Try<StatusSnapshot>, ReadError> {
        let words = load_line::<M, 6>(mem, page.wrapping_add(producer::STATUS))
            .map_err(|error| ReadError::in_page(region.base, error))?;
        let line: abi::Status = wire(&words);
        Ok(Try::Fresh(StatusSnapshot {
            heartbeat: line.heartbeat.get(),
            run_epoch: line.run_epoch.get(),
            status: State(line.status.get()),
            backend: Backend(line.backend.get()),
            error_code: line.error_code.get(),
            applied_fps: line.applied_fps.get(),
            supported_formats: line.supported_formats.get(),
            ctrl_ack: line.ctrl_ack.get(),
            full_frame_ack: line.full_frame_ack.get(),
            content_change_ns: line.content_change_ns.get(),
        }))
    }
}

impl<R: NotPresentResolver> Region<R> {
    /// Reads the cursor.
    ///
    /// # Bound
    /// 8 tries of at most 16 loads and one walk each.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn read_cursor<M: PhysRead>(&mut self, mem: &M) -> Result<Sample<CursorSnapshot>, ReadError> {
        self.attempt_small(mem, &mut Locked::<abi::Cursor, 4>(PhantomData))
    }

    /// The cursor, where the first try of [`read_cursor`](Self::read_cursor) gives it: half a read, for callers that
    /// have the other half elsewhere.
    #[doc(hidden)]
    #[inline(always)]
    pub fn cursor_at_once<M: PhysRead>(&self, mem: &M) -> Option<CursorSnapshot> {
        self.at_once(mem, &mut Locked::<abi::Cursor, 4>(PhantomData))
    }

    /// Reads the geometry.
    ///
    /// # Bound
    /// 8 tries of at most 17 loads and one walk each.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn read_geometry<M: PhysRead>(&mut self, mem: &M) -> Result<Sample<GeometrySnapshot>, ReadError> {
        self.attempt_small(mem, &mut Locked::<abi::Geometry, 5>(PhantomData))
    }

    /// As [`cursor_at_once`](Self::cursor_at_once).
    #[doc(hidden)]
    #[inline(always)]
    pub fn geometry_at_once<M: PhysRead>(&self, mem: &M) -> Option<GeometrySnapshot> {
        self.at_once(mem, &mut Locked::<abi::Geometry, 5>(PhantomData))
    }

    /// Reads the lifecycle line and remembers its `run_epoch`.
    ///
    /// Each field is one load: whole, and no older than the call; they need not be of one moment. The only skip is
    /// [`Skip::Moved`].
    ///
    /// # Bound
    /// 8 tries of at most 11 loads and one walk each.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn read_status<M: PhysRead>(&mut self, mem: &M) -> Result<Sample<StatusSnapshot>, ReadError> {
        let sample = self.attempt_small(mem, &mut Lifecycle);
        if let Ok(Sample::Fresh(status)) = &sample {
            self.run_epoch = status.run_epoch;
        }
        sample
    }

    /// As [`cursor_at_once`](Self::cursor_at_once); remembers nothing.
    #[doc(hidden)]
    #[inline(always)]
    pub fn status_at_once<M: PhysRead>(&self, mem: &M) -> Option<StatusSnapshot> {
        self.at_once(mem, &mut Lifecycle)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
const fn halves_u32(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
const fn halves_u16(word: u32) -> (u16, u16) {
    (word as u16, (word >> 16) as u16)
}
