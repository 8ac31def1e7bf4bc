//! The scan: every process of a source, every address at which a region can be, every candidate; resumable at any
//! point.
//!
//! Two passes over each batch of processes that fits the scratch memory, with the first tables of each; then over those
//! that have more, with all of theirs. No process is scanned to its end while others have not had their turn:
//!
//! 1. **Runs.** A region that is wholly present lies in a run of user pages of its size. Runs are found without reading
//!    most page tables. The start of each run is judged at once; the pages of all other pages in it at which a region
//!    could start are marked, and then read in physical order, each once, however many processes map them.
//! 2. **Pages.** A region need not be wholly present: slots that were never used, or trimmed pages. So the pages of all
//!    writable user pages are marked and read the same way.
//!
//! A page that reads like a producer page is then looked for in all processes, and each place that maps it is judged by
//! the whole of the rules ([`probe()`](super::probe()).

use heapless::Vec;

use super::marked::Marked;
use super::probe::{NoRegion, Probe};
use super::report::{Candidate, FoundBy, Progress, ScanScratch, ScanStats};
use super::reverse::{Reverse, Reversed};
use super::rounds::Rounds;
use super::spans::{Run, RunFinder, RunStep};
use super::sweep::{Sweep, Swept};
use crate::abi;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT};
use crate::budget::Budget;
use crate::paging::{ENTRIES, Hardware, LeafCursor, LeafStep, LeafTable, PageWalker, Rights, WalkError, WalkErrorKind};
use crate::phys::{PhysError, PhysErrorKind, PhysRead, PhysRun};
use crate::process::{Process, ProcessSource, Step};

/// Candidates whose place is remembered, so that the second pass does not report them again.
const REPORTED: usize = 64;

/// A scan in progress.
///
/// # Bound
/// For each space, at most 512 loads for each of its first [`LeafCursor::TABLES`] tables, four times; where the batch
/// has other spaces, the same for its first 2^12 tables before. A large page counts as the tables that it stands for,
/// and what the resolver reads and what places that may hold a region cost to judge count as tables too. For each page
/// of RAM, at most 4 x 49 loads a batch of processes and, for each 64 that look like producer pages, one more
/// enumeration of the spaces.
///
/// A step overdraws its budget by at most [`Budget::PIECE`] loads, if the source does.
///
/// Every candidate is reported at least once, with any size of scratch memory; a guest that shows more than 64 may see
/// some reported twice.
#[derive(Debug)]
pub struct Discovery<'s, S: ProcessSource> {
    source: S,
    processes: &'s mut [Process<S::Resolver>],
    marked: Marked<'s>,
    len: usize,
    rounds: Rounds,
    exhausted: bool,
    pass: FoundBy,
    phase: Phase,
    /// What goes on when the hits were looked for: none where the pass ends then.
    after_hits: Option<Phase>,
    /// A place that is being judged, before anything else goes on.
    judging: Option<Judging>,
    reported: Vec<(Gpa, Gva, Gpa), REPORTED>,
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
    /// Pass 2: the pages of process `index`.
    Pages {
        index: usize,
        cursor: LeafCursor,
        part: Part,
    },
    /// The marked pages.
    Sweep(Sweep),
    /// The places in process `index` that map a hit.
    Reverse {
        index: usize,
        reverse: Reverse,
    },
    End,
}

/// What of an address space is being marked.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Ask the cursor for the next.
    Next,
    /// A page table, from this entry on.
    Table(LeafTable, u64),
    /// What is left of a large page.
    Large(PhysRun),
}

#[derive(Clone, Copy, Debug)]
struct Judging {
    probe: Probe,
    index: usize,
    base: Gva,
    by: FoundBy,
}

impl<'s, S: ProcessSource> Discovery<'s, S> {
    /// A scan of all processes of `source`.
    #[must_use]
    pub fn new(source: S, scratch: ScanScratch<'s, S::Resolver>) -> Self {
        let ScanScratch { processes, page_bitmap } = scratch;
        Self {
            source,
            processes,
            marked: Marked::new(page_bitmap),
            len: 0,
            rounds: Rounds::first(0),
            exhausted: false,
            pass: FoundBy::Run,
            phase: Phase::Gather,
            after_hits: None,
            judging: None,
            reported: Vec::new(),
        }
    }

