//! The sweep: marked pages are read in ascending order, to see which read like a producer page.

use super::marked::Marked;
use super::probe::looks_like_producer;
use crate::abi;
use crate::addr::{Gpa, PAGE_BYTES, PAGE_SHIFT};
use crate::budget::Budget;
use crate::phys::{Extent, PhysError, PhysRead};

/// Log2 of the bytes of 64 pages: they are prefetched together.
const GROUP: u32 = PAGE_SHIFT + 6;

/// Where a sweep stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    pub(super) next: Gpa,
    extent: Option<Extent>,
}

/// What ended a step of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swept {
    /// The budget is spent.
    Pending,
    /// No hit has room.
    Full,
    /// No marked page is left.
    Done,
}

impl Sweep {
    pub(super) const START: Self = Self { next: Gpa::new(0), extent: None };

    /// Reads marked pages until no hit has room or none is left. Hits that `known` tells of are passed over.
    pub(super) fn step<M: PhysRead>(
        &mut self,
        mem: &M,
        marked: &mut Marked<'_>,
        budget: &mut Budget,
        known: impl Fn(Gpa) -> bool,
    ) -> Result<Swept, PhysError> {
        loop {
            if marked.is_full() {
                return Ok(Swept::Full);
            }
            if budget.is_spent() {
                return Ok(Swept::Pending);
            }
            budget.spend(1);
            let Some(page) = marked.set.take_from(self.next) else { return Ok(Swept::Done) };
            if page.get() >> GROUP != self.next.get() >> GROUP || self.next.get() == 0 {
                prefetch_group(mem, marked, page);
            }
            self.next = page;
            if self.extent.is_none_or(|extent| page >= extent.end()) {
                self.extent = match mem.next_extent(page) {
                    Ok(extent) => extent,
                    Err(error) => {
                        // The scan may be tried again: the page is still to be read.
                        marked.set.insert(page);
                        return Err(error);
                    }
                };
            }
            let inside = |extent: Extent| extent.start <= page && page.wrapping_add(PAGE_BYTES) <= extent.end();
            if !self.extent.is_some_and(inside) {
                marked.stats.not_ram = marked.stats.not_ram.wrapping_add(1);
                continue;
            }
            marked.stats.pages = marked.stats.pages.wrapping_add(1);
            if looks_like_producer(mem, page, budget) && !known(page) {
                marked.hit(page);
            }
        }
    }
}

/// Asks for the line of every marked page of a group: their misses overlap, while each is judged by itself.
fn prefetch_group<M: PhysRead>(mem: &M, marked: &Marked<'_>, page: Gpa) {
    let first = Gpa::new(page.get() >> GROUP << GROUP);
    let mut others = marked.set.around(first);
    while others != 0 {
        let skip = u64::from(others.trailing_zeros()) << PAGE_SHIFT;
        mem.prefetch(first.wrapping_add(skip).wrapping_add(abi::producer::STATUS));
        others &= others.wrapping_sub(1);
    }
}
