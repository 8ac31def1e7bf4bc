//! Groups of roots. A guest's RAM can hold roots of several kernels: the one that runs, the one of the boot before, one
//! that a program made up. Memory alone does not show which one runs, so every group is handed out, in turn.

use super::depth::guess_mode;
use super::kernel_half::{COMPARISON, SECOND_ROOT, first_of_pair, is_given_with, shares_kernel_half};
use super::pages::Pages;
use super::roots::{KernelHalf, process_at};
use super::sieve::{ImageLook, image_entry};
use super::{Process, ProcessSource, Step};
use crate::addr::{Cr3, Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::{AddressSpace, Hardware, PagingMode, Pte};
use crate::phys::{PhysError, PhysRead};

/// The groups of roots that were found in a guest, the one with the best evidence first: what its kernel half maps,
/// whether any has a user half, then how many there are. A plain value; it holds no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootGroups {
    /// The root that each group is measured by; with [`FIVE`] where its tables have five levels.
    roots: [u64; Self::MOST],
    len: usize,
    phys_bits: u32,
    is_linux: bool,
    left_out: u64,
    /// The first group was seen to run.
    runs: bool,
}

/// A bit that no root has.
const FIVE: u64 = 1;

/// A root and the depth of its tables in one word.
const fn pack(root: u64, mode: PagingMode) -> u64 {
    let address = root & Pte::ADDRESS;
    match mode {
        PagingMode::FourLevel => address,
        PagingMode::FiveLevel => address | FIVE,
    }
}

impl RootGroups {
    /// Groups that are kept; those beyond, of the weakest evidence, are counted.
    pub const MOST: usize = 32;

    /// What [`guess_mode`] reads at most.
    pub(super) const WEIGHING: u64 = 9216;

    /// The group of one known root.
    #[must_use]
    pub const fn of(reference: AddressSpace<Hardware>) -> Self {
        let AddressSpace { root, mode, phys_bits, .. } = reference;
        let roots = [pack(root.table().get(), mode); Self::MOST];
        Self { roots, len: 1, phys_bits, is_linux: false, left_out: 0, runs: false }
    }

    pub(super) const fn none(phys_bits: u32, left_out: u64) -> Self {
        Self { roots: [0; Self::MOST], len: 0, phys_bits, is_linux: false, left_out, runs: false }
    }

    pub(super) fn push(&mut self, root: Gpa, mode: PagingMode) {
        if let Some(slot) = self.roots.get_mut(self.len) {
            *slot = pack(root.get(), mode);
            self.len = self.len.wrapping_add(1);
        }
    }

    /// The root that each group is measured by, as an address space.
    pub fn references(&self) -> impl Iterator<Item = AddressSpace<Hardware>> {
        let phys_bits = self.phys_bits;
        self.roots.into_iter().take(self.len).map(move |packed| {
            let mode = if packed & FIVE == 0 { PagingMode::FourLevel } else { PagingMode::FiveLevel };
            AddressSpace::new(Cr3::new(packed & !FIVE)).with_mode(mode).with_phys_bits(phys_bits)
        })
    }

    /// The best group's.
    #[must_use]
    pub fn best(&self) -> Option<AddressSpace<Hardware>> {
        self.references().next()
    }

    /// How many groups there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the best group's kernel has its code in the last 2 GiB of the address space, as Linux has; so have the
    /// BSDs, in whose page tables an entry without P is empty.
    #[must_use]
    pub const fn is_linux(&self) -> bool {
        self.is_linux
    }

    /// The same groups, of a kernel that is Linux by that evidence.
    #[must_use]
    pub const fn of_linux(self) -> Self {
        Self { is_linux: true, ..self }
    }

    /// The same, with the group that `root` belongs to as the first: under it something was seen to move between two
    /// looks, a heartbeat for one. Its roots then have a turn before those of the others.
    ///
    /// # Bound
    /// 768 loads for each group.
    #[must_use]
    pub fn led_by<M: PhysRead>(self, mem: &M, root: Cr3) -> Self {
        let belongs = |reference: AddressSpace<Hardware>| {
            shares_kernel_half(mem, reference.root.table(), root.table(), reference.phys_bits)
        };
        let Some(place) = self.references().position(belongs) else { return self };
        let mut led = Self { runs: true, ..self };
        if let Some(roots) = led.roots.get_mut(..=place) {
            roots.rotate_right(1);
        }
        led
    }

    /// Groups that there was no room for.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The roots of all groups.
    #[must_use]
    pub fn processes(&self) -> GroupSource {
        match (self.len, self.best()) {
            (1, Some(reference)) => GroupSource { groups: *self, way: Way::One(KernelHalf::new(reference)) },
            _ => GroupSource { groups: *self, way: Way::All(GroupPass::new(Gpa::new(0)).led(self.runs)) },
        }
    }

    /// How deep the tables under `root` are, and whether the kernel half maps code at all.
    pub(super) fn weigh<M: PhysRead>(mem: &M, root: Gpa) -> Option<PagingMode> {
        guess_mode(mem, Cr3::new(root.get()))
    }
}

