//! Is there a region at this address? All of the structural rules, on copies.

use core::fmt;
use core::ops::ControlFlow;

use crate::abi::{self, Control, ProducerPage, State, producer};
use crate::addr::{Gpa, Gva, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{
    AddressSpace, LeafCursor, LeafEntries, LeafStep, LeafTable, Level, NotPresentResolver, PageWalker, Residence,
    Rights, WalkError, WalkErrorKind, each_entry,
};
use crate::phys::{PhysError, PhysRead};
use crate::region::{Pulse, Region};
use crate::seqlock::ATTEMPTS;
use crate::structure::{JUDGED, Refusal, check_control, check_producer};

/// Words of a copy of the producer page, and of the control block.
const PAGE_LOADS: u64 = JUDGED.div_ceil(8) as u64;
const CONTROL_LOADS: u64 = 3;
/// Words of the line that refuses most pages.
const LINE_LOADS: usize = 5;

/// What stands at an address that satisfies every structural rule. Whether a producer is behind it is another question:
/// [`Region::confirm_alive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where the producer page lies.
    pub page: Gpa,
    /// Whether the producer page was present, or trimmed and still in RAM.
    pub residence: Residence,
    /// Heartbeat and session in the copy that was judged: the first reading of the liveness proof.
    pub pulse: Pulse,
    /// What the producer says it is doing.
    pub status: State,
    /// The last published frame, or 0.
    pub frame_id: u64,
}

/// Why there is no region at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoRegion {
    /// The address is not page-aligned, or the region would leave the user half.
    BadBase(Gva),
    /// The producer page or the control page is not there, or grants too little.
    Page(WalkError),
    /// A page of the ring is the supervisor's.
    SupervisorRing(Gva),
    /// The bytes cannot be a producer's.
    Structure(Refusal),
}

impl fmt::Display for NoRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBase(gva) => write!(f, "no region can start at {gva}"),
            Self::Page(error) => write!(f, "{error}"),
            Self::SupervisorRing(gva) => write!(f, "the ring has a supervisor page at {gva}"),
            Self::Structure(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl core::error::Error for NoRegion {}

/// Judges the bytes at `base` of `space` by every structural rule.
///
/// # Bound
/// Two walks, 8 copies of at most 41 loads, and one load for each entry of the ring's tables: at most 26,000, and what
/// the resolver reads for an entry of each walk and for each 2 MiB of the ring that has no page table, 51 times
/// [`NotPresentResolver::LOADS`] at most.
///
/// # Errors
/// [`NoRegion`], the first rule that is broken.
pub fn probe<M: PhysRead, R: NotPresentResolver>(
    mem: &M,
    space: &AddressSpace<R>,
    base: Gva,
) -> Result<Found, NoRegion> {
    let mut probe = Probe::new(base);
    loop {
        if let Some(verdict) = probe.step(mem, space, &mut Budget::unlimited()) {
            return verdict;
        }
    }
}

/// A probe in progress: the verdict has to be whole, the way there need not be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    base: Gva,
    /// What the pages gave, once they are judged: then the ring.
    ring: Option<(Found, Ring)>,
}

impl Probe {
    pub(super) const fn new(base: Gva) -> Self {
        Self { base, ring: None }
    }

    /// Goes on until there is a verdict, or the budget is spent.
    ///
    /// # Bound
    /// What a budget can be overdrawn by: two walks and the copies, or a page table of the ring, and the resolver's
    /// loads for two entries.
    pub(super) fn step<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        mem: &M,
        space: &AddressSpace<R>,
        budget: &mut Budget,
    ) -> Option<Result<Found, NoRegion>> {
        let walker = PageWalker::new(mem, *space);
        let (found, mut ring) = match self.ring {
            Some(ring) => ring,
            None => match judge_pages(&walker, self.base, budget) {
                Ok(begun) => begun,
                Err(no) => return Some(Err(no)),
            },
        };
        let verdict = ring.check(&walker, budget);
        self.ring = Some((found, ring));
        verdict.map(|verdict| verdict.map(|()| found))
    }
}

/// The rules for the producer page and the control page; what is left is the ring.
fn judge_pages<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<&M, R>,
    base: Gva,
    budget: &mut Budget,
) -> Result<(Found, Ring), NoRegion> {
    let end = base.checked_add(abi::REGION_BYTES).filter(|end| *end < walker.space().mode.user_end());
    let (true, Some(end)) = (base.is_aligned(PageSize::Size4K), end) else { return Err(NoRegion::BadBase(base)) };
    // The producer writes its page all the time: it is writable at every level, whatever the system does to clean
    // pages.
    let page = walker.needing(Rights::USER_WRITE).translate_spending(base, budget).map_err(NoRegion::Page)?;
    let control_at = base.wrapping_add(abi::CONTROL_OFFSET);
    let control = walker.needing(Rights::USER).translate_spending(control_at, budget).map_err(NoRegion::Page)?;
    let judged = judge(*walker.mem(), page.gpa, control.gpa, budget).map_err(|error| match error {
        Judged::Unreadable(error) => NoRegion::Page(WalkErrorKind::Page { error }.at(base)),
        Judged::Refused(refusal) => NoRegion::Structure(refusal),
    })?;
    let found = Found {
        page: page.gpa,
        residence: page.residence,
        pulse: Pulse { heartbeat: judged.status.heartbeat.get(), run_epoch: judged.status.run_epoch.get() },
        status: State(judged.status.status.get()),
        frame_id: judged.heads.frame_id.get(),
    };
    let start = base.wrapping_add(abi::RING_OFFSET);
    Ok((found, Ring { start, end, cursor: LeafCursor::new(start, end).stopping_at_tables() }))
}

