//! The scan: every process of a source, every address at which a region can be, every candidate; resumable at any point.
//!
//! Two passes over each batch of processes that fits the scratch memory:
//!
//! 1. **Runs.** A region that is wholly present lies in a run of user pages of its size. Runs are found without reading most
//!    page tables. The start of each run is judged at once; the frames of all other pages in it at which a region could start are
//!    marked, and then read in physical order, each once, however many processes map them.
//! 2. **Pages.** A region need not be wholly present: slots that were never used, or trimmed pages. So the frames of all writable
//!    user pages are marked and read the same way.
//!
//! A frame that reads like a producer page is then looked for in all processes, and each place that maps it is judged by the
//! whole of the rules ([`probe()`](super::probe()).

use heapless::Vec;

use super::frames::FrameSet;
use super::probe::{Found, looks_like_producer, probe_spending};
use super::windows::{BLOCK, Run, RunFinder, RunStep, Window, window_at};
use crate::abi;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{AbsentResolver, Leaf, LeafCursor, LeafStep, LeafTable, PageWalker, Pte, Rights};
use crate::phys::{Extent, PhysError, PhysRead, PhysRun};
use crate::process::{Process, ProcessSource, Step};
use crate::region::Region;

/// Frames that look like producer pages and wait to be looked for in the processes.
const HITS: usize = 64;
/// Log2 of the bytes of 64 frames: they are asked for together.
const GROUP: u32 = PAGE_SHIFT + 6;
/// Candidates whose place is remembered, so that the second pass does not report them again.
const REPORTED: usize = 64;

/// A region that was found by its structure, and the process that it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<R> {
    /// Whose address space it is in.
    pub process: Process<R>,
    /// Its first address there.
    pub base: Gva,
    /// What its producer page says.
    pub found: Found,
    /// What found it.
    pub by: FoundBy,
}

impl<R: AbsentResolver> Candidate<R> {
    /// A handle on it.
    #[must_use]
    pub const fn region(&self) -> Region<R> {
        Region::new(self.process.space, self.base)
    }
}

/// Which part of the scan found a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// It starts a run of present pages.
    RunStart,
    /// It lies in a run of present pages.
    Run,
    /// Only its producer page had to be there.
    Page,
}

/// Scratch memory of a scan, lent by the caller. Its contents before and after mean nothing.
#[derive(Debug)]
pub struct ScanScratch<'s, R> {
    /// Processes that are scanned together: at least one. With room for all of a guest's, each frame is read once.
    pub processes: &'s mut [Process<R>],
    /// One bit for each 4 KiB frame: [`ScanScratch::frame_words`]. Frames beyond are read as they are met, which is
    /// slower; more than 64 of those that look like producer pages at once are counted as skipped.
    pub frames: &'s mut [u64],
}

impl<R> ScanScratch<'_, R> {
    /// Processes that suit most guests.
    pub const PROCESSES: usize = 1024;

    /// The words of `frames` that cover physical memory up to `end`: 128 KiB for 4 GiB.
    #[must_use]
    pub const fn frame_words(end: Gpa) -> u64 {
        end.get().div_ceil(PAGE_BYTES * 64)
    }
}

/// What a scan looked at, and what it passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanStats {
    /// Address spaces that were scanned.
    pub spaces: u64,
    /// Page tables that were read.
    pub tables: u64,
    /// Runs of present user pages that are long enough for a region.
    pub runs: u64,
    /// Frames that were read to see whether they are producer pages.
    pub frames: u64,
    /// Places that were judged by all rules.
    pub judged: u64,
    /// Candidates.
    pub candidates: u64,
    /// Marked frames that are not RAM, or hold no data.
    pub not_ram: u64,
    /// Stretches of page tables that could not be read, or had reserved bits set.
    pub skipped: u64,
    /// Entries that led back to a table above them, or to the same table as the entry before.
    pub repeated: u64,
    /// Address spaces that were left before their end, because they have more tables than
    /// [`LeafCursor::TABLES`].
    pub truncated: u64,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// 0 gathering processes, 1 runs, 2 pages.
    pub pass: u8,
    /// Parts done of the pass, in this batch.
    pub done: u64,
    /// Parts of the pass, in this batch; 0 where not known.
    pub total: u64,
}

