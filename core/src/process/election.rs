//! The roots of a guest of which nothing is known: the largest set of possible top tables that agree with each other.

use super::depth::guess_mode;
use super::pages::Pages;
use super::roots::{AHEAD, COMPARED, ENTRIES, KernelHalf, all_fit, entries, process_at, reserved, shares_kernel_half};
use super::{Process, ProcessSource, Step};
use crate::addr::{Cr3, Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::{AddressSpace, Hardware, Level, PagingMode, Pte};
use crate::phys::{PhysError, PhysRead};

/// Entries of a cache line.
const LINE: usize = 8;
/// Where the last line of a table starts.
const LAST_LINE: u64 = PAGE_BYTES - 64;

/// The last entry of a page, where it is present and the line that it stands in could be a top table's. It alone rules most
/// pages out, so it is looked at first.
#[inline]
fn last_of_line<M: PhysRead>(mem: &M, page: Gpa, reserved: u64) -> Option<Pte> {
    // A page that is gone again is no root.
    let last = mem.load_u64(page.wrapping_add(PAGE_BYTES - 8)).ok().map(Pte::new)?;
    if last.get() & (reserved | Pte::PRESENT) != Pte::PRESENT {
        return None;
    }
    let mut line = [0_u64; LINE];
    mem.load_words(page.wrapping_add(LAST_LINE), &mut line).ok()?;
    all_fit(&line, reserved).then_some(last)
}

/// Whether the first line of a page could be a top table's.
fn line_fits<M: PhysRead>(mem: &M, page: Gpa, reserved: u64) -> bool {
    let mut line = [0_u64; LINE];
    mem.load_words(page, &mut line).is_ok() && all_fit(&line, reserved)
}

/// A page that could be a top table, as [`RootElection`] keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootCandidate {
    root: Gpa,
    last: u64,
}

/// The roots of a guest of which nothing is known: the largest set of possible top tables whose last entries are the same
/// and whose kernel halves agree.
///
/// Both Linux and Windows map kernel memory through the last entry of every process's top table.
///
/// # Bound
/// One line, at most 9 loads, for every page of RAM that holds data; for each that passes, 16 and at most 512 for every level; 256 comparisons of
/// 768 loads to find the one to measure by, and [`guess_mode`]'s, as one piece of a budget; then at most 1792 for each that is
/// kept. Where more pages pass than `candidates` holds, the winner so far is used as the reference of a second pass, a
/// [`KernelHalf`].
#[derive(Debug)]
pub struct RootElection<'s> {
    /// What candidates are read as; once the reference is known, the reference.
    template: AddressSpace<Hardware>,
    mode: Option<PagingMode>,
    elected: bool,
    candidates: &'s mut [RootCandidate],
    kept: usize,
    pages: Pages,
    /// Pages that passed the first sieve: what each leads to is on its way into the caches.
    waiting: heapless::Deque<(Gpa, Pte), WAITING>,
    /// Votes for last entries, a bounded tally: the smallest count is replaced when it is full.
    tally: [(u64, u32); TALLY],
    overflowed: bool,
    stage: Stage,
}

const TALLY: usize = 64;

/// Pages that wait for what they lead to.
const WAITING: usize = 8;

/// Candidates that are compared with each other to find the one to measure by.
const SAMPLE: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Stage {
    Collect,
    List { next: usize },
    SecondPass(KernelHalf),
    End,
}

impl<'s> RootElection<'s> {
    /// Candidates that suit most guests: 4096, in 64 KiB.
    pub const CANDIDATES: usize = 4096;

    /// A search with the given scratch memory, for tables of `mode`; where that is not known, [`guess_mode`] is asked as soon
    /// as there is a root to ask it of, and 4-level tables are taken where it does not know either.
    #[must_use]
    pub const fn new(mode: Option<PagingMode>, candidates: &'s mut [RootCandidate]) -> Self {
        // The top table of five levels also passes for one of four: it leads to a page one level too early.
        let levels = match mode {
            Some(mode) => mode,
            None => PagingMode::FourLevel,
        };
        let template = AddressSpace { root: Cr3::new(0), mode: levels, phys_bits: 52, resolver: Hardware };
        Self {
            template,
            mode,
            elected: false,
            candidates,
            kept: 0,
            pages: Pages::new(),
            waiting: heapless::Deque::new(),
            tally: [(0, 0); TALLY],
            overflowed: false,
            stage: Stage::Collect,
        }
    }