enum Judged {
    Unreadable(PhysError),
    Refused(Refusal),
}

/// Copies and judges; again where a publish under way can explain the refusal.
fn judge<M: PhysRead>(mem: &M, page: Gpa, control: Gpa, budget: &mut Budget) -> Result<ProducerPage, Judged> {
    let mut refusal = None;
    for _ in 0..ATTEMPTS {
        budget.spend(PAGE_LOADS.wrapping_add(CONTROL_LOADS));
        let copy = copy_page(mem, page).map_err(Judged::Unreadable)?;
        let block = copy_control(mem, control).map_err(Judged::Unreadable)?;
        match check_producer(&copy).and_then(|()| check_control(&block)) {
            Ok(()) => return Ok(copy),
            Err(why) if why.may_be_a_race() => refusal = Some(why),
            Err(why) => return Err(Judged::Refused(why)),
        }
    }
    Err(Judged::Refused(refusal.unwrap_or(Refusal::Heartbeat)))
}

/// Copies what the rules look at, word by word; the rest of the page stays zero.
fn copy_page<M: PhysRead>(mem: &M, page: Gpa) -> Result<ProducerPage, PhysError> {
    crate::region::load_wire::<M, ProducerPage, { JUDGED / 8 }>(mem, page)
}

fn copy_control<M: PhysRead>(mem: &M, control: Gpa) -> Result<Control, PhysError> {
    crate::region::load_wire::<M, Control, 3>(mem, control)
}

/// One cache line of a page, enough to refuse nearly every page that is no producer page.
#[inline]
fn could_be_producer<M: PhysRead>(mem: &M, page: Gpa, budget: &mut Budget) -> bool {
    let mut line = [0_u64; LINE_LOADS];
    budget.spend(LINE_LOADS as u64);
    mem.load_words(page.wrapping_add(producer::STATUS), &mut line).is_ok() && status_could_be_producers(line)
}

/// The same of a line that was read: its first words.
#[inline]
pub(super) fn status_could_be_producers(line: [u64; LINE_LOADS]) -> bool {
    let [heartbeat, _, epoch_status, backend_error, fps_formats] = line;
    let low = |word: u64| word & 0xffff_ffff;
    let high = |word: u64| word >> 32;
    heartbeat != 0
        && low(epoch_status) != 0
        && high(epoch_status) <= u64::from(State::ERROR.0)
        && low(backend_error) <= u64::from(abi::Backend::GDI.0)
        && high(fps_formats) & 1 == 1
}

/// The same of two words of it, heartbeat and what begins with the session: without a branch.
#[inline(always)]
pub(super) fn first_look_could_be_producers([heartbeat, epoch_status]: [u64; 2]) -> bool {
    let known_status = epoch_status >> 32 <= u64::from(State::ERROR.0);
    (heartbeat != 0) & (epoch_status & 0xffff_ffff != 0) & known_status
}

/// Whether the whole of the producer page could be a producer's, or is being written.
pub(super) fn looks_like_producer<M: PhysRead>(mem: &M, page: Gpa, budget: &mut Budget) -> bool {
    if !could_be_producer(mem, page, budget) {
        return false;
    }
    budget.spend(PAGE_LOADS);
    copy_page(mem, page).is_ok_and(|copy| match check_producer(&copy) {
        Ok(()) => true,
        Err(why) => why.may_be_a_race(),
    })
}

/// The rule for the ring: no page of it may be the supervisor's; pages that are not there prove nothing.
#[derive(Clone, Copy, Debug)]
struct Ring {
    start: Gva,
    end: Gva,
    cursor: LeafCursor,
}

impl Ring {
    /// Goes on until there is a verdict, or the budget is spent.
    fn check<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        budget: &mut Budget,
    ) -> Option<Result<(), NoRegion>> {
        loop {
            let supervisor = match walker.next_leaf(&mut self.cursor, budget) {
                LeafStep::Leaf(leaf) => (!leaf.rights.user).then_some(leaf.gva),
                LeafStep::Table(table) => self.supervisor_page(walker, &table, budget),
                LeafStep::Skipped(_) => None,
                LeafStep::Pending => return None,
                LeafStep::Done => return Some(Ok(())),
            };
            if let Some(gva) = supervisor {
                return Some(Err(NoRegion::SupervisorRing(gva)));
            }
        }
    }

    /// The first page of a page table that user mode may not access. An entry without P has no such bit: it counts as
    /// what the levels above grant, unasked, if it is not empty.
    fn supervisor_page<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<&M, R>,
        table: &LeafTable,
        budget: &mut Budget,
    ) -> Option<Gva> {
        let LeafEntries::At(at) = table.entries else { return (!table.rights.user).then_some(table.gva) };
        let found = each_entry(*walker.mem(), at, table.inside(self.start, self.end), budget, |index, entry| {
            let user = if entry.is_present() {
                // An entry with reserved bits maps nothing.
                table.rights.and(entry.rights()).user || walker.is_reserved(Level::Pt, entry)
            } else {
                table.rights.user || entry.get() == 0 || !R::RESOLVES
            };
            if user { ControlFlow::Continue(()) } else { ControlFlow::Break(index) }
        });
        found.ok().flatten().map(|index| table.gva.wrapping_add(index << PAGE_SHIFT))
    }
}

impl Found {
    /// A handle on the region, which was found at `base` of `space`.
    #[must_use]
    pub const fn region<R: NotPresentResolver>(&self, space: AddressSpace<R>, base: Gva) -> Region<R> {
        Region::new(space, base)
    }
}
