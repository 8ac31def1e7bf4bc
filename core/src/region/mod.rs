//! A region that was found: the handle, and the rules that every read of it keeps.
//!
//! A [`Region`] is a small plain value. It remembers where the region is, the last frame that was taken, and the
//! page-table entries that led to the producer page. Those entries are re-read *after* every snapshot and compared: a
//! translation that changed meanwhile makes the snapshot void, so nothing stale is ever returned.

mod control;
mod frame;
mod lines;
mod liveness;
mod reader;
mod sink;

use core::fmt;

pub use control::{ControlIntent, ControlWrite};
pub use frame::{FrameDesc, FrameInfo, FrameScratch, FrameStretch};
pub(crate) use lines::load_wire;
pub use lines::{CursorSnapshot, GeometrySnapshot, StatusSnapshot};
pub use liveness::{Liveness, Pulse};
pub use reader::Reader;
pub use sink::{FrameSink, StreamError};

use crate::abi::{self, producer};
use crate::addr::{Gpa, Gva};
use crate::paging::{AddressSpace, Hardware, NotPresentResolver, PageWalker, Rights, Trail, WalkError, WalkErrorKind};
use crate::phys::{PhysError, PhysRead};
use crate::seqlock::ATTEMPTS;
use crate::structure::DescFault;

/// A found region in the address space of its producer.
///
/// It borrows nothing: the memory is passed to every call. Copying it copies the place and the state; it owns no
/// resource.
///
/// ```
/// use vgpu_perception::region::{FrameScratch, Region, Sample};
/// use vgpu_perception::{AddressSpace, Cr3, Gva, NextUse, PhysRead};
///
/// fn poll(ram: &impl PhysRead, region: &mut Region, scratch: &mut FrameScratch, buffer: &mut [u8]) {
///     match region.sample_frame(ram, scratch, buffer, NextUse::ReadSoon) {
///         Ok(Sample::Fresh(frame)) => { /* buffer[..frame.bytes] is frame.desc.frame_id */ let _ = frame; }
///         Ok(Sample::Skip(reason)) => { /* nothing new, or nothing trustworthy: come back later */ let _ = reason; }
///         Err(error) => { /* the producer's pages are gone: discover again */ let _ = error; }
///     }
/// }
/// # let _: Region = Region::new(AddressSpace::new(Cr3::new(0)), Gva::new(0));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Region<R = Hardware> {
    space: AddressSpace<R>,
    base: Gva,
    last_frame_id: u64,
    run_epoch: u32,
    page: Option<PageAt>,
}

/// The lines of the producer page that a cursor or a poll reads: which slot is the latest, each slot's number, the
/// cursor.
const POLLED: [u64; 3] = [producer::LATEST, producer::DESC + producer::DESC_BYTES, producer::CURSOR];

/// Where the producer page was found, and the entries that said so.
#[derive(Clone, Copy, Debug)]
struct PageAt {
    gpa: Gpa,
    trail: Trail,
}

impl PageAt {
    /// Whether the entries that led to the page are the same now, after all that was read from it.
    #[inline(always)]
    fn still_holds<M: PhysRead>(&self, mem: &M) -> bool {
        mem.fence_acquire();
        self.trail.still_holds(mem) == Ok(true)
    }
}

/// A lossy read: either a consistent snapshot, or a skip that says why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a read may be a skip that gave nothing"]
pub enum Sample<T> {
    /// A consistent snapshot.
    Fresh(T),
    /// Nothing to hand out this time; never an error, and never a reason to wait inside.
    Skip(Skip),
}

impl<T> Sample<T> {
    /// The snapshot, where there is one.
    pub fn fresh(self) -> Option<T> {
        match self {
            Self::Fresh(value) => Some(value),
            Self::Skip(_) => None,
        }
    }
}

/// Why a read gave no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skip {
    /// A write was under way at every try. A number that stays the same means that its writer stopped half-way.
    Busy {
        /// The odd sequence number of the last try.
        seq: u32,
    },
    /// The writer overtook every try.
    Torn {
        /// The sequence number under which the last try began.
        seq: u32,
    },
    /// The guest remapped what was being read at every try.
    Moved,
    /// The guest is sampling who uses the region's first page (NUMA balancing), so that its rights cannot be told now:
    /// try again.
    Sampled,
    /// The producer has published nothing yet.
    NoFrame,
    /// The latest frame was taken already.
    Unchanged {
        /// Its number.
        frame_id: u64,
    },
    /// The latest frame is older than the last one taken: the producer began again at 1 (a new `run_epoch`). The caller
    /// decides whether to [`forget_frames`](Region::forget_frames).
    Older {
        /// The latest frame's number.
        frame_id: u64,
        /// The number of the last frame taken.
        last: u64,
    },
    /// `latest` names no slot.
    BadLatest(u32),
    /// The descriptor, read in a stable window, cannot be.
    BadDescriptor {
        /// The slot.
        slot: u32,
        /// Why.
        fault: DescFault,
    },
    /// The frame is larger than the caller's buffer.
    TooSmall {
        /// Bytes of the frame.
        needed: u64,
        /// Bytes of the buffer.
        capacity: u64,
    },
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Busy { seq } => write!(f, "the producer is writing (sequence number {seq} is odd)"),
            Self::Torn { seq } => write!(f, "the producer overtook every try (last sequence number {seq})"),
            Self::Moved => f.write_str("the guest remapped the region at every try"),
            Self::Sampled => f.write_str("the guest is sampling who uses the region's first page; try again"),
            Self::NoFrame => f.write_str("the producer has published no frame yet"),
            Self::Unchanged { frame_id } => write!(f, "frame {frame_id} was taken already"),
            Self::Older { frame_id, last } => {
                write!(f, "frame {frame_id} is older than {last}, the last one taken: the producer began again")
            }
            Self::BadLatest(latest) => write!(f, "latest {latest:#x} names no slot"),
            Self::BadDescriptor { slot, fault } => write!(f, "descriptor {slot} cannot be: {fault}"),
            Self::TooSmall { needed, capacity } => {
                write!(f, "the frame has {needed} bytes, the buffer {capacity}")
            }
        }
    }
}