    /// Pages of RAM that were looked at so far.
    #[must_use]
    pub const fn pages_looked_at(&self) -> u64 {
        self.pages.looked_at
    }

    /// The root whose kernel half the others are compared with, once it is known.
    #[must_use]
    pub const fn reference(&self) -> Option<AddressSpace<Hardware>> {
        if self.elected { Some(self.template) } else { None }
    }

    fn collect<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<bool, PhysError> {
        let reserved = reserved(self.template.phys_bits);
        loop {
            if !budget.spend(1) {
                return Ok(false);
            }
            let Some(page) = self.pages.advance(mem)? else {
                while let Some((page, last)) = self.waiting.pop_front() {
                    self.judge(mem, budget, page, last);
                }
                return Ok(true);
            };
            mem.prefetch(page.wrapping_add(AHEAD).wrapping_add(LAST_LINE));
            let Some(last) = last_of_line(mem, page, reserved) else { continue };
            // Most of what is left is no table at all, and leads nowhere.
            if last.table().get() == 0 || !self.holds(mem, last.table()) {
                continue;
            }
            mem.prefetch(last.table().wrapping_add(LAST_LINE));
            if let Err(newest) = self.waiting.push_back((page, last))
                && let Some((page, last)) = self.waiting.pop_front()
            {
                let _ = self.waiting.push_back(newest);
                self.judge(mem, budget, page, last);
            }
        }
    }

    /// Whether a page is RAM that holds data. What is not is not read: a pointer into a hole of the file would allocate it.
    fn holds<M: PhysRead>(&self, mem: &M, page: Gpa) -> bool {
        self.pages.is_inside(page) || mem.holds_data(page)
    }

