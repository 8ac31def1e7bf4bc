//! The scan: every process of a source, every address at which a region can be, every candidate; resumable at any point.
//!
//! Two passes over each batch of processes that fits the scratch memory:
//!
//! 1. **Runs.** A region that is wholly present lies in a run of user pages of its size. Runs are found without reading most
//!    page tables. The start of each run is judged at once; the pages of all other pages in it at which a region could start are
//!    marked, and then read in physical order, each once, however many processes map them.
//! 2. **Pages.** A region need not be wholly present: slots that were never used, or trimmed pages. So the pages of all writable
//!    user pages are marked and read the same way.
//!
//! A frame that reads like a producer page is then looked for in all processes, and each place that maps it is judged by the
//! whole of the rules ([`probe()`](super::probe()).

use heapless::Vec;

use super::mark::writable_frame;
use super::page_set::PageSet;
use super::probe::{looks_like_producer, probe_spending};
use super::report::{Candidate, FoundBy, Progress, ScanScratch, ScanStats};
use super::spans::{BLOCK, Run, RunFinder, RunStep};
use crate::abi;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{Leaf, LeafCursor, LeafStep, LeafTable, PageWalker, Rights};
use crate::phys::{Extent, PhysError, PhysRead, PhysRun};
use crate::process::{Process, ProcessSource, Step};

/// Pages that look like producer pages and wait to be looked for in the processes.
const HITS: usize = 64;
/// Log2 of the bytes of 64 pages: they are asked for together.
const GROUP: u32 = PAGE_SHIFT + 6;
/// Candidates whose place is remembered, so that the second pass does not report them again.
const REPORTED: usize = 64;

/// A scan in progress.
///
/// # Bound
/// For each space, at most 512 loads for each of its first [`LeafCursor::TABLES`] tables, four times; a large page counts as
/// the tables that it stands for. For each page of RAM, at most 2 x 44 loads a batch of processes and, for each that looks like a
/// producer page, one more enumeration of the spaces for every 64 of them; for each place that maps such a frame, [`probe()`](super::probe())'s.
///
/// Every candidate is reported at least once; a guest that shows more than 64 may see some reported twice.
#[derive(Debug)]
pub struct Discovery<'s, S: ProcessSource> {
    source: S,
    processes: &'s mut [Process<S::Resolver>],
    pub(super) marked: PageSet<'s>,
    len: usize,
    exhausted: bool,
    pass: FoundBy,
    phase: Phase,
    pub(super) hits: Vec<Gpa, HITS>,
    reported: Vec<(Gpa, Gva, Gpa), REPORTED>,
    pub(super) stats: ScanStats,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Gather,
    /// Pass 1: the runs of process `index`; a run whose pages are being marked.
    Runs {
        index: usize,
        finder: RunFinder,
        run: Option<Run>,
    },
    /// Pass 2: the pages of process `index`; what is left to mark of a large page.
    Pages {
        index: usize,
        cursor: LeafCursor,
        large: PhysRun,
    },
    /// The marked pages from `next` on.
    Sweep {
        next: Gpa,
        extent: Option<Extent>,
    },
    /// The places in process `index` that map a hit; then the sweep goes on at `resume`.
    Reverse {
        index: usize,
        cursor: LeafCursor,
        part: Part,
        resume: Option<Gpa>,
    },
    End,
}

/// What of an address space is being compared with the hits.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Ask the cursor for the next.
    Next,
    /// A page table, from this entry on.
    Table(LeafTable, u64),
    /// A large page, after this hit.
    Large(Leaf, Option<Gpa>),
}

impl<'s, S: ProcessSource> Discovery<'s, S> {
    /// A scan of all processes of `source`.
    #[must_use]
    pub fn new(source: S, scratch: ScanScratch<'s, S::Resolver>) -> Self {
        let ScanScratch { processes, page_bitmap } = scratch;
        let mut marked = PageSet::new(page_bitmap);
        marked.clear();
        Self {
            source,
            processes,
            marked,
            len: 0,
            exhausted: false,
            pass: FoundBy::Run,
            phase: Phase::Gather,
            hits: Vec::new(),
            reported: Vec::new(),
            stats: ScanStats::default(),
        }
    }

    /// What was looked at so far.
    #[must_use]
    pub const fn stats(&self) -> ScanStats {
        self.stats
    }

    /// The source of processes.
    #[must_use]
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// Ends the scan and gives the source back.
    #[must_use]
    pub fn into_source(self) -> S {
        self.source
    }

    /// The processes of the present batch.
    #[must_use]
    pub fn processes(&self) -> &[Process<S::Resolver>] {
        self.processes.get(..self.len).unwrap_or_default()
    }