    /// What was looked at so far.
    #[must_use]
    pub fn stats(&self) -> ScanStats {
        ScanStats { left_out: self.source.left_out(), ..self.marked.stats }
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
            Phase::Sweep(sweep) => (sweep.next.get() >> PAGE_SHIFT, 0),
            Phase::End => (1, 1),
        };
        Progress { pass, done, total }
    }

    /// Goes on until there is a candidate, the budget is spent, or nothing is left.
    ///
    /// # Errors
    /// [`PhysError`] where the source or the map of physical memory fails as a whole, or the caller wants to end. The
    /// scan may be tried again.
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
            if mem.is_cancelled() {
                return Err(PhysError::new(Gpa::new(0), PhysErrorKind::Cancelled));
            }
            if let Some(judging) = self.judging {
                if let Some(candidate) = self.judge(mem, judging, budget) {
                    self.marked.stats.candidates = self.marked.stats.candidates.wrapping_add(1);
                    return Ok(Step::Found(candidate));
                }
                continue;
            }
            match self.phase {
                Phase::End => return Ok(Step::Done),
                Phase::Gather => self.gather(mem, budget)?,
                Phase::Runs { index, finder, run } => self.runs(mem, budget, index, finder, run),
                Phase::Pages { index, cursor, part } => self.pages(mem, budget, index, cursor, part),
                Phase::Sweep(sweep) => self.sweep(mem, budget, sweep)?,
                Phase::Reverse { index, reverse } => self.reverse(mem, budget, index, reverse),
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
                    self.marked.stats.spaces = self.marked.stats.spaces.wrapping_add(1);
                }
            }
        }
        self.rounds = Rounds::first(self.len);
        self.pass = FoundBy::Run;
        self.phase = if self.len == 0 { Phase::End } else { self.runs_of(0) };
        Ok(())
    }

    fn runs_of(&self, index: usize) -> Phase {
        match self.process(index) {
            Some(process) => {
                let finder = RunFinder::new(process.space.mode.user_end(), self.rounds.tables());
                Phase::Runs { index, finder, run: None }
            }
            None => Phase::Sweep(Sweep::START),
        }
    }

    fn cursor(&self, process: &Process<S::Resolver>) -> LeafCursor {
        LeafCursor::new(Gva::new(0), process.space.mode.user_end())
            .needing(Rights::USER_WRITE)
            .stopping_at_tables()
            .with_tables(self.rounds.tables())
    }

    fn pages_of(&self, index: usize) -> Phase {
        match self.process(index) {
            Some(process) => Phase::Pages { index, cursor: self.cursor(&process), part: Part::Next },
            None => Phase::Sweep(Sweep::START),
        }
    }

    /// The look for hits in process `index`; behind the last, what was left for it.
    fn reverse_of(&mut self, index: usize) -> Phase {
        if let Some(process) = self.process(index) {
            return Phase::Reverse { index, reverse: Reverse::new(self.cursor(&process)) };
        }
        self.marked.forget_hits();
        match self.after_hits.take() {
            Some(phase) => phase,
            None => self.after_pass(),
        }
    }

    /// Looks for the hits, then goes on with `phase`.
    fn look_for_hits(&mut self, after: Option<Phase>) {
        self.after_hits = after;
        self.phase = self.reverse_of(0);
    }

    /// The phase that follows a whole pass.
    fn after_pass(&mut self) -> Phase {
        match self.pass {
            FoundBy::Page => match self.rounds.next() {
                Some(len) => {
                    self.len = len;
                    self.pass = FoundBy::Run;
                    self.runs_of(0)
                }
                None if self.exhausted => Phase::End,
                None => {
                    self.len = 0;
                    Phase::Gather
                }
            },
            FoundBy::Run | FoundBy::RunStart => {
                self.pass = FoundBy::Page;
                self.pages_of(0)
            }
        }
    }

    fn process(&self, index: usize) -> Option<Process<S::Resolver>> {
        self.processes.get(..self.len)?.get(index).copied()
    }

    /// A walker that also takes pages whose rights the guest keeps to itself for now: such a place is at least counted.
    fn walker<'m, M: PhysRead>(mem: &'m M, process: &Process<S::Resolver>) -> PageWalker<&'m M, S::Resolver> {
        PageWalker::new(mem, process.space).taking_unknown_rights()
    }

    /// What became of the enumeration of process `index`.
    fn note_cursor(&mut self, index: usize, truncated: bool, repeated: u64) {
        let stats = &mut self.marked.stats;
        stats.repeated = stats.repeated.wrapping_add(repeated);
        if truncated && self.rounds.note_cut(self.processes.get_mut(..self.len).unwrap_or_default(), index) {
            stats.truncated = stats.truncated.wrapping_add(1);
        }
    }

    /// Pass 1: the next run of a process; has its start judged, then marks the rest. It is about pages that are
    /// present, so nobody is asked about others.
    fn runs<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
        index: usize,
        mut finder: RunFinder,
        run: Option<Run>,
    ) {
        let Some(process) = self.process(index) else {
            self.phase = Phase::Sweep(Sweep::START);
            return;
        };
        let walker = PageWalker::new(mem, process.space.with_resolver(Hardware));
        if let Some(run) = run {
            let run = self.marked.mark_run_span(&walker, run, budget);
            self.phase = Phase::Runs { index, finder, run };
            self.make_room();
            return;
        }
        let tables = finder.tables();
        let step = finder.step(&walker, budget);
        self.marked.stats.tables = self.marked.stats.tables.wrapping_add(finder.tables().wrapping_sub(tables));
        match step {
            RunStep::Pending => self.phase = Phase::Runs { index, finder, run: None },
            RunStep::Done => {
                self.note_cursor(index, finder.is_truncated(), 0);
                self.phase = self.runs_of(index.wrapping_add(1));
            }
            RunStep::Run(run) => {
                self.marked.stats.runs = self.marked.stats.runs.wrapping_add(1);
                // Where a region can start in the run: its first page, and on to the last that leaves room for one.
                let after = Run {
                    start: run.start.wrapping_add(PAGE_BYTES),
                    end: run.end.wrapping_sub(abi::REGION_BYTES).wrapping_add(PAGE_BYTES),
                };
                self.phase = Phase::Runs { index, finder, run: Some(after) };
                self.have_judged(index, Gva::new(run.start), FoundBy::RunStart);
            }
        }
    }

    /// Pass 2: marks the writable user pages of a process, a table at a time.
    fn pages<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget, index: usize, mut cursor: LeafCursor, part: Part) {
        let Some(process) = self.process(index) else {
            self.phase = Phase::Sweep(Sweep::START);
            return;
        };
        let walker = Self::walker(mem, &process);
        let part = match part {
            Part::Large(PhysRun { gpa, len }) => {
                let done = self.marked.mark_span(mem, gpa, len, budget);
                let rest = PhysRun { gpa: gpa.wrapping_add(done), len: len.wrapping_sub(done) };
                if rest.len > 0 { Part::Large(rest) } else { Part::Next }
            }
            Part::Table(table, from) => {
                let read = self.marked.mark_table(&walker, &table, (from, ENTRIES), budget);
                if cursor.charge(read.resolving) && read.next < ENTRIES {
                    Part::Table(table, read.next)
                } else {
                    Part::Next
                }
            }
            Part::Next => match walker.next_leaf(&mut cursor, budget) {
                LeafStep::Table(table) => Part::Table(table, 0),
                LeafStep::Leaf(leaf) => Part::Large(PhysRun { gpa: leaf.gpa, len: leaf.size.bytes() }),
                LeafStep::Skipped(_) => {
                    self.marked.stats.skipped = self.marked.stats.skipped.wrapping_add(1);
                    Part::Next
                }
                LeafStep::Pending => Part::Next,
                LeafStep::Done => {
                    self.note_cursor(index, cursor.is_truncated(), cursor.repeated());
                    self.phase = self.pages_of(index.wrapping_add(1));
                    return;
                }
            },
        };
        self.phase = Phase::Pages { index, cursor, part };
        self.make_room();
    }

    /// Where no hit has room, those that wait are looked for before the phase goes on.
    fn make_room(&mut self) {
        if self.marked.is_full() {
            self.look_for_hits(Some(self.phase));
        }
    }

    /// Reads marked pages in ascending order, until some are hits or none is left.
    fn sweep<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget, mut sweep: Sweep) -> Result<(), PhysError> {
        // The first pass has reported what starts a run: its page is looked for elsewhere in the second.
        let first = self.pass != FoundBy::Page;
        let reported = &self.reported;
        let known = |page: Gpa| first && reported.iter().any(|(_, _, at)| *at == page);
        let swept = sweep.step(mem, &mut self.marked, budget, known);
        self.phase = Phase::Sweep(sweep);
        match swept? {
            Swept::Pending => {}
            Swept::Full => self.make_room(),
            Swept::Done => self.look_for_hits(None),
        }
        Ok(())
    }

    /// Looks for places that map a hit, one step at a time.
    fn reverse<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget, index: usize, mut reverse: Reverse) {
        let step = match self.process(index) {
            Some(process) if !self.marked.hits().is_empty() => {
                reverse.step(&Self::walker(mem, &process), &self.marked, budget)
            }
            _ => Reversed::Done,
        };
        self.phase = Phase::Reverse { index, reverse };
        match step {
            Reversed::Place(gva) => self.have_judged(index, gva, self.pass),
            Reversed::On => {}
            Reversed::Done => {
                if reverse.is_truncated() {
                    self.rounds.note_cut_outside(self.len);
                }
                self.phase = self.reverse_of(index.wrapping_add(1));
            }
        }
    }

    /// Has a place judged by all rules next, if it was not reported yet.
    fn have_judged(&mut self, index: usize, base: Gva, by: FoundBy) {
        self.marked.stats.judged = self.marked.stats.judged.wrapping_add(1);
        let Some(process) = self.process(index) else { return };
        let root = process.space.root.table();
        if !self.reported.iter().any(|(at_root, at, _)| *at_root == root && *at == base) {
            self.judging = Some(Judging { probe: Probe::new(base), index, base, by });
        }
    }

    /// Goes on judging a place; gives the candidate, if it is one.
    fn judge<M: PhysRead>(
        &mut self,
        mem: &M,
        mut judging: Judging,
        budget: &mut Budget,
    ) -> Option<Candidate<S::Resolver>> {
        self.judging = None;
        let process = self.process(judging.index)?;
        let before = budget.spent();
        let verdict = judging.probe.step(mem, &process.space, budget);
        let loads = budget.spent().wrapping_sub(before);
        // A space that shows many places pays for them out of its own tables: none keeps the others waiting.
        match &mut self.phase {
            Phase::Runs { finder, .. } => finder.charge(loads),
            Phase::Reverse { reverse, .. } => reverse.charge(loads),
            Phase::Gather | Phase::Pages { .. } | Phase::Sweep(_) | Phase::End => {}
        }
        let found = match verdict {
            None => {
                self.judging = Some(judging);
                return None;
            }
            Some(Err(NoRegion::Page(WalkError { kind: WalkErrorKind::RightsUnknown { .. }, .. }))) => {
                self.marked.stats.undecided = self.marked.stats.undecided.wrapping_add(1);
                return None;
            }
            Some(verdict) => verdict.ok()?,
        };
        let Judging { base, by, .. } = judging;
        // A full list means that a later pass may report a place again, never that one is lost.
        let _ = self.reported.push((process.space.root.table(), base, found.page));
        Some(Candidate { process, base, found, by })
    }
}