/// The roots of some groups, found by a pass over RAM: a source. No group keeps the others waiting: each gives 256
/// roots at most in the first round, twice as many in the next, and so on; the last one left gives all it has. A group
/// that was [seen to run](RootGroups::led_by) has a round of its own before.
///
/// # Bound
/// With one group, that of [`KernelHalf`]. With more, a round is ten loads at most for every page of RAM that holds
/// data; for a page that passes, 1024, and 768 for each group, once for itself and once for the root beside it; and
/// 1024 more where it is one. There are as many rounds as the largest group's roots double 256, and one more where a
/// group was seen to run. A step overdraws its
/// budget by [`Budget::PIECE`] at most.
#[derive(Clone, Copy, Debug)]
pub struct GroupSource {
    groups: RootGroups,
    way: Way,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a scan, and it must not allocate")]
enum Way {
    One(KernelHalf),
    All(GroupPass),
}

impl GroupSource {
    /// The groups whose roots these are.
    #[must_use]
    pub const fn groups(&self) -> &RootGroups {
        &self.groups
    }

    /// Pages of RAM that were looked at so far.
    #[must_use]
    pub const fn pages_looked_at(&self) -> u64 {
        match &self.way {
            Way::One(pass) => pass.pages_looked_at(),
            Way::All(pass) => pass.pages.looked_at,
        }
    }
}

impl ProcessSource for GroupSource {
    type Resolver = Hardware;

    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<Hardware>>, PhysError> {
        match &mut self.way {
            Way::One(pass) => pass.next_process(mem, budget),
            Way::All(pass) => pass.next(mem, &self.groups, budget),
        }
    }

    fn left_out(&self) -> u64 {
        self.groups.left_out
    }
}

/// Roots that a group gives in the first round.
const TURN: u32 = 256;

/// Rounds over RAM, from a page on.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupPass {
    pages: Pages,
    /// A page that passed, and goes with no other root: which group it belongs to is looked at next.
    alone: Option<Gpa>,
    /// This round is the first group's alone.
    led: bool,
    turn: u32,
    given: [u32; RootGroups::MOST],
    /// Where each group goes on.
    next: [Gpa; RootGroups::MOST],
}

impl GroupPass {
    pub(super) const fn new(from: Gpa) -> Self {
        Self {
            pages: Pages::from(from),
            alone: None,
            led: false,
            turn: TURN,
            given: [0; RootGroups::MOST],
            next: [from; RootGroups::MOST],
        }
    }

    /// The same, with a round before that is the first group's alone, where `led` says so.
    const fn led(self, led: bool) -> Self {
        Self { led, ..self }
    }

    pub(super) fn next<M: PhysRead>(
        &mut self,
        mem: &M,
        groups: &RootGroups,
        budget: &mut Budget,
    ) -> Result<Step<Process<Hardware>>, PhysError> {
        loop {
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            let Some(page) = self.alone.take() else {
                match self.look_on(mem, groups, budget)? {
                    Step::Found(page) => self.alone = Some(page),
                    Step::Pending => {}
                    Step::Done if self.next_round() => {}
                    Step::Done => return Ok(Step::Done),
                }
                continue;
            };
            let places = self.given.iter_mut().zip(&mut self.next);
            let taking_part = if self.led { 1 } else { RootGroups::MOST };
            for (reference, (given, next)) in groups.references().zip(places).take(taking_part) {
                budget.spend(COMPARISON);
                if !shares_kernel_half(mem, reference.root.table(), page, reference.phys_bits) {
                    continue;
                }
                if page >= *next && *given < self.turn {
                    *given = given.wrapping_add(1);
                    *next = page.wrapping_add(PAGE_BYTES);
                    budget.spend(SECOND_ROOT);
                    return Ok(Step::Found(process_at(mem, &reference, page)));
                }
                // It has had its turn, or gave this one before.
                break;
            }
        }
    }

    /// The next page that could be a root of any group; `Pending` also where one was that goes with the root beside it.
    fn look_on<M: PhysRead>(
        &mut self,
        mem: &M,
        groups: &RootGroups,
        budget: &mut Budget,
    ) -> Result<Step<Gpa>, PhysError> {
        let look = ImageLook::new(mem, groups.phys_bits);
        let page = match self.pages.advance_to(mem, &look, budget)? {
            Step::Found(page) => page,
            other => return Ok(other),
        };
        if image_entry(mem, page, groups.phys_bits, budget).is_none() {
            return Ok(Step::Pending);
        }
        // A root of user mode goes with the root beside it, whichever group gives that one.
        if let Some(first) = first_of_pair(mem, page, groups.phys_bits, budget)
            && groups.references().any(|reference| is_given_with(mem, &reference, (first, page), budget))
        {
            return Ok(Step::Pending);
        }
        Ok(Step::Found(page))
    }

    /// Begins another round for the groups that used theirs up; false where there is none.
    fn next_round(&mut self) -> bool {
        let mut from = None;
        let mut waiting = 0_u32;
        for (place, (given, next)) in self.given.iter_mut().zip(&mut self.next).enumerate() {
            // Whoever had no turn in the first group's round waits for one.
            if *given == self.turn || self.led && place > 0 {
                waiting = waiting.wrapping_add(1);
                from = Some(from.map_or(*next, |from: Gpa| from.min(*next)));
            } else {
                // All that it has was given.
                *next = Gpa::new(u64::MAX);
            }
            *given = 0;
        }
        self.turn = match (self.led, waiting) {
            (true, _) => TURN,
            (false, 0 | 1) => u32::MAX,
            (false, _) => self.turn.saturating_mul(2),
        };
        self.led = false;
        self.alone = None;
        if let Some(from) = from {
            self.pages = Pages::from(from);
        }
        from.is_some()
    }
}
