//! Where a region can be at all, if all of its pages are present: runs of user pages as long as a region.
//!
//! A run of 98 MiB covers at least 48 whole 2 MiB spans, wherever it starts. So of a stretch of present directory
//! entries only every 48th span has to be looked into: where its pages are not all there, no run covers it. Typical
//! processes have no such run, and nearly all of their page tables are never read.

use core::ops::ControlFlow;

use crate::abi;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PageSize};
use crate::budget::Budget;
use crate::paging::{
    BLOCK, Grants, LeafCursor, LeafEntries, LeafStep, LeafTable, Level, Need, NotPresentResolver, PageWalker, Pte,
    Rights, each_entry,
};
use crate::phys::PhysRead;

/// Bytes of a span: what one page table maps.
const SPAN: u64 = PageSize::Size2M.bytes();
/// Pages of a span.
const PAGES: u64 = 512;
/// Whole spans that a region covers however it lies.
const COVERED: u64 = abi::REGION_BYTES / SPAN - 1;

/// A run of present user pages, page-aligned, `start .. end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What is known of one 2 MiB span: how many user pages in a row stand at its start and at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fill {
    leading: u64,
    trailing: u64,
}

impl Fill {
    const FULL: Self = Self { leading: PAGES, trailing: PAGES };
    const EMPTY: Self = Self { leading: 0, trailing: 0 };

    const fn is_full(self) -> bool {
        self.leading == PAGES
    }
}

/// Finds the runs of one address space: resumable.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunFinder {
    cursor: LeafCursor,
    /// Neighbouring spans with a present user directory entry, up to where the cursor is.
    stretch: Option<Run>,
    /// A stretch that ended and is long enough: where in it the next span is looked into.
    search: Option<Search>,
    ended: bool,
    tables: u64,
}

#[derive(Clone, Copy, Debug)]
struct Search {
    /// First span that may belong to the next run.
    from: u64,
    /// Next span to look into.
    probe: u64,
    end: u64,
    /// A run that is being followed upwards: where it starts.
    run: Option<u64>,
}

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunStep {
    Run(Run),
    Pending,
    Done,
}

impl RunFinder {
    /// The runs below `end`, of the first so many `tables`.
    pub(super) const fn new(end: Gva, tables: u64) -> Self {
        let cursor = LeafCursor::new(Gva::new(0), end).needing(Rights::USER).stopping_at_tables();
        Self { cursor: cursor.with_tables(tables), stretch: None, search: None, ended: false, tables: 0 }
    }

    /// Takes `loads` off what the process may cost.
    pub(super) const fn charge(&mut self, loads: u64) {
        self.cursor.charge(loads);
    }

    /// Page tables that were looked into.
    pub(super) const fn tables(&self) -> u64 {
        self.tables
    }

    /// Whether the limit of tables ended the enumeration.
    pub(super) const fn is_truncated(&self) -> bool {
        self.cursor.is_truncated()
    }

    pub(super) fn step<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        budget: &mut Budget,
    ) -> RunStep {
        loop {
            if self.search.is_some() {
                match self.search(walker, budget) {
                    Some(RunStep::Done) => self.search = None,
                    Some(step) => return step,
                    None => {}
                }
                continue;
            }
            if self.ended {
                return RunStep::Done;
            }
            let (start, len) = match walker.next_leaf(&mut self.cursor, budget) {
                LeafStep::Table(LeafTable { gva, entries: LeafEntries::At(_), .. }) => (gva.get(), SPAN),
                LeafStep::Leaf(leaf) if leaf.size != PageSize::Size4K => (leaf.gva.get(), leaf.size.bytes()),
                // A trimmed page: the first pass is about present ones.
                LeafStep::Leaf(_) | LeafStep::Table(_) | LeafStep::Skipped(_) => continue,
                LeafStep::Pending => return RunStep::Pending,
                LeafStep::Done => {
                    self.ended = true;
                    self.close_stretch();
                    continue;
                }
            };
            let more = walker.more_spans(&mut self.cursor, budget);
            let end = start.wrapping_add(len).wrapping_add(more.wrapping_mul(SPAN));
            match &mut self.stretch {
                Some(stretch) if stretch.end == start => stretch.end = end,
                _ => {
                    self.close_stretch();
                    self.stretch = Some(Run { start, end });
                }
            }
        }
    }

    fn close_stretch(&mut self) {
        if let Some(Run { start, end }) = self.stretch.take()
            && end.wrapping_sub(start) >= COVERED.wrapping_mul(SPAN)
        {
            let probe = start.wrapping_add(COVERED.wrapping_sub(1).wrapping_mul(SPAN));
            self.search = Some(Search { from: start, probe, end, run: None });
        }
    }

    /// One span of the search: a run that ended, a step without result, or that the stretch is searched.
    fn search<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        budget: &mut Budget,
    ) -> Option<RunStep> {
        let search = self.search?;
        if search.run.is_none() && search.probe >= search.end {
            return Some(RunStep::Done);
        }
        if budget.is_spent() {
            return Some(RunStep::Pending);
        }
        self.tables = self.tables.wrapping_add(1);
        match search.run {
            None => {
                let fill = span_fill(walker, search.probe, budget);
                let next = if fill.is_full() {
                    let start = self.run_start(walker, &search, budget);
                    Search { probe: search.probe.wrapping_add(SPAN), run: Some(start), ..search }
                } else {
                    // A run may begin with the last pages of this span; it then covers the next 48 whole.
                    let probe = search.probe.wrapping_add(COVERED.wrapping_mul(SPAN));
                    Search { from: search.probe, probe, ..search }
                };
                self.search = Some(next);
                None
            }
            Some(start) => {
                // The stretch may end with a span whose directory entry was the last one: what follows it is not
                // present.
                let fill =
                    if search.probe < search.end { span_fill(walker, search.probe, budget) } else { Fill::EMPTY };
                if fill.is_full() {
                    self.search = Some(Search { probe: search.probe.wrapping_add(SPAN), ..search });
                    return None;
                }
                let end = search.probe.wrapping_add(fill.leading.wrapping_mul(PAGE_BYTES));
                let from = search.probe;
                let probe = from.wrapping_add(COVERED.wrapping_mul(SPAN));
                self.search = Some(Search { from, probe, end: search.end, run: None });
                (end.wrapping_sub(start) >= abi::REGION_BYTES).then_some(RunStep::Run(Run { start, end }))
            }
        }
    }

    /// Where the run that holds the whole span at `search.probe` starts: at most 48 spans back.
    fn run_start<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        search: &Search,
        budget: &mut Budget,
    ) -> u64 {
        let mut span = search.probe;
        while span > search.from {
            let before = span.wrapping_sub(SPAN);
            self.tables = self.tables.wrapping_add(1);
            let fill = span_fill(walker, before, budget);
            if !fill.is_full() {
                return span.wrapping_sub(fill.trailing.wrapping_mul(PAGE_BYTES));
            }
            span = before;
        }
        span
    }
}

