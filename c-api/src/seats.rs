//! What a thread remembers of the regions that it reads: where their pages are, and why the last read gave nothing.
//!
//! Each thread has its own, so that threads that read one region never meet.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{Ordering, compiler_fence};

use vgpu_perception::region::Region;

use crate::ffi::Known;
use crate::kernel::Paging;
use crate::memory::Mem;
use crate::region::RegionState;
use crate::skip::{SkipC, reason};

/// Regions that a thread remembers; what it forgets costs a walk of the page tables.
const SEATS: usize = 64;

/// What is remembered of one region. It begins a cache line, so that few are read.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Seat {
    /// Where its handle leads, and that of its memory, and where its page was found last.
    pub(crate) known: Known<RegionState, Mem, Region<Paging>>,
    place: RefCell<Place>,
}

#[derive(Debug)]
struct Place {
    /// Whose it is; 0 for nobody's.
    id: u64,
    region: Option<Region<Paging>>,
}

/// See [the module](self).
#[derive(Debug)]
pub(crate) struct Seats {
    seats: [Seat; SEATS],
    /// Whose read was last.
    of: Cell<u64>,
    /// The same where it gave something, else 0.
    fresh: Cell<u64>,
    /// Why it gave nothing.
    last: Cell<SkipC>,
}

impl Seat {
    const fn new() -> Self {
        Self { known: Known::new(), place: RefCell::new(Place { id: 0, region: None }) }
    }

    /// Runs `work` with what this thread remembers of region `id`, which was bound as `bound`.
    ///
    /// `work` has one call, so that it is inlined there: what comes out of it then stays in registers.
    #[inline(always)]
    pub(crate) fn with<R>(&self, id: u64, bound: &Region<Paging>, work: impl FnOnce(&mut Region<Paging>) -> R) -> R {
        let mut taken = self.place.try_borrow_mut().ok();
        // A signal handler either finds it taken, or is done before anything of it is read.
        compiler_fence(Ordering::SeqCst);
        let mut copy;
        let region = match &mut taken {
            Some(place) => {
                let place = &mut **place;
                if place.id != id {
                    (place.id, place.region) = (id, Some(*bound));
                }
                place.region.get_or_insert(*bound)
            }
            // A signal handler, or a callback that reads, finds the seat taken.
            None => {
                copy = *bound;
                &mut copy
            }
        };
        work(region)
    }
}

impl Seats {
    pub(crate) const fn new() -> Self {
        Self {
            seats: [const { Seat::new() }; SEATS],
            of: Cell::new(0),
            fresh: Cell::new(0),
            last: Cell::new(SkipC::NONE),
        }
    }

    /// The seat of region `id`, which others may share. Its token's entry is in its bits from 8 on, so that handles
    /// that are open at once mostly have different ones.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a remainder of the length is below it")]
    pub(crate) const fn of(&self, id: u64) -> &Seat {
        &self.seats[(id >> 8) as usize % SEATS]
    }

    /// Remembers that the last read of this thread was of region `id`, and why it gave nothing.
    #[inline(always)]
    pub(crate) fn note(&self, id: u64, skip: SkipC) {
        let fresh = if skip.reason == reason::NONE { id } else { 0 };
        // Most reads are like the one before: nothing to store.
        if fresh == 0 || self.fresh.get() != fresh {
            self.fresh.set(fresh);
            self.of.set(id);
            self.last.set(skip);
        }
    }

    /// Why the last read of this thread gave nothing, if that was a read of `id`.
    pub(crate) fn last(&self, id: u64) -> Option<SkipC> {
        (self.of.get() == id).then(|| self.last.get())
    }
}
