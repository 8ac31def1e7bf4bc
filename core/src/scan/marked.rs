//! Marked pages: those at which a region can start, gathered so that each is read once and in physical order; and those
//! of them that read like a producer page.

use heapless::Vec;

use super::page_set::PageSet;
use super::probe::looks_like_producer;
use super::report::ScanStats;
use super::spans::{Run, Span, span_at};
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{LeafEntries, LeafTable, NotPresentResolver, PageWalker, Rights, TableRead};
use crate::phys::PhysRead;

/// Pages that look like producer pages and wait to be looked for in the processes.
const HITS: usize = 64;

/// A bit by the number of a page.
const fn bit_of(page: Gpa) -> u64 {
    1 << (page.get() >> PAGE_SHIFT & 63)
}

/// The pages that are marked, the hits among those that were read, and what was counted.
#[derive(Debug)]
pub(super) struct Marked<'s> {
    pub(super) set: PageSet<'s>,
    hits: Vec<Gpa, HITS>,
    /// The bits of all hits: a page whose bit is not here is none, which nearly every page shows at once.
    bits: u64,
    pub(super) stats: ScanStats,
}

impl<'s> Marked<'s> {
    pub(super) fn new(words: &'s mut [u64]) -> Self {
        let mut set = PageSet::new(words);
        set.clear();
        Self { set, hits: Vec::new(), bits: 0, stats: ScanStats::default() }
    }

    /// Whether there is no room for another hit: those that wait are looked for first.
    pub(super) fn is_full(&self) -> bool {
        self.hits.is_full()
    }

    pub(super) fn hits(&self) -> &[Gpa] {
        &self.hits
    }

    #[inline]
    pub(super) fn is_hit(&self, page: Gpa) -> bool {
        self.bits & bit_of(page) != 0 && self.hits.contains(&page)
    }

    pub(super) fn forget_hits(&mut self) {
        self.hits.clear();
        self.bits = 0;
    }

    /// Notes a page that reads like a producer page. There is room: nobody reads another page while there is none.
    pub(super) fn hit(&mut self, page: Gpa) {
        if !self.is_hit(page) {
            let _ = self.hits.push(page);
            self.bits |= bit_of(page);
        }
    }

    /// Marks a page; one beyond the set is read at once. False where no hit has room after it.
    #[inline]
    fn mark<M: PhysRead>(&mut self, mem: &M, page: Gpa, budget: &mut Budget) -> bool {
        self.set.insert(page) || self.read_unmarked(mem, page, budget)
    }

    #[cold]
    fn read_unmarked<M: PhysRead>(&mut self, mem: &M, page: Gpa, budget: &mut Budget) -> bool {
        budget.spend(1);
        if !mem.holds_data(page) {
            self.stats.not_ram = self.stats.not_ram.wrapping_add(1);
        } else {
            self.stats.pages = self.stats.pages.wrapping_add(1);
            if looks_like_producer(mem, page, budget) {
                self.hit(page);
            }
        }
        !self.is_full()
    }

    /// Marks the pages of `len` bytes at `gpa`, 2 MiB of them at most; gives how many bytes that was. It stops where no
    /// hit has room, and where the budget is spent.
    pub(super) fn mark_span<M: PhysRead>(&mut self, mem: &M, gpa: Gpa, len: u64, budget: &mut Budget) -> u64 {
        let len = len.min(PageSize::Size2M.bytes());
        let mut done = 0_u64;
        // No load, but work: a word of the set for every 64 pages.
        budget.spend(len.div_ceil(64 * PAGE_BYTES));
        while done < len {
            let room = self.mark(mem, gpa.wrapping_add(done), budget);
            done = done.wrapping_add(PAGE_BYTES);
            // What a page of the set costs was spent above.
            if !room || (budget.is_spent() && !self.set.holds(gpa.wrapping_add(done))) {
                break;
            }
        }
        done.min(len)
    }

    /// Marks the writable user pages of `table`, entries `from .. until`; gives the entry to go on with.
    pub(super) fn mark_table<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        table: &LeafTable,
        (from, until): (u64, u64),
        budget: &mut Budget,
    ) -> TableRead {
        let mem = *walker.mem();
        self.stats.tables = self.stats.tables.wrapping_add(u64::from(from == 0));
        let walker = walker.needing(Rights::USER_WRITE);
        let read = walker.pages_of(table, from..until, budget, |_, page, budget| self.mark(mem, page, budget));
        read.unwrap_or_else(|_| {
            self.stats.skipped = self.stats.skipped.wrapping_add(1);
            TableRead { next: until, resolving: 0 }
        })
    }

    /// Marks the writable pages of one span of `run`; gives what is left of it.
    pub(super) fn mark_run_span<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        run: Run,
        budget: &mut Budget,
    ) -> Option<Run> {
        if run.start >= run.end {
            return None;
        }
        let span = run.start & !PageSize::Size2M.offset_mask();
        let end = run.end.min(span.wrapping_add(PageSize::Size2M.bytes()));
        let start = match span_at(walker, span, budget) {
            Span::Large { gpa, rights } if rights.grant(Rights::USER_WRITE) => {
                let gpa = gpa.wrapping_add(run.start.wrapping_sub(span));
                run.start.wrapping_add(self.mark_span(walker.mem(), gpa, end.wrapping_sub(run.start), budget))
            }
            Span::Table { table, rights } => {
                let table = LeafTable { gva: Gva::new(span), entries: LeafEntries::At(table), rights };
                let inside = table.inside(Gva::new(run.start), Gva::new(end));
                let read = self.mark_table(walker, &table, (inside.start, inside.end), budget);
                span.wrapping_add(read.next.wrapping_mul(PAGE_BYTES))
            }
            Span::Large { .. } | Span::Nothing => end,
        };
        Some(Run { start, end: run.end })
    }
}
