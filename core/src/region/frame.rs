//! Frames: from `latest` to the bytes of a slot, consistent under the slot's seqlock and under its translations.

use super::lines::{load_line, wire};
use super::{Part, ReadError, Region, Sample, Skip, Snapshot, Try};
use crate::abi::{self, Desc, Format, producer};
use crate::addr::Gpa;
use crate::paging::{NotPresentResolver, RunList, WalkErrorKind};
use crate::phys::{CopyOptions, PhysError, PhysErrorKind, PhysRead, PhysRun, Window};
use crate::seqlock::{Begin, ReadSection};
use crate::structure::check_desc;

/// Runs of pages that are translated, copied and re-validated at a time: one leaf table's worth of scattered pages, or
/// a whole frame whose pages lie together. Every stop costs: the copy runs dry, and begins again with misses.
const STRETCH_RUNS: usize = 512;

/// What a copy that the caller ended gives.
const CANCELLED: PhysError = PhysError::new(Gpa::new(0), PhysErrorKind::Cancelled);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameDesc {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes a row.
    pub stride: u32,
    /// How a pixel is stored.
    pub format: Format,
    /// Its number in the producer's session, from 1.
    pub frame_id: u64,
    /// When it was captured, in nanoseconds of the guest's monotonic clock: never compare it with a host clock.
    pub timestamp_ns: u64,
}

/// A frame that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// What it is.
    pub desc: FrameDesc,
    /// Its bytes: `height * stride`, without gaps.
    pub bytes: usize,
    /// Frames that were published since the last one taken and never seen; 0 for the first.
    pub missed: u64,
}

/// A stretch of a frame where it lies: up to 512 runs of physical memory, in the order of the frame's bytes.
///
/// Made for each call of a visitor, and gone after it: nothing of it can be kept, since the guest may take the pages
/// back.
#[derive(Debug)]
pub struct FrameStretch<'v, M> {
    mem: &'v M,
    runs: &'v [PhysRun],
    desc: &'v FrameDesc,
    offset: u64,
    len: u64,
}

impl<'v, M: PhysRead> FrameStretch<'v, M> {
    /// What the frame is.
    #[must_use]
    pub const fn desc(&self) -> &'v FrameDesc {
        self.desc
    }

    /// Where in the frame the stretch begins, in bytes. 0 begins a try: what was made of an earlier one is void.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes of the stretch.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the stretch has no bytes. No stretch that a visitor is shown is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The physical runs that hold the stretch, in order.
    #[must_use]
    pub const fn runs(&self) -> &'v [PhysRun] {
        self.runs
    }

    /// The memory that the runs lie in.
    #[must_use]
    pub const fn memory(&self) -> &'v M {
        self.mem
    }

    /// Each run with its window: mapped memory where the backend has such, `None` where it has not.
    pub fn windows(&self) -> impl Iterator<Item = (PhysRun, Option<Window<'v>>)> {
        let mem = self.mem;
        self.runs.iter().map(move |run| {
            let len = usize::try_from(run.len).ok();
            (*run, len.and_then(|len| mem.window(run.gpa, len)))
        })
    }
}

/// A stretch on its way to whoever copies or shows it.
struct Stretch<'s> {
    runs: &'s [PhysRun],
    desc: &'s FrameDesc,
    total: u64,
    offset: u64,
    len: u64,
}

/// Working memory of [`Region::sample_frame`], supplied by the caller: about 8 KiB, reusable, holds no result.
#[derive(Debug, Default)]
pub struct FrameScratch {
    runs: RunList<STRETCH_RUNS>,
}

impl FrameScratch {
    /// Empty scratch memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: RunList::new() }
    }
}

/// A frame that was seen in a stable window and is worth taking.
struct Seen<'m, M> {
    section: ReadSection<'m, M>,
    slot: u32,
    desc: FrameDesc,
    bytes: u64,
}

/// The latest frame, its bytes handed to `deliver`.
struct Latest<'s, F> {
    scratch: &'s mut FrameScratch,
    capacity: u64,
    deliver: &'s mut F,
}

impl<F: FnMut(Stretch<'_>) -> Result<(), PhysError>> Snapshot for Latest<'_, F> {
    type Of = FrameInfo;

    #[inline(always)]
    fn take<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        region: &Region<R>,
        mem: &M,
        page: Gpa,
    ) -> Result<Try<FrameInfo>, ReadError> {
        match region.look_at_latest(mem, page, self.capacity) {
            // Taken apart, so that the result of a poll that finds nothing stays out of memory.
            Ok(Try::Fresh(seen)) => match region.take_seen(mem, self.scratch, &seen, self.deliver)? {
                Try::Fresh(frame) => Ok(Try::Fresh(frame)),
                Try::Skip(skip) => Ok(Try::Skip(skip)),
                Try::Again(why) => Ok(Try::Again(why)),
            },
            Ok(Try::Skip(skip)) => Ok(Try::Skip(skip)),
            Ok(Try::Again(why)) => Ok(Try::Again(why)),
            Err(error) => Err(ReadError::in_page(region.base, error)),
        }
    }
}

