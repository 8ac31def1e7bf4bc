//! What a thread remembers of the regions that it reads: where their pages are, and why the last read gave nothing.
//!
//! Each thread has its own, so that threads that read one region never meet.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{Ordering, compiler_fence};

use vgpu_perception::region::Region;

use crate::kernel::Paging;
use crate::skip::SkipC;

/// Regions that a thread remembers; what it forgets costs a walk of the page tables.
const SEATS: usize = 64;

#[derive(Debug)]
struct Seat {
    /// Whose it is; 0 for nobody's.
    id: u64,
    region: Option<Region<Paging>>,
}

/// See [the module](self).
#[derive(Debug)]
pub(crate) struct Seats {
    seats: [RefCell<Seat>; SEATS],
    /// Whose read was last, and why it gave nothing.
    last: Cell<(u64, SkipC)>,
}

impl Seats {
    pub(crate) const fn new() -> Self {
        Self { seats: [const { RefCell::new(Seat { id: 0, region: None }) }; SEATS], last: Cell::new((0, SkipC::NONE)) }
    }

    /// Runs `work` with what this thread remembers of region `id`, which was bound as `bound`.
    #[inline(always)]
    pub(crate) fn with<R>(&self, id: u64, bound: &Region<Paging>, work: impl FnOnce(&mut Region<Paging>) -> R) -> R {
        // A token's entry is in its bits from 8 on; handles that are open at once have different ones.
        let seat = usize::try_from(id >> 8).unwrap_or(0) % SEATS;
        let taken = self.seats.get(seat).and_then(|seat| seat.try_borrow_mut().ok());
        // A signal handler, or a callback that reads, finds the seat taken.
        let Some(mut seat) = taken else { return work(&mut bound.clone()) };
        // A signal handler either finds it taken, or is done before anything of it is read.
        compiler_fence(Ordering::SeqCst);
        let seat = &mut *seat;
        if seat.id != id {
            (seat.id, seat.region) = (id, Some(*bound));
        }
        match &mut seat.region {
            Some(region) => work(region),
            None => work(&mut bound.clone()),
        }
    }

    #[inline(always)]
    pub(crate) fn note(&self, id: u64, skip: SkipC) {
        self.last.set((id, skip));
    }

    /// Why the last read of this thread gave nothing, if that was a read of `id`.
    pub(crate) fn last(&self, id: u64) -> Option<SkipC> {
        let (of, skip) = self.last.get();
        (of == id).then_some(skip)
    }
}
