//! What a `vgpup_region` is, and how calls share it.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use vgpu_perception::region::{FrameInfo, FrameScratch, ReadError, Region, Sample};
use vgpu_perception::{NextUse, PhysRead};

use crate::choice::{Place, place};
use crate::failure::Failure;
use crate::ffi::cells::{Latest, TryLock};
#[cfg(feature = "std")]
use crate::ffi::this_thread;
use crate::ffi::{Handle, Object, Thread, with_thread};
use crate::kernel::Paging;
use crate::memory::{Mem, MemHandle};
#[cfg(feature = "std")]
use crate::ram::Ram;
use crate::skip::{SkipC, reason};

/// A `vgpup_region`.
///
/// Snapshots of single lines need nothing of it but its place: each thread keeps for itself where the pages are. Frames
/// need which one was taken last, so one call at a time takes frames.
#[derive(Debug)]
pub(crate) struct RegionState {
    /// As it was bound.
    pub(crate) bound: Region<Paging>,
    mem: MemHandle,
    /// Whose memory it was found in.
    pub(crate) mem_id: u64,
    pub(crate) frames: TryLock<Frames>,
    #[cfg(not(feature = "std"))]
    seat: TryLock<Region<Paging>>,
    pub(crate) run_epoch: AtomicU32,
    pub(crate) missed_last: AtomicU64,
    pub(crate) missed_total: AtomicU64,
    /// The next frame is fresh whatever its number.
    pub(crate) forget: AtomicBool,
    /// A read could not read.
    failed: AtomicBool,
    skipped: AtomicBool,
    skip: Latest<SkipC>,
}

/// What taking frames needs.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) region: Region<Paging>,
    pub(crate) scratch: FrameScratch,
}

impl Object for RegionState {
    const KIND: u8 = 3;
    const NAME: &'static str = "vgpup_region";
    const STORAGE: usize = 20480;
}

/// A handle on a [`RegionState`].
pub(crate) type RegionHandle = Handle<RegionState>;

impl RegionState {
    pub(crate) const fn new(bound: Region<Paging>, (mem, mem_id): (MemHandle, u64)) -> Self {
        Self {
            bound,
            mem,
            mem_id,
            frames: TryLock::new(Frames { region: bound, scratch: FrameScratch::new() }),
            #[cfg(not(feature = "std"))]
            seat: TryLock::new(bound),
            run_epoch: AtomicU32::new(0),
            missed_last: AtomicU64::new(0),
            missed_total: AtomicU64::new(0),
            forget: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            skipped: AtomicBool::new(false),
            skip: Latest::new(SkipC::NONE),
        }
    }

    /// Runs `work` with what is remembered of the place.
    #[inline(always)]
    fn with_seat<R>(&self, thread: &Thread, id: u64, work: impl FnOnce(&mut Region<Paging>) -> R) -> R {
        #[cfg(feature = "std")]
        return thread.seats.of(id).with(id, &self.bound, work);
        #[cfg(not(feature = "std"))]
        {
            let _ = (thread, id);
            match self.seat.take() {
                Some(mut seat) => work(&mut seat),
                None => work(&mut self.bound.clone()),
            }
        }
    }

    /// Copies the latest frame of `mem` to `dst`. `None`: there is none now, and why is remembered.
    pub(crate) fn next_frame(
        &self,
        thread: &Thread,
        id: u64,
        mem: &Mem,
        dst: &mut [u8],
    ) -> Result<Option<FrameInfo>, Failure> {
        let Some(mut frames) = self.frames.take() else {
            self.tell(thread, id, SkipC::BUSY_HANDLE);
            return Ok(None);
        };
        let frames = &mut *frames;
        if self.forget.load(Ordering::Relaxed) && self.forget.swap(false, Ordering::Relaxed) {
            frames.region.forget_frames();
        }
        mem.caught(|| match frames.region.sample_frame(mem.ram(), &mut frames.scratch, dst, NextUse::Unknown) {
            Ok(Sample::Fresh(frame)) => {
                self.missed_last.store(frame.missed, Ordering::Relaxed);
                self.missed_total.fetch_add(frame.missed, Ordering::Relaxed);
                self.tell(thread, id, SkipC::NONE);
                Ok(Some(frame))
            }
            Ok(Sample::Skip(skip)) => {
                self.tell(thread, id, SkipC::of(skip));
                Ok(None)
            }
            Err(error) => Err(self.lose(thread, id, error)),
        })
    }