/// A scan in progress.
///
/// # Bound
/// For each space, at most 512 loads for each of its first [`LeafCursor::TABLES`] tables, four times; a large page counts as
/// the tables that it stands for. For each frame of RAM, at most 2 x 44 loads a batch of processes and, for each that looks like a
/// producer page, one more enumeration of the spaces for every 64 of them; for each place that maps such a frame, [`probe()`](super::probe())'s.
///
/// Every candidate is reported at least once; a guest that shows more than 64 may see some reported twice.
#[derive(Debug)]
pub struct Discovery<'s, S: ProcessSource> {
    source: S,
    processes: &'s mut [Process<S::Absent>],
    frames: FrameSet<'s>,
    len: usize,
    exhausted: bool,
    pass: FoundBy,
    phase: Phase,
    hits: Vec<Gpa, HITS>,
    reported: Vec<(Gpa, Gva, Gpa), REPORTED>,
    stats: ScanStats,
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
    /// The marked frames from `next` on.
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
    pub fn new(source: S, scratch: ScanScratch<'s, S::Absent>) -> Self {
        let ScanScratch { processes, frames } = scratch;
        let mut frames = FrameSet::new(frames);
        frames.clear();
        Self {
            source,
            processes,
            frames,
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
    pub fn processes(&self) -> &[Process<S::Absent>] {
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
    pub fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<Candidate<S::Absent>>, PhysError> {
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

    fn cursor(process: &Process<S::Absent>) -> LeafCursor {
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

    fn process(&self, index: usize) -> Option<Process<S::Absent>> {
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
    ) -> Option<Candidate<S::Absent>> {
        let Some(process) = self.process(index) else {
            self.phase = Phase::Sweep { next: Gpa::new(0), extent: None };
            return None;
        };
        let walker = PageWalker::new(mem, process.space);
        if let Some(run) = run {
            let rest = self.mark_window(mem, &walker, run, budget);
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

    /// Marks the frames of the writable pages of one window of `run`; gives what is left of it.
    fn mark_window<M: PhysRead>(
        &mut self,
        mem: &M,
        walker: &PageWalker<&M, S::Absent>,
        run: Run,
        budget: &mut Budget,
    ) -> Option<Run> {
        if run.start >= run.end {
            return None;
        }
        let window = run.start & !PageSize::Size2M.offset_mask();
        let end = run.end.min(window.wrapping_add(PageSize::Size2M.bytes()));
        budget.spend(4);
        match window_at(walker, window) {
            Window::Nothing => {}
            Window::Large { gpa, rights } => {
                if rights.grant(Rights::USER_WRITE) {
                    let skip = run.start.wrapping_sub(window);
                    self.mark_span(mem, gpa.wrapping_add(skip), end.wrapping_sub(run.start), budget);
                }
            }
            Window::Table { table, rights } => {
                let first = (run.start >> PAGE_SHIFT) & 511;
                let last = first.wrapping_add(end.wrapping_sub(run.start) >> PAGE_SHIFT);
                let table = LeafTable { gva: Gva::new(window), table, rights };
                self.mark_table(mem, walker, &table, first, last, budget);
            }
        }
        Some(Run { start: end, end: run.end })
    }

    /// Marks the frames of the writable user pages of a page table, entries `first .. last`.
    fn mark_table<M: PhysRead>(
        &mut self,
        mem: &M,
        walker: &PageWalker<&M, S::Absent>,
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

    fn mark_span<M: PhysRead>(&mut self, mem: &M, gpa: Gpa, len: u64, budget: &mut Budget) {
        let mut done = 0_u64;
        // No load, but work: a word of the set for every 64 frames.
        budget.spend(len.div_ceil(64 * PAGE_BYTES));
        while done < len {
            self.mark(mem, gpa.wrapping_add(done), budget);
            done = done.wrapping_add(PAGE_BYTES);
        }
    }

    /// Marks a frame; one beyond the set is read at once, and kept if there is room.
    #[inline]
    fn mark<M: PhysRead>(&mut self, mem: &M, frame: Gpa, budget: &mut Budget) {
        if !self.frames.insert(frame) {
            self.read_unmarked(mem, frame, budget);
        }
    }

    #[cold]
    fn read_unmarked<M: PhysRead>(&mut self, mem: &M, frame: Gpa, budget: &mut Budget) {
        budget.spend(1);
        if !mem.holds_page(frame) {
            self.stats.not_ram = self.stats.not_ram.wrapping_add(1);
            return;
        }
        self.stats.frames = self.stats.frames.wrapping_add(1);
        if looks_like_producer(mem, frame, budget) && !self.hits.contains(&frame) && self.hits.push(frame).is_err() {
            self.stats.skipped = self.stats.skipped.wrapping_add(1);
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
    ) -> Option<Candidate<S::Absent>> {
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

    /// Reads marked frames in ascending order, until some are hits or none is left.
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
            let Some(frame) = self.frames.take_from(next) else {
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
            self.stats.frames = self.stats.frames.wrapping_add(1);
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
        let mut marked = self.frames.around(first);
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
    ) -> Option<Candidate<S::Absent>> {
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
        walker: &PageWalker<&M, S::Absent>,
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
        process: &Process<S::Absent>,
        base: Gva,
        by: FoundBy,
        budget: &mut Budget,
    ) -> Option<Candidate<S::Absent>> {
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

/// The frame of an entry of a page table, if user mode may write to it; absent entries are given to the resolver.
#[inline(always)]
fn writable_frame<M: PhysRead, R: AbsentResolver>(
    walker: &PageWalker<&M, R>,
    table: &LeafTable,
    gva: Gva,
    word: u64,
) -> Option<Gpa> {
    let entry = Pte::new(word);
    if entry.is_present() {
        const WRITE: u64 = Pte::PRESENT | Pte::USER | Pte::WRITABLE;
        let fits = word & WRITE == WRITE
            && table.rights.grant(Rights::USER_WRITE)
            && entry.reserved_bits(crate::paging::Level::Pt, walker.space().phys_bits) == 0;
        return fits.then(|| entry.frame(PageSize::Size4K));
    }
    if word == 0 || !R::RESOLVES {
        return None;
    }
    let found = walker.needing(Rights::USER_WRITE).translate(gva).ok()?;
    Some(found.gpa.align_down(PageSize::Size4K))
}
