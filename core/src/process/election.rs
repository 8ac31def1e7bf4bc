//! The page-table roots of a guest, from its RAM alone: every set of possible top tables that agree with each other is
//! a candidate for the guest's kernel.

use super::groups::{GroupPass, RootGroups};
use super::kernel_half::{COMPARISON, SECOND_ROOT, is_user_half, shares_kernel_half};
use super::pages::Pages;
use super::roots::process_at;
use super::sieve::{ImageLook, LAST_LINE, image_entry};
use super::top_table::TopTables;
use super::{Process, ProcessSource, Step};
use crate::addr::{Cr3, Gpa};
use crate::budget::Budget;
use crate::paging::{AddressSpace, ENTRIES, Hardware, KERNEL_HALF, PagingMode, Pte, all_entries};
use crate::phys::{PhysError, PhysRead};

/// Pages that wait for what they lead to.
const WAITING: usize = 8;

/// A page that could be a top table, as [`RootElection`] keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootCandidate {
    root: Gpa,
    /// The place of its group.
    group: u64,
}

/// The roots of a guest of which nothing is known.
///
/// A page that reads like a top table, and leads through entry 511 or 0x1f0 to a page, joins the first group whose
/// kernel half it shares, or begins one. What counts is not which group is the largest: RAM can hold more roots of the
/// boot before than of this one, and a program can write as many as it likes. So every group is handed out, one root of
/// each in turn, those first whose kernel half maps code, and of these those with a process that has user pages.
/// [`RootGroups::MOST`] groups are kept; a group of one whose kernel half maps no code is none.
///
/// # Bound
/// Two loads for every page of RAM that holds data, or 16 in batches; for each that passes, 26 and at most 512 for
/// every level, 1024 and 512 for the halves of a root, and 768 for each group;
/// [`guess_mode`](super::roots::guess_mode)'s for each group; then at most 1792 for each root that is kept. Where more
/// pages pass than `candidates` holds, those beyond are found by a second pass, as by a
/// [`GroupSource`](super::roots::GroupSource).
#[derive(Debug)]
pub struct RootElection<'s> {
    /// What candidates are read as.
    template: AddressSpace<Hardware>,
    mode: Option<PagingMode>,
    candidates: &'s mut [RootCandidate],
    kept: usize,
    pages: Pages,
    /// Pages that passed the first sieve: what each leads to is on its way into the caches.
    waiting: heapless::Deque<(Gpa, Pte), WAITING>,
    forming: [Forming; RootGroups::MOST],
    left_out: u64,
    /// The first page that passed and was not kept.
    overflow: Option<Gpa>,
    found: RootGroups,
    stage: Stage,
}

/// A group while roots are collected.
#[derive(Clone, Copy, Debug)]
struct Forming {
    root: Gpa,
    /// 0 where the place is free.
    members: u32,
    /// Entries of the kernel half that lead into RAM.
    leads: u32,
    /// Its place among the groups that were found, once they are weighed.
    mode: Option<PagingMode>,
    is_code: bool,
    /// Whether any of its roots maps something for user mode, as that of a process does.
    has_users: bool,
    /// The next of its roots to be handed out, as a place among the candidates.
    next: usize,
}

impl Forming {
    const FREE: Self =
        Self { root: Gpa::new(0), members: 0, leads: 0, mode: None, is_code: false, has_users: false, next: 0 };

    /// Whether this is a group at all.
    const fn counts(&self) -> bool {
        self.members > 1 || (self.members == 1 && self.is_code)
    }
}

