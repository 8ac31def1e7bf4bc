//! Marking: the frames at which a region can start, gathered so that each is read once and in physical order.

use super::discovery::Discovery;
use super::probe::looks_like_producer;
use super::spans::{BLOCK, Run, Span, span_at};
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{LeafTable, Level, NotPresentResolver, PageWalker, Pte, Rights};
use crate::phys::PhysRead;
use crate::process::ProcessSource;

impl<S: ProcessSource> Discovery<'_, S> {
    /// Marks the pages of the writable pages of one span of `run`; gives what is left of it.
    pub(super) fn mark_run_span<M: PhysRead>(
        &mut self,
        mem: &M,
        walker: &PageWalker<&M, S::Resolver>,
        run: Run,
        budget: &mut Budget,
    ) -> Option<Run> {
        if run.start >= run.end {
            return None;
        }
        let span = run.start & !PageSize::Size2M.offset_mask();
        let end = run.end.min(span.wrapping_add(PageSize::Size2M.bytes()));
        budget.spend(4);
        match span_at(walker, span) {
            Span::Nothing => {}
            Span::Large { gpa, rights } => {
                if rights.grant(Rights::USER_WRITE) {
                    let skip = run.start.wrapping_sub(span);
                    self.mark_span(mem, gpa.wrapping_add(skip), end.wrapping_sub(run.start), budget);
                }
            }
            Span::Table { table, rights } => {
                let first = (run.start >> PAGE_SHIFT) & 511;
                let last = first.wrapping_add(end.wrapping_sub(run.start) >> PAGE_SHIFT);
                let table = LeafTable { gva: Gva::new(span), table, rights };
                self.mark_table(mem, walker, &table, first, last, budget);
            }
        }
        Some(Run { start: end, end: run.end })
    }

    /// Marks the pages of the writable user pages of a page table, entries `first .. last`.
    pub(super) fn mark_table<M: PhysRead>(
        &mut self,
        mem: &M,
        walker: &PageWalker<&M, S::Resolver>,
        table: &LeafTable,
        first: u64,
        last: u64,
        budget: &mut Budget,
    ) {
        let mut block = [0_u64; BLOCK];
        let mut index = first;
        self.stats.tables = self.stats.tables.wrapping_add(1);
        while index < last {
            let count = usize::try_from(last.wrapping_sub(index)).unwrap_or(BLOCK).min(BLOCK);
            let Some(words) = block.get_mut(..count) else { return };
            budget.spend(count as u64);
            if mem.load_words(table.table.wrapping_add(index.wrapping_mul(8)), words).is_err() {
                self.stats.skipped = self.stats.skipped.wrapping_add(1);
                return;
            }
            for (offset, word) in (0_u64..).zip(words.iter()) {
                let gva = table.gva.wrapping_add(index.wrapping_add(offset) << PAGE_SHIFT);
                if let Some(frame) = writable_frame(walker, table, gva, *word) {
                    self.mark(mem, frame, budget);
                }
            }
            index = index.wrapping_add(count as u64);
        }
    }

    pub(super) fn mark_span<M: PhysRead>(&mut self, mem: &M, gpa: Gpa, len: u64, budget: &mut Budget) {
        let mut done = 0_u64;
        // No load, but work: a word of the set for every 64 pages.
        budget.spend(len.div_ceil(64 * PAGE_BYTES));
        while done < len {
            self.mark(mem, gpa.wrapping_add(done), budget);
            done = done.wrapping_add(PAGE_BYTES);
        }
    }

    /// Marks a frame; one beyond the set is read at once, and kept if there is room.
    #[inline]
    fn mark<M: PhysRead>(&mut self, mem: &M, frame: Gpa, budget: &mut Budget) {
        if !self.marked.insert(frame) {
            self.read_unmarked(mem, frame, budget);
        }
    }

    #[cold]
    fn read_unmarked<M: PhysRead>(&mut self, mem: &M, frame: Gpa, budget: &mut Budget) {
        budget.spend(1);
        if !mem.holds_data(frame) {
            self.stats.not_ram = self.stats.not_ram.wrapping_add(1);
            return;
        }
        self.stats.pages = self.stats.pages.wrapping_add(1);
        if looks_like_producer(mem, frame, budget) && !self.hits.contains(&frame) && self.hits.push(frame).is_err() {
            self.stats.skipped = self.stats.skipped.wrapping_add(1);
        }
    }
}

/// The frame of an entry of a page table, if user mode may write to it; absent entries are given to the resolver.
#[inline(always)]
pub(super) fn writable_frame<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<&M, R>,
    table: &LeafTable,
    gva: Gva,
    word: u64,
) -> Option<Gpa> {
    let entry = Pte::new(word);
    if entry.is_present() {
        const WRITE: u64 = Pte::PRESENT | Pte::USER | Pte::WRITABLE;
        let fits =
            word & WRITE == WRITE && table.rights.grant(Rights::USER_WRITE) && !walker.is_reserved(Level::Pt, entry);
        return fits.then(|| entry.frame(PageSize::Size4K));
    }
    if word == 0 || !R::RESOLVES {
        return None;
    }
    let found = walker.needing(Rights::USER_WRITE).translate(gva).ok()?;
    Some(found.gpa.align_down(PageSize::Size4K))
}