    /// Remembers that a read could not read.
    #[cold]
    #[inline(never)]
    fn lose(&self, thread: &Thread, id: u64, error: ReadError) -> Failure {
        self.tell(thread, id, SkipC::NONE);
        self.failed.store(true, Ordering::Relaxed);
        Failure::read(error)
    }

    /// Remembers the outcome of a read for [`last_skip`](Self::last_skip).
    #[inline(always)]
    pub(crate) fn tell(&self, thread: &Thread, id: u64, skip: SkipC) {
        #[cfg(feature = "std")]
        thread.seats.note(id, skip);
        let _ = (thread, id);
        // Fresh snapshots, which are most, store nothing that threads share.
        let skipped = skip.reason != reason::NONE;
        if skipped || self.skipped.load(Ordering::Relaxed) {
            self.skipped.store(skipped, Ordering::Relaxed);
            self.skip.set(skip);
        }
    }

    /// Why the last read gave nothing: this thread's, or where this thread read something else since, anybody's.
    pub(crate) fn last_skip(&self, id: u64) -> SkipC {
        #[cfg(feature = "std")]
        if let Ok(Some(skip)) = with_thread(|thread| thread.seats.last(id)) {
            return skip;
        }
        let _ = id;
        self.skip.get()
    }

    /// Whose turn is over, where a read failed.
    pub(crate) fn lost(&self) -> Option<(MemHandle, u64, Place)> {
        let at = place(self.bound.space(), self.bound.base());
        self.failed.load(Ordering::Relaxed).then_some((self.mem, self.mem_id, at))
    }
}

/// What one call reads.
pub(crate) trait Snapshot {
    /// What it gives.
    type Of;

    /// What the first try gives; `None` says nothing.
    #[inline(always)]
    #[cfg_attr(not(feature = "std"), expect(dead_code, reason = "no thread has a place of its own"))]
    fn at_once<M: PhysRead>(_: &Region<Paging>, _: &M) -> Option<Self::Of> {
        None
    }

    fn read<M: PhysRead>(region: &mut Region<Paging>, mem: &M) -> Result<Sample<Self::Of>, ReadError>;
}

/// Takes a snapshot, and gives it to `fresh` where there is one: 1, or 0 for none. Nothing is caught: the core has no
/// panics, and this is the path that is taken most.
///
/// What a thread reads again and again is taken at once, in registers; all else is [`apart`].
#[inline(always)]
pub(crate) fn snapshot<S: Snapshot>(
    r: RegionHandle,
    m: MemHandle,
    fresh: impl FnOnce(&RegionState, &S::Of) + Copy,
) -> Result<c_int, Failure> {
    #[cfg(feature = "std")]
    {
        let taken = this_thread(|thread| {
            let id = r.token();
            thread.seats.of(id).known.hold(thread, r, m, |state, mem, region| {
                let Ram::Mapped(ram) = mem.ram() else { return false };
                let Some(value) = S::at_once(region, &**ram) else { return false };
                fresh(state, &value);
                state.tell(thread, id, SkipC::NONE);
                true
            })
        });
        if taken {
            return Ok(1);
        }
    }
    apart::<S>(r, m, fresh)
}

/// The same where this thread does not know the two handles, is inside another call, reads through a callback, or where
/// the first try gave nothing.
#[cold]
#[inline(never)]
fn apart<S: Snapshot>(
    r: RegionHandle,
    m: MemHandle,
    fresh: impl FnOnce(&RegionState, &S::Of),
) -> Result<c_int, Failure> {
    with_thread(|thread| {
        r.hold(thread, |hold| {
            let (id, state) = (hold.id(), hold.get());
            m.hold_same(thread, state.mem_id, |mem| {
                let ram = mem.get().ram();
                state.with_seat(thread, id, |region| {
                    let read = S::read(region, ram);
                    #[cfg(feature = "std")]
                    if let Ram::Mapped(_) = ram {
                        thread.seats.of(id).known.learn(hold, mem, *region);
                    }
                    match read {
                        Ok(Sample::Fresh(value)) => {
                            fresh(state, &value);
                            state.tell(thread, id, SkipC::NONE);
                            Ok(1)
                        }
                        Ok(Sample::Skip(skip)) => {
                            state.tell(thread, id, SkipC::of(skip));
                            Ok(0)
                        }
                        Err(error) => Err(state.lose(thread, id, error)),
                    }
                })
            })
        })
    })?
}