/// Whether a root maps something for user mode: an entry of its lower half that grants that leads into RAM. The tables
/// that a kernel or a firmware keeps for itself have none.
fn has_user_half<M: PhysRead>(mem: &M, root: Gpa) -> bool {
    let none = all_entries(mem, root, 0..KERNEL_HALF.start, |_, entry| {
        let is_user = entry.is_present() && entry.get() & Pte::USER != 0;
        !(is_user && mem.is_ram(entry.table()))
    });
    none == Ok(false)
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a search, and it must not allocate")]
enum Stage {
    Collect,
    /// The group that is weighed next.
    Weigh(usize),
    /// The group whose turn it is, and how many in a row had none left.
    HandOut {
        turn: usize,
        idle: usize,
    },
    SecondPass(GroupPass),
    End,
}

impl<'s> RootElection<'s> {
    /// Candidates that suit most guests: 4096, in 64 KiB.
    pub const CANDIDATES: usize = 4096;

    /// A search with the given scratch memory, for tables of `mode`; where that is not known,
    /// [`guess_mode`](super::roots::guess_mode) is asked for each group, and what it says of the best one is taken
    /// where it does not know; 4-level tables where it knows nothing.
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
            candidates,
            kept: 0,
            pages: Pages::new(),
            waiting: heapless::Deque::new(),
            forming: [Forming::FREE; RootGroups::MOST],
            left_out: 0,
            overflow: None,
            found: RootGroups::none(52, 0),
            stage: Stage::Collect,
        }
    }

    /// Pages of RAM that were looked at so far.
    #[must_use]
    pub const fn pages_looked_at(&self) -> u64 {
        self.pages.looked_at
    }

    /// The groups, once they are known: none before.
    #[must_use]
    pub const fn groups(&self) -> &RootGroups {
        &self.found
    }

    /// The root of the group with the best evidence, once it is known.
    #[must_use]
    pub fn reference(&self) -> Option<AddressSpace<Hardware>> {
        self.found.best()
    }

    fn collect<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<bool, PhysError> {
        loop {
            match self.next_page(mem, budget)? {
                Step::Found((page, entry)) => self.consider(mem, page, entry, budget),
                Step::Pending => return Ok(false),
                Step::Done => {
                    return Ok(match self.waiting.pop_front() {
                        Some((page, entry)) => {
                            self.judge(mem, budget, page, entry);
                            false
                        }
                        None => true,
                    });
                }
            }
        }
    }

    /// The next page of RAM whose image entry could be a top table's, with that entry, to be given to
    /// [`consider`](Self::consider): for a search that looks for something else in the same pass.
    #[inline(always)]
    pub(super) fn next_page<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<(Gpa, Pte)>, PhysError> {
        let phys_bits = self.template.phys_bits;
        let look = ImageLook::new(mem, phys_bits);
        loop {
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            let page = match self.pages.advance_to(mem, &look, budget)? {
                Step::Found(page) => page,
                Step::Pending => return Ok(Step::Pending),
                Step::Done => return Ok(Step::Done),
            };
            if let Some(entry) = image_entry(mem, page, phys_bits, budget) {
                return Ok(Step::Found((page, entry)));
            }
        }
    }

    /// Keeps the page if it is a root. What its entry leads to is looked at some pages later.
    pub(super) fn consider<M: PhysRead>(&mut self, mem: &M, page: Gpa, entry: Pte, budget: &mut Budget) {
        // Most pages are no table at all, and lead nowhere.
        if entry.table().get() == 0 || !self.top_tables().is_ram(mem, entry.table()) {
            return;
        }
        mem.prefetch(entry.table().wrapping_add(LAST_LINE));
        if let Err(newest) = self.waiting.push_back((page, entry))
            && let Some((page, entry)) = self.waiting.pop_front()
        {
            let _ = self.waiting.push_back(newest);
            self.judge(mem, budget, page, entry);
        }
    }

    /// Hands all roots out again, once they are known.
    pub(super) fn restart(&mut self) {
        if matches!(self.stage, Stage::HandOut { .. } | Stage::SecondPass(_) | Stage::End) {
            self.forming.iter_mut().for_each(|group| group.next = 0);
            self.stage = Stage::HandOut { turn: 0, idle: 0 };
        }
    }

    const fn top_tables(&self) -> TopTables<'_> {
        TopTables { pages: &self.pages, space: &self.template }
    }

    /// Looks at a page whose image entry could be a top table's, some while after the line that tells most was asked
    /// for: that of what the entry leads to. Page tables, which are the most pages that come so far, lead to anything.
    fn judge<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget, page: Gpa, entry: Pte) {
        if self.top_tables().is_one(mem, page, entry, budget) {
            self.join(mem, page, budget);
        }
    }

    /// Puts a root into the first group that it agrees with, or makes it one.
    fn join<M: PhysRead>(&mut self, mem: &M, root: Gpa, budget: &mut Budget) {
        let phys_bits = self.template.phys_bits;
        // The half for user mode of the page before is no process of its own.
        budget.spend(SECOND_ROOT);
        if is_user_half(mem, root, phys_bits) {
            return;
        }
        let mut place = None;
        for (index, group) in self.forming.iter_mut().enumerate().filter(|(_, group)| group.members > 0) {
            budget.spend(COMPARISON);
            if shares_kernel_half(mem, group.root, root, phys_bits) {
                group.members = group.members.saturating_add(1);
                place = Some(index);
                break;
            }
        }
        let Some(place) = place.or_else(|| self.begin_group(mem, root, budget)) else { return };
        if let Some(group) = self.forming.get_mut(place).filter(|group| !group.has_users) {
            budget.spend(ENTRIES / 2);
            group.has_users = has_user_half(mem, root);
        }
        match self.candidates.get_mut(self.kept).filter(|_| self.overflow.is_none()) {
            Some(slot) => {
                *slot = RootCandidate { root, group: place as u64 };
                self.kept = self.kept.wrapping_add(1);
            }
            None => self.overflow = self.overflow.or(Some(root)),
        }
    }

    /// A place for a group that begins with `root`: a free one, or that of a group of one with weaker evidence.
    fn begin_group<M: PhysRead>(&mut self, mem: &M, root: Gpa, budget: &mut Budget) -> Option<usize> {
        let mut leads = 0_u32;
        budget.spend(ENTRIES / 2);
        all_entries(mem, root, KERNEL_HALF, |_, entry| {
            leads = leads.wrapping_add(u32::from(entry.is_present() && mem.is_ram(entry.table())));
            true
        })
        .ok()?;
        let weakest = self.forming.iter().enumerate().min_by_key(|(_, group)| (group.members, group.leads));
        let (place, group) = weakest.map(|(place, group)| (place, *group))?;
        if group.members > 0 {
            self.left_out = self.left_out.saturating_add(1);
            if group.members > 1 || group.leads > leads {
                return None;
            }
            // What the place held is no group any more.
            for candidate in self.candidates.iter_mut().take(self.kept).filter(|old| old.group == place as u64) {
                candidate.group = u64::MAX;
            }
        }
        *self.forming.get_mut(place)? = Forming { root, members: 1, leads, ..Forming::FREE };
        Some(place)
    }

    /// Weighs the group at `place`.
    fn weigh<M: PhysRead>(&mut self, mem: &M, place: usize, budget: &mut Budget) {
        if let Some(group) = self.forming.get_mut(place).filter(|group| group.members > 0) {
            budget.spend(RootGroups::WEIGHING);
            let guessed = RootGroups::weigh(mem, group.root);
            group.is_code = guessed.is_some();
            group.mode = self.mode.or(guessed);
        }
    }

    /// Lists the groups, the best first.
    fn rank(&mut self) {
        let order = |group: &Forming| {
            (group.is_code, group.has_users, group.leads.min(group.members), group.members, group.leads)
        };
        let fallback = self.forming.iter().filter(|group| group.mode.is_some()).max_by_key(|group| order(group));
        let fallback = fallback.and_then(|group| group.mode).unwrap_or(self.template.mode);
        // A second table of a five-level kernel reads like the top table of a four-level one: such is no group of its
        // own.
        let five = |group: &Forming| group.members > 1 && group.is_code && group.mode == Some(PagingMode::FiveLevel);
        if self.forming.iter().any(five) {
            let second = |group: &&mut Forming| group.members == 1 && group.mode == Some(PagingMode::FourLevel);
            self.forming.iter_mut().filter(second).for_each(|group| *group = Forming::FREE);
        }
        // A simple selection: there are 32 at most.
        let mut listed = [Forming::FREE; RootGroups::MOST];
        let mut place_of = [u64::MAX; RootGroups::MOST];
        let mut found = RootGroups::none(self.template.phys_bits, self.left_out);
        for (rank, slot) in listed.iter_mut().enumerate() {
            let best = self
                .forming
                .iter()
                .enumerate()
                .filter(|(_, group)| group.counts())
                .max_by_key(|(_, group)| order(group));
            let Some((place, group)) = best.map(|(place, group)| (place, *group)) else { break };
            *slot = group;
            found.push(group.root, group.mode.unwrap_or(fallback));
            if let (Some(place_of), Some(taken)) = (place_of.get_mut(place), self.forming.get_mut(place)) {
                *place_of = rank as u64;
                *taken = Forming::FREE;
            }
        }
        let found = if listed.first().is_some_and(|best| best.is_code) { found.of_linux() } else { found };
        for candidate in self.candidates.iter_mut().take(self.kept) {
            let place = usize::try_from(candidate.group).unwrap_or(usize::MAX);
            candidate.group = place_of.get(place).copied().unwrap_or(u64::MAX);
        }
        self.forming = listed;
        self.found = found;
    }

    /// The next kept root of the group at `turn`.
    fn next_of(&mut self, turn: usize) -> Option<Gpa> {
        let group = self.forming.get_mut(turn)?;
        let kept = self.candidates.get(..self.kept)?;
        let mut rest = kept.iter().enumerate().skip(group.next);
        let (place, candidate) = rest.find(|(_, candidate)| candidate.group == turn as u64)?;
        group.next = place.wrapping_add(1);
        Some(candidate.root)
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
            if let Stage::End = self.stage {
                return Ok(Step::Done);
            }
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            self.stage = match self.stage {
                Stage::End => return Ok(Step::Done),
                Stage::Collect => match self.collect(mem, budget)? {
                    true => Stage::Weigh(0),
                    false => continue,
                },
                Stage::Weigh(place) if place < RootGroups::MOST => {
                    self.weigh(mem, place, budget);
                    Stage::Weigh(place.wrapping_add(1))
                }
                Stage::Weigh(_) => {
                    self.rank();
                    Stage::HandOut { turn: 0, idle: 0 }
                }
                Stage::HandOut { idle, .. } if idle >= self.found.len() => match self.overflow {
                    Some(from) => Stage::SecondPass(GroupPass::new(from)),
                    None => Stage::End,
                },
                Stage::HandOut { turn, idle } => {
                    let after = turn.wrapping_add(1);
                    let after = if after < self.found.len() { after } else { 0 };
                    let Some(root) = self.next_of(turn) else {
                        self.stage = Stage::HandOut { turn: after, idle: idle.wrapping_add(1) };
                        continue;
                    };
                    self.stage = Stage::HandOut { turn: after, idle: 0 };
                    let Some(reference) = self.found.references().nth(turn) else { continue };
                    budget.spend(COMPARISON.wrapping_add(SECOND_ROOT));
                    // It is the guest's memory: what was a root may be none now.
                    if shares_kernel_half(mem, reference.root.table(), root, reference.phys_bits) {
                        return Ok(Step::Found(process_at(mem, &reference, root)));
                    }
                    continue;
                }
                Stage::SecondPass(ref mut pass) => return pass.next(mem, &self.found, budget),
            };
        }
    }

    fn left_out(&self) -> u64 {
        self.left_out
    }
}