/// A part of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The producer page.
    ProducerPage,
    /// The control page.
    ControlPage,
    /// A slot of the ring.
    Slot(u32),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProducerPage => f.write_str("producer page"),
            Self::ControlPage => f.write_str("control page"),
            Self::Slot(slot) => write!(f, "slot {slot}"),
        }
    }
}

/// Guest memory of the region that could not be read. The producer may have ended: discover again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadError {
    /// What was to be read.
    pub part: Part,
    /// Why it could not be.
    pub error: WalkError,
}

impl ReadError {
    /// An error in the producer page of the region at `base`.
    const fn in_page(base: Gva, error: PhysError) -> Self {
        Self { part: Part::ProducerPage, error: WalkErrorKind::Page { error }.at(base) }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the region's {} cannot be read: {}", self.part, self.error)
    }
}

impl core::error::Error for ReadError {}

/// What one try of a snapshot gave.
enum Try<T> {
    Fresh(T),
    /// Final: trying again would give the same.
    Skip(Skip),
    /// A race: worth another try, and the reason if it was the last.
    Again(Skip),
}

/// What can be taken of the producer page at `page`, in one try.
///
/// A trait and not a closure, so that it can ask to be inlined where it is taken: a result that comes out of a call
/// comes out of memory, in pieces that are not those it was stored in, and then every load waits for stores.
trait Snapshot {
    type Of;

    fn take<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        region: &Region<R>,
        mem: &M,
        page: Gpa,
    ) -> Result<Try<Self::Of>, ReadError>;
}

impl<R: NotPresentResolver> Region<R> {
    /// A handle on the region at `base` of `space`. Nothing is read: a handle on nothing gives errors.
    #[must_use]
    pub const fn new(space: AddressSpace<R>, base: Gva) -> Self {
        Self { space, base, last_frame_id: 0, run_epoch: 0, page: None }
    }

    /// The producer's address space.
    #[must_use]
    pub const fn space(&self) -> &AddressSpace<R> {
        &self.space
    }

    /// The region's first address in the producer's address space.
    #[must_use]
    pub const fn base(&self) -> Gva {
        self.base
    }

    /// The number of the last frame taken, or 0.
    #[must_use]
    pub const fn last_frame_id(&self) -> u64 {
        self.last_frame_id
    }

    /// The `run_epoch` of the last [`read_status`](Self::read_status), or 0 before the first.
    #[must_use]
    pub const fn run_epoch(&self) -> u32 {
        self.run_epoch
    }

    /// Starts to fetch what the next cursor, and the next poll that finds nothing new, will read: the entries that led
    /// to the producer page, and the page's lines. Does nothing before the page was found, or where memory has no
    /// [`prefetch`](PhysRead::prefetch).
    ///
    /// Who polls many guests in turn calls this some guests ahead: their cache misses then overlap. Nothing is
    /// remembered and nothing is trusted: the poll reads all of it anew.
    ///
    /// ```
    /// use vgpu_perception::{PhysRead, Region};
    /// fn cursors<M: PhysRead>(guests: &mut [(M, Region)]) {
    ///     const AHEAD: usize = 4;
    ///     for nth in 0..guests.len() {
    ///         if let Some((ram, region)) = guests.get(nth + AHEAD) {
    ///             region.prefetch(ram);
    ///         }
    ///         let (ram, region) = &mut guests[nth];
    ///         let _ = region.read_cursor(ram);
    ///     }
    /// }
    /// ```
    #[inline]
    pub fn prefetch<M: PhysRead>(&self, mem: &M) {
        let Some(page) = &self.page else { return };
        page.trail.prefetch(mem);
        for offset in POLLED {
            mem.prefetch(page.gpa.wrapping_add(offset));
        }
    }

    /// Forgets which frames were taken: the next frame is fresh whatever its number. For a caller that saw the
    /// `run_epoch` advance and decided to begin anew.
    pub const fn forget_frames(&mut self) {
        self.last_frame_id = 0;
    }

