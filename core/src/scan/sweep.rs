//! The sweep: marked pages are read in ascending order, to see which read like a producer page.

use heapless::Vec;

use super::marked::Marked;
use super::probe::{looks_like_producer, status_could_be_producers};
use crate::abi;
use crate::addr::{Gpa, PAGE_BYTES, PAGE_SHIFT};
use crate::budget::Budget;
use crate::phys::{Extent, PhysError, PhysRead};

/// Log2 of the bytes of 64 pages: they are prefetched together.
const GROUP: u32 = PAGE_SHIFT + 6;

/// Pages whose lines are asked for by one load, where that pays.
const BATCH: usize = 64;

/// Words of a line.
const LINE: usize = 8;

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
        if mem.batch() > 1 {
            return self.step_in_batches(mem, marked, budget, known);
        }
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
            if !self.is_data(mem, marked, page)? {
                continue;
            }
            marked.stats.pages = marked.stats.pages.wrapping_add(1);
            if looks_like_producer(mem, page, budget) && !known(page) {
                marked.hit(page);
            }
        }
    }

    /// The same with up to 64 pages' lines by one load. A step overdraws its budget by so many lines at most.
    #[inline(never)]
    fn step_in_batches<M: PhysRead>(
        &mut self,
        mem: &M,
        marked: &mut Marked<'_>,
        budget: &mut Budget,
        known: impl Fn(Gpa) -> bool,
    ) -> Result<Swept, PhysError> {
        let mut pages = Vec::<Gpa, BATCH>::new();
        let mut at = [Gpa::new(0); BATCH];
        let mut lines = [[0_u64; LINE]; BATCH];
        loop {
            if marked.is_full() {
                return Ok(Swept::Full);
            }
            if budget.is_spent() {
                return Ok(Swept::Pending);
            }
            pages.clear();
            let mut ended = false;
            while pages.len() < BATCH.min(mem.batch()) && !budget.is_spent() {
                let Some(page) = marked.set.take_from(self.next) else {
                    ended = true;
                    break;
                };
                budget.spend(1);
                self.next = page;
                match self.is_data(mem, marked, page) {
                    Ok(true) => _ = pages.push(page),
                    Ok(false) => {}
                    Err(error) => {
                        self.put_back(marked, &pages);
                        return Err(error);
                    }
                }
            }
            if pages.is_empty() && ended {
                return Ok(Swept::Done);
            }
            for (at, page) in at.iter_mut().zip(&pages) {
                *at = page.wrapping_add(abi::producer::STATUS);
            }
            let mut done = 0_usize;
            while let Some(rest) = pages.get(done..).filter(|rest| !rest.is_empty()) {
                let wanted = at.get(done..pages.len()).unwrap_or_default();
                let loaded = match mem.load_lines(wanted, &mut lines) {
                    Ok(loaded) => loaded,
                    Err(error) => {
                        self.put_back(marked, rest);
                        return Err(error);
                    }
                };
                budget.spend((LINE as u64).wrapping_mul(loaded as u64));
                for (n, (page, line)) in rest.iter().zip(&lines).take(loaded).enumerate() {
                    if marked.is_full() {
                        self.put_back(marked, rest.get(n..).unwrap_or_default());
                        return Ok(Swept::Full);
                    }
                    marked.stats.pages = marked.stats.pages.wrapping_add(1);
                    let status = line.first_chunk().is_some_and(|status| status_could_be_producers(*status));
                    if status && looks_like_producer(mem, *page, budget) && !known(*page) {
                        marked.hit(*page);
                    }
                }
                // The line after those that were loaded cannot be read: its page is gone again.
                done = done.wrapping_add(loaded).wrapping_add(1);
            }
        }
    }

    /// Pages that were taken out and not read: they are still to be, in the order in which they were.
    fn put_back(&mut self, marked: &mut Marked<'_>, pages: &[Gpa]) {
        for page in pages {
            marked.set.insert(*page);
        }
        if let Some(first) = pages.first() {
            self.next = *first;
            self.extent = None;
        }
    }

    /// Whether a page that was taken out is RAM that holds data; counted where it is not.
    #[inline]
    fn is_data<M: PhysRead>(&mut self, mem: &M, marked: &mut Marked<'_>, page: Gpa) -> Result<bool, PhysError> {
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
        let data = self.extent.is_some_and(inside);
        if !data {
            marked.stats.not_ram = marked.stats.not_ram.wrapping_add(1);
        }
        Ok(data)
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