/// A 2 MiB span by its directory entry: a large page, a page table, or nothing to user mode.
pub(super) enum Span {
    Large { gpa: Gpa, rights: Rights },
    Table { table: Gpa, rights: Rights },
    Nothing,
}

/// Walks to the directory entry of the span at `start`.
pub(super) fn span_at<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<&M, R>,
    start: u64,
    budget: &mut Budget,
) -> Span {
    let end = Gva::new(start.wrapping_add(SPAN));
    let mut cursor = LeafCursor::new(Gva::new(start), end).needing(Rights::USER).stopping_at_tables();
    let mut own = Budget::unlimited();
    let step = walker.next_leaf(&mut cursor, &mut own);
    budget.spend(own.spent());
    match step {
        LeafStep::Table(LeafTable { entries: LeafEntries::At(table), rights, .. }) => Span::Table { table, rights },
        LeafStep::Leaf(leaf) if leaf.size != PageSize::Size4K => {
            // A 1 GiB page is reported by its start: this span is a part of it.
            let skip = start.wrapping_sub(leaf.gva.get()) & leaf.size.offset_mask();
            Span::Large { gpa: leaf.gpa.wrapping_add(skip), rights: leaf.rights }
        }
        _ => Span::Nothing,
    }
}

/// How far user pages reach from both ends of the span at `start`. Reads up to the first page that is missing, and then
/// from the other end.
fn span_fill<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<&M, R>, start: u64, budget: &mut Budget) -> Fill {
    let (table, above) = match span_at(walker, start, budget) {
        Span::Large { .. } => return Fill::FULL,
        Span::Nothing => return Fill::EMPTY,
        Span::Table { table, rights } => (table, rights),
    };
    let (above, user) = (Grants::below(above), Need::of(Rights::USER));
    let is_user = |entry: Pte| walker.follows(Level::Pt, entry, above, user);
    let mem = walker.mem();
    let mut leading = 0_u64;
    let missing = each_entry(mem, table, 0..PAGES, budget, |index, entry| {
        leading = index;
        if is_user(entry) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match missing {
        Ok(None) => return Fill::FULL,
        Ok(Some(())) => {}
        Err(_) => return Fill::EMPTY,
    }
    let mut trailing = 0_u64;
    let mut from = PAGES;
    while let Some(first) = from.checked_sub(BLOCK as u64) {
        // How many pages in a row end this block, or `None` where all of it and more.
        let mut here = 0_u64;
        let read = each_entry(mem, table, first..from, budget, |_, entry| {
            here = if is_user(entry) { here.wrapping_add(1) } else { 0 };
            ControlFlow::<()>::Continue(())
        });
        if read.is_err() {
            break;
        }
        trailing = trailing.wrapping_add(here);
        if here < BLOCK as u64 {
            break;
        }
        from = first;
    }
    Fill { leading, trailing: trailing.min(PAGES.wrapping_sub(1)) }
}

const _: () = assert!(PAGES.is_multiple_of(BLOCK as u64));