    fn walker<'m, M: PhysRead>(&self, mem: &'m M) -> PageWalker<&'m M, R> {
        PageWalker::new(mem, self.space).needing(Rights::USER)
    }

    /// Where `offset` of the region lies.
    fn gva(&self, offset: u64) -> Gva {
        self.base.wrapping_add(offset)
    }

    #[cold]
    #[inline(never)]
    fn walk_to_page<M: PhysRead>(&mut self, mem: &M) -> Result<Gpa, ReadError> {
        let at = self.gva(abi::PRODUCER_OFFSET);
        let (found, trail) =
            self.walker(mem).translate_with_trail(at).map_err(|error| ReadError { part: Part::ProducerPage, error })?;
        self.page = Some(PageAt { gpa: found.gpa, trail });
        Ok(found.gpa)
    }

    /// Whether the region's first page still lies at `gpa`. What was read from there is void if not.
    #[inline(always)]
    fn is_still_at<M: PhysRead>(&mut self, mem: &M, gpa: Gpa) -> bool {
        let Some(page) = &self.page else { return false };
        let holds = page.still_holds(mem)
            // A page that was found through an absent entry is decided by more than the entries: walk again.
            && (page.trail.is_complete() || self.walk_to_page(mem) == Ok(gpa));
        if !holds {
            self.page = None;
        }
        holds
    }

    /// Tries a snapshot of the producer page up to [`ATTEMPTS`] times; each try ends with the check that the page did
    /// not move, and counts for nothing if it did.
    ///
    /// The first try is the fast path: it takes a page that was found before, and gives what is final at once. Whatever
    /// else comes of it is left to [`attempt_again`](Self::attempt_again), so that it keeps nothing for later tries.
    #[inline(always)]
    fn attempt<M: PhysRead, S: Snapshot>(&mut self, mem: &M, snapshot: &mut S) -> Result<Sample<S::Of>, ReadError> {
        let mut tries = ATTEMPTS;
        if let Some(PageAt { gpa, .. }) = self.page {
            let got = snapshot.take(self, mem, gpa);
            if self.is_still_at(mem, gpa) {
                match got {
                    Ok(Try::Fresh(value)) => return Ok(Sample::Fresh(value)),
                    Ok(Try::Skip(skip)) => return Ok(Sample::Skip(skip)),
                    Ok(Try::Again(_)) | Err(_) => {}
                }
            }
            tries = tries.wrapping_sub(1);
        }
        self.attempt_again(mem, tries, snapshot)
    }

    /// [`attempt`](Self::attempt) for what is small: nothing of a first try that gave no snapshot is kept, so that one
    /// that did needs no memory for it.
    #[inline(always)]
    fn attempt_small<M: PhysRead, S: Snapshot>(
        &mut self,
        mem: &M,
        snapshot: &mut S,
    ) -> Result<Sample<S::Of>, ReadError> {
        match self.at_once(mem, snapshot) {
            Some(value) => Ok(Sample::Fresh(value)),
            None => {
                let tried = self.page.as_ref().is_some_and(|page| page.trail.is_complete());
                self.attempt_again(mem, ATTEMPTS.wrapping_sub(u32::from(tried)), snapshot)
            }
        }
    }

    /// The first try of a snapshot, where the page was found before and its entries alone decide where it lies. `None`
    /// says nothing about the guest.
    #[inline(always)]
    fn at_once<M: PhysRead, S: Snapshot>(&self, mem: &M, snapshot: &mut S) -> Option<S::Of> {
        let Some(page) = &self.page else { return None };
        if !page.trail.is_complete() {
            return None;
        }
        let Ok(Try::Fresh(value)) = snapshot.take(self, mem, page.gpa) else { return None };
        page.still_holds(mem).then_some(value)
    }

    #[cold]
    #[inline(never)]
    fn attempt_again<M: PhysRead, S: Snapshot>(
        &mut self,
        mem: &M,
        tries: u32,
        snapshot: &mut S,
    ) -> Result<Sample<S::Of>, ReadError> {
        let mut reason = Skip::Moved;
        for _ in 0..tries {
            let page = match &self.page {
                Some(page) => page.gpa,
                None => match self.walk_to_page(mem) {
                    Ok(page) => page,
                    Err(ReadError { error: WalkError { kind: WalkErrorKind::RightsUnknown { .. }, .. }, .. }) => {
                        return Ok(Sample::Skip(Skip::Sampled));
                    }
                    Err(error) => return Err(error),
                },
            };
            let got = snapshot.take(self, mem, page);
            if !self.is_still_at(mem, page) {
                reason = Skip::Moved;
                continue;
            }
            match got? {
                Try::Fresh(value) => return Ok(Sample::Fresh(value)),
                Try::Skip(skip) => return Ok(Sample::Skip(skip)),
                Try::Again(why) => reason = why,
            }
        }
        Ok(Sample::Skip(reason))
    }
}