    /// How far the scan is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let pass = match (&self.phase, self.pass) {
            (Phase::Gather, _) => 0,
            (_, FoundBy::Page) => 2,
            (_, FoundBy::Run | FoundBy::RunStart) => 1,
        };
        let (done, total) = match &self.phase {
            Phase::Gather => (self.len as u64, 0),
            Phase::Runs { index, .. } | Phase::Pages { index, .. } | Phase::Reverse { index, .. } => {
                (*index as u64, self.len as u64)
            }
            Phase::Sweep { next, .. } => (next.get() >> PAGE_SHIFT, 0),
            Phase::End => (1, 1),
        };
        Progress { pass, done, total }
    }

    /// Goes on until there is a candidate, the budget is spent, or nothing is left.
    ///
    /// # Errors
    /// [`PhysError`] where the source or the map of physical memory fails as a whole. The scan may be tried again.
    pub fn step<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Candidate<S::Resolver>>, PhysError> {
        loop {
            if let Phase::End = self.phase {
                return Ok(Step::Done);
            }
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            let found = match self.phase {
                Phase::End => return Ok(Step::Done),
                Phase::Gather => {
                    self.gather(mem, budget)?;
                    None
                }
                Phase::Runs { index, finder, run } => self.runs(mem, budget, index, finder, run),
                Phase::Pages { index, cursor, large } => self.pages(mem, budget, index, cursor, large),
                Phase::Sweep { next, extent } => {
                    self.sweep(mem, budget, next, extent)?;
                    None
                }
                Phase::Reverse { index, cursor, part, resume } => {
                    self.reverse(mem, budget, index, cursor, part, resume)
                }
            };
            if let Some(candidate) = found {
                self.stats.candidates = self.stats.candidates.wrapping_add(1);
                return Ok(Step::Found(candidate));
            }
        }
    }

    fn gather<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<(), PhysError> {
        while let Some(slot) = self.processes.get_mut(self.len) {
            match self.source.next_process(mem, budget)? {
                Step::Pending => return Ok(()),
                Step::Done => {
                    self.exhausted = true;
                    break;
                }
                Step::Found(process) => {
                    *slot = process;
                    self.len = self.len.wrapping_add(1);
                    self.stats.spaces = self.stats.spaces.wrapping_add(1);
                }
            }
        }
        self.pass = FoundBy::Run;
        self.phase = if self.len == 0 { Phase::End } else { self.runs_of(0) };
        Ok(())
    }

    fn runs_of(&self, index: usize) -> Phase {
        match self.process(index) {
            Some(process) => Phase::Runs { index, finder: RunFinder::new(process.space.mode.user_end()), run: None },
            None => Phase::Sweep { next: Gpa::new(0), extent: None },
        }
    }

    fn cursor(process: &Process<S::Resolver>) -> LeafCursor {
        LeafCursor::new(Gva::new(0), process.space.mode.user_end()).needing(Rights::USER_WRITE).stopping_at_tables()
    }

    fn pages_of(&self, index: usize) -> Phase {
        match self.process(index) {
            Some(process) => Phase::Pages { index, cursor: Self::cursor(&process), large: PhysRun::default() },
            None => Phase::Sweep { next: Gpa::new(0), extent: None },
        }
    }

    fn reverse_of(&mut self, index: usize, resume: Option<Gpa>) -> Phase {
        match (self.process(index), resume) {
            (Some(process), _) => Phase::Reverse { index, cursor: Self::cursor(&process), part: Part::Next, resume },
            (None, Some(next)) => Phase::Sweep { next, extent: None },
            (None, None) => self.after_pass(),
        }
    }

    /// The phase that follows a whole pass.
    fn after_pass(&mut self) -> Phase {
        match self.pass {
            FoundBy::Page if self.exhausted => Phase::End,
            FoundBy::Page => {
                self.len = 0;
                Phase::Gather
            }
            FoundBy::Run | FoundBy::RunStart => self.pages_of(0),
        }
    }

    fn process(&self, index: usize) -> Option<Process<S::Resolver>> {
        self.processes.get(..self.len)?.get(index).copied()
    }

    fn note_cursor(&mut self, truncated: bool, repeated: u64) {
        self.stats.truncated = self.stats.truncated.wrapping_add(u64::from(truncated));
        self.stats.repeated = self.stats.repeated.wrapping_add(repeated);
    }

    /// Pass 1: the next run of a process; judges its start, then marks the rest.
    fn runs<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
        index: usize,
        mut finder: RunFinder,
        run: Option<Run>,
    ) -> Option<Candidate<S::Resolver>> {
        let Some(process) = self.process(index) else {
            self.phase = Phase::Sweep { next: Gpa::new(0), extent: None };
            return None;
        };
        let walker = PageWalker::new(mem, process.space);
        if let Some(run) = run {
            let rest = self.mark_run_span(mem, &walker, run, budget);
            self.phase = Phase::Runs { index, finder, run: rest };
            return None;
        }
        let tables = finder.tables();
        let step = finder.step(&walker, budget);
        self.stats.tables = self.stats.tables.wrapping_add(finder.tables().wrapping_sub(tables));
        match step {
            RunStep::Pending => {
                self.phase = Phase::Runs { index, finder, run: None };
                None
            }
            RunStep::Done => {
                self.note_cursor(finder.is_truncated(), 0);
                self.phase = self.runs_of(index.wrapping_add(1));
                None
            }
            RunStep::Run(run) => {
                self.stats.runs = self.stats.runs.wrapping_add(1);
                // Where a region can start in the run: its first page, and on to the last that leaves room for one.
                let after = Run {
                    start: run.start.wrapping_add(PAGE_BYTES),
                    end: run.end.wrapping_sub(abi::REGION_BYTES).wrapping_add(PAGE_BYTES),
                };
                self.phase = Phase::Runs { index, finder, run: Some(after) };
                self.judge(mem, &process, Gva::new(run.start), FoundBy::RunStart, budget)
            }
        }
    }

    /// Pass 2: marks the writable user pages of a process, a table at a time.
    fn pages<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
        index: usize,
        mut cursor: LeafCursor,
        large: PhysRun,
    ) -> Option<Candidate<S::Resolver>> {
        self.pass = FoundBy::Page;
        let Some(process) = self.process(index) else {
            self.phase = Phase::Sweep { next: Gpa::new(0), extent: None };
            return None;
        };
        if large.len > 0 {
            let part = large.len.min(PageSize::Size2M.bytes());
            let rest = PhysRun { gpa: large.gpa.wrapping_add(part), len: large.len.wrapping_sub(part) };
            self.phase = Phase::Pages { index, cursor, large: rest };
            self.mark_span(mem, large.gpa, part, budget);
            return None;
        }
        let walker = PageWalker::new(mem, process.space);
        let step = walker.next_leaf(&mut cursor, budget);
        self.phase = Phase::Pages { index, cursor, large };
        match step {
            LeafStep::Table(table) => self.mark_table(mem, &walker, &table, 0, 512, budget),
            LeafStep::Leaf(leaf) => {
                let large = PhysRun { gpa: leaf.gpa, len: leaf.size.bytes() };
                self.phase = Phase::Pages { index, cursor, large };
            }
            LeafStep::Skipped(_) => self.stats.skipped = self.stats.skipped.wrapping_add(1),
            LeafStep::Pending => {}
            LeafStep::Done => {
                self.note_cursor(cursor.is_truncated(), cursor.repeated());
                self.phase = self.pages_of(index.wrapping_add(1));
            }
        }
        None
    }

    /// Reads marked pages in ascending order, until some are hits or none is left.
    fn sweep<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
        mut next: Gpa,
        mut extent: Option<Extent>,
    ) -> Result<(), PhysError> {
        loop {
            if self.hits.is_full() {
                self.phase = self.reverse_of(0, Some(next));
                return Ok(());
            }
            if !budget.spend(1) {
                self.phase = Phase::Sweep { next, extent };
                return Ok(());
            }
            let Some(frame) = self.marked.take_from(next) else {
                self.phase = if self.hits.is_empty() { self.after_pass() } else { self.reverse_of(0, None) };
                return Ok(());
            };
            if frame.get() >> GROUP != next.get() >> GROUP || next.get() == 0 {
                self.prefetch_group(mem, frame);
            }
            next = frame;
            if extent.is_none_or(|extent| frame >= extent.end()) {
                extent = mem.next_extent(frame)?;
            }
            let in_ram =
                extent.is_some_and(|extent| extent.start <= frame && frame.wrapping_add(PAGE_BYTES) <= extent.end());
            if !in_ram {
                self.stats.not_ram = self.stats.not_ram.wrapping_add(1);
                continue;
            }
            self.stats.pages = self.stats.pages.wrapping_add(1);
            if !looks_like_producer(mem, frame, budget) {
                continue;
            }
            // The first pass has reported what starts a run: its frame is looked for elsewhere in the second.
            let known = self.pass != FoundBy::Page && self.reported.iter().any(|(_, _, page)| *page == frame);
            if !known && !self.hits.contains(&frame) {
                // There is room: the list was not full above.
                let _ = self.hits.push(frame);
            }
        }
    }

    /// Asks for the line of every marked frame of a group: their misses overlap, while each is judged by itself.
    fn prefetch_group<M: PhysRead>(&self, mem: &M, frame: Gpa) {
        let first = Gpa::new(frame.get() >> GROUP << GROUP);
        let mut marked = self.marked.around(first);
        while marked != 0 {
            let skip = u64::from(marked.trailing_zeros()) << PAGE_SHIFT;
            mem.prefetch(first.wrapping_add(skip).wrapping_add(abi::producer::STATUS));
            marked &= marked.wrapping_sub(1);
        }
    }

    /// Looks for places that map a hit, one step at a time.
    fn reverse<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
        index: usize,
        mut cursor: LeafCursor,
        part: Part,
        resume: Option<Gpa>,
    ) -> Option<Candidate<S::Resolver>> {
        let process = self.process(index)?;
        let walker = PageWalker::new(mem, process.space);
        let (part, place) = match part {
            Part::Table(table, from) => {
                let (next, place) = self.place_in_table(mem, &walker, &table, from, budget);
                (if next < 512 { Part::Table(table, next) } else { Part::Next }, place)
            }
            Part::Large(leaf, after) => match self.next_hit_in(&leaf, after) {
                None => (Part::Next, None),
                Some(hit) => {
                    let place = leaf.gva.wrapping_add(hit.get().wrapping_sub(leaf.gpa.get()));
                    (Part::Large(leaf, Some(hit)), Some(place))
                }
            },
            Part::Next => {
                let part = match walker.next_leaf(&mut cursor, budget) {
                    LeafStep::Table(table) => Part::Table(table, 0),
                    LeafStep::Leaf(leaf) => Part::Large(leaf, None),
                    LeafStep::Skipped(_) | LeafStep::Pending => Part::Next,
                    LeafStep::Done => {
                        let next = index.wrapping_add(1);
                        if next >= self.len {
                            self.hits.clear();
                        }
                        self.phase = self.reverse_of(next, resume);
                        return None;
                    }
                };
                (part, None)
            }
        };
        self.phase = Phase::Reverse { index, cursor, part, resume };
        place.and_then(|gva| self.judge(mem, &process, gva, self.pass, budget))
    }

    /// The lowest hit in a large page that is above `after`.
    fn next_hit_in(&self, leaf: &Leaf, after: Option<Gpa>) -> Option<Gpa> {
        let inside = |hit: Gpa| hit.get().wrapping_sub(leaf.gpa.get()) < leaf.size.bytes();
        self.hits.iter().copied().filter(|hit| inside(*hit) && after.is_none_or(|after| *hit > after)).min()
    }

    /// The next entry of a table, at or after `from`, whose page is a hit; and the entry after it.
    fn place_in_table<M: PhysRead>(
        &mut self,
        mem: &M,
        walker: &PageWalker<&M, S::Resolver>,
        table: &LeafTable,
        from: u64,
        budget: &mut Budget,
    ) -> (u64, Option<Gva>) {
        let mut block = [0_u64; BLOCK];
        let mut index = from;
        while index < 512 {
            let count = usize::try_from(512_u64.wrapping_sub(index)).unwrap_or(BLOCK).min(BLOCK);
            let Some(words) = block.get_mut(..count) else { break };
            budget.spend(count as u64);
            if mem.load_words(table.table.wrapping_add(index.wrapping_mul(8)), words).is_err() {
                break;
            }
            for word in words.iter() {
                let gva = table.gva.wrapping_add(index << PAGE_SHIFT);
                index = index.wrapping_add(1);
                if let Some(frame) = writable_frame(walker, table, gva, *word)
                    && self.hits.contains(&frame)
                {
                    return (index, Some(gva));
                }
            }
        }
        (512, None)
    }

    /// Judges a place by all rules, and reports it once.
    fn judge<M: PhysRead>(
        &mut self,
        mem: &M,
        process: &Process<S::Resolver>,
        base: Gva,
        by: FoundBy,
        budget: &mut Budget,
    ) -> Option<Candidate<S::Resolver>> {
        self.stats.judged = self.stats.judged.wrapping_add(1);
        let root = process.space.root.table();
        if self.reported.iter().any(|(at_root, at, _)| *at_root == root && *at == base) {
            return None;
        }
        let found = probe_spending(mem, &process.space, base, budget).ok()?;
        // A full list means that a later pass may report a place again, never that one is lost.
        let _ = self.reported.push((root, base, found.page));
        Some(Candidate { process: *process, base, found, by })
    }
}
