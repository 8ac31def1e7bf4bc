//! The sweep: marked pages are read in ascending order, to see which read like a producer page.

use heapless::Vec;

use super::marked::Marked;
use super::page_set::{GROUP, GROUP_BYTES};
use super::probe::{first_look_could_be_producers, looks_like_producer, status_could_be_producers};
use crate::abi;
use crate::addr::{Gpa, PAGE_BYTES, PAGE_SHIFT};
use crate::budget::Budget;
use crate::phys::{Extent, PhysError, PhysRead};

/// Pages whose lines are asked for by one load, where that pays.
const BATCH: usize = 64;

/// What is looked at first of a page: both lie in the line that refuses most pages.
const FIRST_LOOK: [u64; 2] = [abi::producer::HEARTBEAT, abi::producer::RUN_EPOCH];

/// Words of a line.
const LINE: usize = 8;

/// Where a sweep stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    pub(super) next: Gpa,
    extent: Option<Extent>,
    /// Of the 64 pages from `next` on those that are likely and still to be judged, as bits: what was looked at is not
    /// looked at again, however small the budget of a step is.
    likely: u64,
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
    pub(super) const START: Self = Self { next: Gpa::new(0), extent: None, likely: 0 };

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
            if self.likely == 0 {
                let Some((first, marks)) = marked.set.group_from(self.next) else { return Ok(Swept::Done) };
                budget.spend(1);
                self.next = first;
                let data = self.data_of(mem, first, marks)?;
                self.likely = look_at_group(mem, first, data, budget);
                marked.set.remove(first, marks);
                marked.stats.not_ram = marked.stats.not_ram.wrapping_add(u64::from((marks & !data).count_ones()));
                marked.stats.pages = marked.stats.pages.wrapping_add(u64::from(data.count_ones()));
                continue;
            }
            let page = self.next.wrapping_add(u64::from(self.likely.trailing_zeros()) << PAGE_SHIFT);
            self.likely &= self.likely.wrapping_sub(1);
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

    /// Which of the pages `marks` from `first` on are RAM that holds data.
    fn data_of<M: PhysRead>(&mut self, mem: &M, first: Gpa, marks: u64) -> Result<u64, PhysError> {
        if self.extent.is_some_and(|extent| extent.start <= first && first.wrapping_add(GROUP_BYTES) <= extent.end()) {
            return Ok(marks);
        }
        let mut data = 0_u64;
        for (index, page) in (0..GROUP).map(|index| (index, first.wrapping_add(index << PAGE_SHIFT))) {
            if marks >> index & 1 == 1 && self.is_inside_extent(mem, page)? {
                data |= 1 << index;
            }
        }
        Ok(data)
    }

    /// Whether a page that was taken out is RAM that holds data; counted where it is not.
    #[inline]
    fn is_data<M: PhysRead>(&mut self, mem: &M, marked: &mut Marked<'_>, page: Gpa) -> Result<bool, PhysError> {
        let data = self.is_inside_extent(mem, page).inspect_err(|_| {
            // The scan may be tried again: the page is still to be read.
            marked.set.insert(page);
        })?;
        if !data {
            marked.stats.not_ram = marked.stats.not_ram.wrapping_add(1);
        }
        Ok(data)
    }

    /// Whether a page, none before the last, is RAM that holds data.
    #[inline]
    fn is_inside_extent<M: PhysRead>(&mut self, mem: &M, page: Gpa) -> Result<bool, PhysError> {
        if self.extent.is_none_or(|extent| page >= extent.end()) {
            self.extent = mem.next_extent(page)?;
        }
        let inside = |extent: Extent| extent.start <= page && page.wrapping_add(PAGE_BYTES) <= extent.end();
        Ok(self.extent.is_some_and(inside))
    }
}

/// Which of the pages `data` from `first` on could be producer pages by two words of each. Pages side by side are
/// loaded in one go, and judging them takes no branch: a miss of one does not keep the next from being asked for.
#[inline(always)]
fn look_at_group<M: PhysRead>(mem: &M, first: Gpa, data: u64, budget: &mut Budget) -> u64 {
    let mut words = [[0_u64; 2]; GROUP as usize];
    let mut left = data;
    // Pages that cannot be loaded are looked at one by one, and refused one by one.
    let mut unread = 0_u64;
    while left != 0 {
        let from = left.trailing_zeros();
        let len = (left >> from).trailing_ones();
        let run = (u64::MAX >> (GROUP as u32).wrapping_sub(len)) << from;
        left &= !run;
        let at = FIRST_LOOK.map(|at| first.wrapping_add(u64::from(from) << PAGE_SHIFT).wrapping_add(at));
        let rows = words.get_mut(from as usize..from.wrapping_add(len) as usize).unwrap_or_default();
        if mem.load_columns(at, PAGE_BYTES, rows).is_err() {
            unread |= run;
        }
    }
    budget.spend(u64::from(data.count_ones()).wrapping_mul(2));
    let mut likely = 0_u64;
    for words in words.iter().rev() {
        likely = likely << 1 | u64::from(first_look_could_be_producers(*words));
    }
    (likely | unread) & data
}