impl<R: NotPresentResolver> Region<R> {
    /// Copies the latest frame into the start of `dst`, if it is newer than the last one taken.
    ///
    /// The number, the descriptor and every byte belong to one publish of the producer, and every page was where the
    /// page tables said before and after its bytes were copied. After a [`Skip::Busy`], [`Skip::Torn`], [`Skip::Moved`]
    /// or an error the contents of `dst` are unspecified; after any other skip nothing was copied.
    ///
    /// A `dst` that begins at a cache line is filled faster.
    ///
    /// # Bound
    /// A look at the latest frame's number, then 8 tries; each reads the frame's bytes once and its page-table entries
    /// twice: two per 4 KiB page, and a walk per 2 MiB, or two where the ring does not begin at a multiple of 2 MiB.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page or a page of the frame cannot be read.
    pub fn sample_frame<M: PhysRead>(
        &mut self,
        mem: &M,
        scratch: &mut FrameScratch,
        dst: &mut [u8],
        copy: impl Into<CopyOptions>,
    ) -> Result<Sample<FrameInfo>, ReadError> {
        let capacity = dst.len() as u64;
        let copy = copy.into();
        let sample = self.take_frame(mem, scratch, capacity, &mut |stretch: Stretch<'_>| {
            let part = usize::try_from(stretch.offset)
                .ok()
                .zip(usize::try_from(stretch.len).ok())
                .and_then(|(offset, len)| dst.get_mut(offset..)?.get_mut(..len));
            match part {
                Some(part) => mem.read_runs(stretch.runs, part, copy.hint(stretch.total)),
                None => Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength)),
            }
        });
        if let Ok(Sample::Fresh(frame)) = &sample
            && let Some(taken) = dst.get(..frame.bytes)
        {
            mem.copied(taken, copy.hint(frame.bytes as u64));
        }
        sample
    }

    /// Shows the latest frame in place, if it is newer than the last one taken: `visit` is called with each
    /// [stretch](FrameStretch) of the frame, in order. Nothing is copied.
    ///
    /// What `visit` did counts only if the result is [`Sample::Fresh`]: the frame may be overwritten while it looks,
    /// and it is called again from offset 0 for every try.
    ///
    /// # Bound
    /// As [`sample_frame`](Self::sample_frame), without its copy.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page or a page of the frame cannot be read, or where `visit` fails.
    pub fn visit_frame<M: PhysRead>(
        &mut self,
        mem: &M,
        scratch: &mut FrameScratch,
        mut visit: impl FnMut(FrameStretch<'_, M>) -> Result<(), PhysError>,
    ) -> Result<Sample<FrameInfo>, ReadError> {
        self.take_frame(mem, scratch, u64::MAX, &mut |stretch: Stretch<'_>| {
            let Stretch { runs, desc, offset, len, .. } = stretch;
            visit(FrameStretch { mem, runs, desc, offset, len })
        })
    }

    fn take_frame<M: PhysRead>(
        &mut self,
        mem: &M,
        scratch: &mut FrameScratch,
        capacity: u64,
        deliver: &mut impl FnMut(Stretch<'_>) -> Result<(), PhysError>,
    ) -> Result<Sample<FrameInfo>, ReadError> {
        if let Some(frame_id) = self.taken_already(mem) {
            return Ok(Sample::Skip(Skip::Unchanged { frame_id }));
        }
        let sample = self.attempt(mem, &mut Latest { scratch, capacity, deliver });
        if let Ok(Sample::Fresh(frame)) = &sample {
            self.last_frame_id = frame.desc.frame_id;
        }
        sample
    }

    /// The number of the latest frame, if it is the last one taken: what nearly every poll finds. `None` says nothing
    /// about the guest.
    ///
    /// Two words tell, without the slot's seqlock: numbers only rise, so a slot that still holds this one after it was
    /// named held no newer frame when it was named.
    #[inline(always)]
    fn taken_already<M: PhysRead>(&self, mem: &M) -> Option<u64> {
        let page = self.page.as_ref().filter(|page| page.trail.is_complete() && self.last_frame_id != 0)?;
        let slot = mem.load_u32(page.gpa.wrapping_add(producer::LATEST)).ok()?;
        // What `latest` names was published before it.
        mem.fence_acquire();
        let at = page.gpa.wrapping_add(producer::desc(slot)?).wrapping_add(producer::DESC_FRAME_ID);
        let frame_id = mem.load_u64(at).ok()?;
        (frame_id == self.last_frame_id && page.still_holds(mem)).then_some(frame_id)
    }

    /// Delivers the bytes of a frame that was seen, and says whether they are one frame. Apart from the polls that find
    /// nothing, which are many.
    #[inline(never)]
    fn take_seen<M: PhysRead>(
        &self,
        mem: &M,
        scratch: &mut FrameScratch,
        seen: &Seen<'_, M>,
        deliver: &mut impl FnMut(Stretch<'_>) -> Result<(), PhysError>,
    ) -> Result<Try<FrameInfo>, ReadError> {
        let moved = match self.deliver_slot(mem, scratch, seen, deliver) {
            Ok(moved) => moved,
            // An error counts only if the frame was still the one that was looked for.
            Err(error) => match seen.section.is_unchanged() {
                Ok(false) => return Ok(Try::Again(Skip::Torn { seq: seen.section.seq() })),
                Ok(true) | Err(_) => return Err(error),
            },
        };
        let seq = seen.section.seq();
        let unchanged = seen.section.is_unchanged().map_err(|error| ReadError::in_page(self.base, error))?;
        Ok(match (unchanged, moved) {
            (false, _) => Try::Again(Skip::Torn { seq }),
            (true, true) => Try::Again(Skip::Moved),
            (true, false) => {
                let (desc, last) = (seen.desc, self.last_frame_id);
                let missed = if last == 0 { 0 } else { desc.frame_id.wrapping_sub(last).saturating_sub(1) };
                Try::Fresh(FrameInfo { desc, bytes: usize::try_from(seen.bytes).unwrap_or(usize::MAX), missed })
            }
        })
    }

    /// From `latest` to a descriptor that is worth following. A verdict is given only on a stable window.
    #[inline(always)]
    fn look_at_latest<'m, M: PhysRead>(
        &self,
        mem: &'m M,
        page: Gpa,
        capacity: u64,
    ) -> Result<Try<Seen<'m, M>>, PhysError> {
        let slot = mem.load_u32(page.wrapping_add(producer::LATEST))?;
        // What `latest` names was published before it: nothing of the slot may be read ahead of it.
        mem.fence_acquire();
        if slot == abi::LATEST_NONE {
            return Ok(Try::Skip(Skip::NoFrame));
        }
        let (Some(seq_at), Some(desc_at)) = (producer::seq(slot), producer::desc(slot)) else {
            return Ok(Try::Skip(Skip::BadLatest(slot)));
        };
        let section = match ReadSection::begin(mem, page.wrapping_add(seq_at))? {
            Begin::Open(section) => section,
            Begin::Busy { seq } => return Ok(Try::Again(Skip::Busy { seq })),
        };
        let words = load_line::<M, 4>(mem, page.wrapping_add(desc_at))?;
        let desc: Desc = wire(&words);
        match self.judge(&desc, slot, capacity) {
            Ok(bytes) => {
                let desc = FrameDesc {
                    width: desc.width.get(),
                    height: desc.height.get(),
                    stride: desc.stride.get(),
                    format: Format(desc.format.get()),
                    frame_id: desc.frame_id.get(),
                    timestamp_ns: desc.timestamp_ns.get(),
                };
                Ok(Try::Fresh(Seen { section, slot, desc, bytes }))
            }
            Err(_) if !section.is_unchanged()? => Ok(Try::Again(Skip::Torn { seq: section.seq() })),
            Err(skip) => Ok(Try::Skip(skip)),
        }
    }

    fn judge(&self, desc: &Desc, slot: u32, capacity: u64) -> Result<u64, Skip> {
        let needed = check_desc(desc).map_err(|fault| Skip::BadDescriptor { slot, fault })?;
        let (frame_id, last) = (desc.frame_id.get(), self.last_frame_id);
        if frame_id == last {
            return Err(Skip::Unchanged { frame_id });
        }
        if frame_id < last {
            return Err(Skip::Older { frame_id, last });
        }
        if needed > capacity { Err(Skip::TooSmall { needed, capacity }) } else { Ok(needed) }
    }

    /// Delivers the slot's bytes stretch by stretch. Returns whether a page moved meanwhile.
    fn deliver_slot<M: PhysRead>(
        &self,
        mem: &M,
        scratch: &mut FrameScratch,
        seen: &Seen<'_, M>,
        deliver: &mut impl FnMut(Stretch<'_>) -> Result<(), PhysError>,
    ) -> Result<bool, ReadError> {
        let part = Part::Slot(seen.slot);
        let start = self.gva(abi::slot_offset(seen.slot).unwrap_or(abi::RING_OFFSET));
        // What the guest samples of the ring is read all the same: rights that are not known disqualify nothing there.
        let walker = self.walker(mem).taking_unknown_rights();
        let mut done = 0_u64;
        while done < seen.bytes {
            if mem.is_cancelled() {
                return Err(ReadError { part, error: WalkErrorKind::Page { error: CANCELLED }.at(start) });
            }
            let at = start.wrapping_add(done);
            let want = seen.bytes.wrapping_sub(done);
            let len = walker.runs(at, want, &mut scratch.runs).map_err(|error| ReadError { part, error })?;
            deliver(Stretch { runs: &scratch.runs, desc: &seen.desc, total: seen.bytes, offset: done, len })
                .map_err(|error| ReadError { part, error: WalkErrorKind::Page { error }.at(at) })?;
            mem.fence_acquire();
            // The same entries again: bytes copied from a page that left meanwhile are not the region's.
            if !walker.still_in(at, len, &scratch.runs) {
                return Ok(true);
            }
            done = done.wrapping_add(len);
        }
        Ok(false)
    }
}