    /// Looks at a page whose last line could be a top table's, some while after the line that tells most was asked for: that of
    /// what its last entry leads to. Page tables, which are the most pages that come so far, lead to anything.
    fn judge<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget, page: Gpa, last: Pte) {
        if !self.leads_on(mem, last.table()) || !line_fits(mem, page, reserved(self.template.phys_bits)) {
            return;
        }
        budget.spend(ENTRIES);
        if self.could_be_root(mem, page, last) {
            self.keep(page, last.get() & COMPARED);
        }
    }

    /// Whether a table of the second level could lie at `table`, by its last line: present entries there lead to tables or
    /// are pages of 1 GiB.
    fn leads_on<M: PhysRead>(&self, mem: &M, table: Gpa) -> bool {
        let mut line = [0_u64; LINE];
        mem.load_words(table.wrapping_add(LAST_LINE), &mut line).is_ok()
            && line.iter().all(|word| {
                let entry = Pte::new(*word);
                !entry.is_present() || entry.reserved_bits(Level::Pdpt, self.template.phys_bits) == 0
            })
    }

    /// A top table whose last entry leads, table by table, to a page, or to a page table that is empty: Linux ends its address
    /// space with such (the second table of its fixmap). Each table must read like one; what the page leads to is looked at
    /// before the rest of it, since it tells sooner.
    fn could_be_root<M: PhysRead>(&self, mem: &M, page: Gpa, last: Pte) -> bool {
        let top = self.template.mode.top();
        let Some(second) = top.below() else { return false };
        self.leads_to_a_page(mem, last.table(), second) && self.last_present(mem, page, top).is_some()
    }

    /// Whether the last entries of tables from `table` of `level` on lead to a page, or to an empty page table.
    fn leads_to_a_page<M: PhysRead>(&self, mem: &M, table: Gpa, level: Level) -> bool {
        let (mut table, mut level) = (table, level);
        loop {
            let Some(last) = self.last_present(mem, table, level) else { return false };
            let Some(below) = level.below() else { return true };
            let Some(entry) = last else { return false };
            if entry.is_leaf(level) {
                return true;
            }
            if !self.holds(mem, entry.table()) {
                return false;
            }
            table = entry.table();
            level = below;
        }
    }

    /// The last present entry of the table of `level` at `table`, if there is one; `None` where it reads like no such table.
    fn last_present<M: PhysRead>(&self, mem: &M, table: Gpa, level: Level) -> Option<Option<Pte>> {
        let mut last = None;
        let fits = entries(mem, table, 0, |_, entry| {
            if entry.is_present() {
                last = Some(entry);
            }
            !entry.is_present() || entry.reserved_bits(level, self.template.phys_bits) == 0
        });
        (fits == Ok(true)).then_some(last)
    }

    fn keep(&mut self, root: Gpa, last: u64) {
        match self.candidates.get_mut(self.kept) {
            Some(slot) => {
                *slot = RootCandidate { root, last };
                self.kept = self.kept.wrapping_add(1);
            }
            None => self.overflowed = true,
        }
        if let Some((_, count)) = self.tally.iter_mut().find(|(value, count)| *count > 0 && *value == last) {
            *count = count.saturating_add(1);
        } else if let Some(smallest) = self.tally.iter_mut().min_by_key(|(_, count)| *count) {
            *smallest = (last, smallest.1.saturating_add(1));
        }
    }

    /// Of the kept candidates with the most frequent last entry, the one that most of a sample agree with: a boot trampoline
    /// shares that entry and little else, and must not be what the others are measured by.
    fn elect<M: PhysRead>(&self, mem: &M) -> Option<Cr3> {
        let (last, _) =
            self.tally.iter().copied().rev().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 0)?;
        let kept = self.candidates.get(..self.kept)?;
        let agreeing = || kept.iter().filter(|candidate| candidate.last == last).map(|candidate| candidate.root);
        let stride = agreeing().count().div_ceil(SAMPLE).max(1);
        let phys_bits = self.template.phys_bits;
        let support = |root: Gpa| {
            let agrees = |other: &Gpa| shares_kernel_half(mem, root, *other, phys_bits);
            agreeing().step_by(stride).filter(agrees).count()
        };
        // Of equals the lowest.
        let mut best = None;
        for root in agreeing().step_by(stride) {
            let count = support(root);
            if best.is_none_or(|(most, _)| count > most) {
                best = Some((count, root));
            }
        }
        best.map(|(_, root)| Cr3::new(root.get()))
    }
}

impl ProcessSource for RootElection<'_> {
    type Resolver = Hardware;

    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<Hardware>>, PhysError> {
        loop {
            self.stage = match self.stage {
                Stage::End => return Ok(Step::Done),
                Stage::Collect => {
                    if !self.collect(mem, budget)? {
                        return Ok(Step::Pending);
                    }
                    match self.elect(mem) {
                        None => Stage::End,
                        Some(root) => {
                            let mode = self.mode.or_else(|| guess_mode(mem, root)).unwrap_or_default();
                            self.template = self.template.at_root(root).with_mode(mode);
                            self.elected = true;
                            if self.overflowed {
                                Stage::SecondPass(KernelHalf::new(self.template))
                            } else {
                                Stage::List { next: 0 }
                            }
                        }
                    }
                }
                Stage::SecondPass(ref mut pass) => return pass.next_process(mem, budget),
                Stage::List { next } => {
                    let Some(candidate) = self.candidates.get(..self.kept).and_then(|kept| kept.get(next)).copied()
                    else {
                        self.stage = Stage::End;
                        continue;
                    };
                    if !budget.spend(ENTRIES) {
                        return Ok(Step::Pending);
                    }
                    let reference = self.template;
                    self.stage = Stage::List { next: next.wrapping_add(1) };
                    if shares_kernel_half(mem, reference.root.table(), candidate.root, reference.phys_bits) {
                        return Ok(Step::Found(process_at(mem, &reference, candidate.root)));
                    }
                    continue;
                }
            };
        }
    }
}
