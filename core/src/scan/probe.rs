//! Is there a region at this address? All of the structural rules, on copies.

use core::fmt;

use super::spans::BLOCK;
use crate::abi::{self, Control, ProducerPage, State, producer};
use crate::addr::{Gpa, Gva, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{
    AddressSpace, LeafCursor, LeafStep, LeafTable, Level, NotPresentEntry, NotPresentResolver, PageWalker, Pte,
    Residence, Resolution, Rights, WalkError,
};
use crate::phys::{PhysError, PhysRead};
use crate::region::{Pulse, Region};
use crate::seqlock::ATTEMPTS;
use crate::structure::{JUDGED, Refusal, check_control, check_producer};

/// What a copy of the producer page costs of a budget.
const LINES: u64 = JUDGED.div_ceil(64) as u64;

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
/// Two walks, 8 copies of at most 41 loads, and one load for each entry of the ring's tables: at most 26,000.
///
/// # Errors
/// [`NoRegion`], the first rule that is broken.
pub fn probe<M: PhysRead, R: NotPresentResolver>(
    mem: &M,
    space: &AddressSpace<R>,
    base: Gva,
) -> Result<Found, NoRegion> {
    probe_spending(mem, space, base, &mut Budget::unlimited())
}

/// [`probe`], charged to a budget that is not asked: the verdict has to be whole.
pub(super) fn probe_spending<M: PhysRead, R: NotPresentResolver>(
    mem: &M,
    space: &AddressSpace<R>,
    base: Gva,
    budget: &mut Budget,
) -> Result<Found, NoRegion> {
    let end = base.checked_add(abi::REGION_BYTES).filter(|end| *end < space.mode.user_end());
    let (true, Some(end)) = (base.is_aligned(PageSize::Size4K), end) else { return Err(NoRegion::BadBase(base)) };
    let walker = PageWalker::new(mem, *space);
    // The producer writes its page all the time: it is writable at every level, whatever the system does to clean pages.
    let page = walker.needing(Rights::USER_WRITE).translate_spending(base, budget).map_err(NoRegion::Page)?;
    let control_at = base.wrapping_add(abi::CONTROL_OFFSET);
    let control = walker.needing(Rights::USER).translate_spending(control_at, budget).map_err(NoRegion::Page)?;
    let judged = judge(mem, page.gpa, control.gpa, budget).map_err(|error| match error {
        Judged::Unreadable(error) => NoRegion::Page(WalkError::Page { gva: base, error }),
        Judged::Refused(refusal) => NoRegion::Structure(refusal),
    })?;
    check_ring(&walker, base.wrapping_add(abi::RING_OFFSET), end, budget)?;
    Ok(Found {
        page: page.gpa,
        residence: page.residence,
        pulse: Pulse { heartbeat: judged.status.heartbeat.get(), run_epoch: judged.status.run_epoch.get() },
        status: State(judged.status.status.get()),
        frame_id: judged.heads.frame_id.get(),
    })
}

enum Judged {
    Unreadable(PhysError),
    Refused(Refusal),
}

/// Copies and judges; again where a publish under way can explain the refusal.
fn judge<M: PhysRead>(mem: &M, page: Gpa, control: Gpa, budget: &mut Budget) -> Result<ProducerPage, Judged> {
    let mut refusal = None;
    for _ in 0..ATTEMPTS {
        budget.spend(LINES);
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

/// One cache line of a frame, enough to refuse nearly every page that is no producer page.
#[inline]
pub(super) fn could_be_producer<M: PhysRead>(mem: &M, page: Gpa) -> bool {
    let mut line = [0_u64; 5];
    if mem.load_words(page.wrapping_add(producer::STATUS), &mut line).is_err() {
        return false;
    }
    let [heartbeat, _, epoch_status, backend_error, fps_formats] = line;
    let low = |word: u64| word & 0xffff_ffff;
    let high = |word: u64| word >> 32;
    heartbeat != 0
        && low(epoch_status) != 0
        && high(epoch_status) <= u64::from(State::ERROR.0)
        && low(backend_error) <= u64::from(abi::Backend::GDI.0)
        && high(fps_formats) & 1 == 1
}

/// Whether the whole of the producer page could be a producer's, or is being written.
pub(super) fn looks_like_producer<M: PhysRead>(mem: &M, page: Gpa, budget: &mut Budget) -> bool {
    if !could_be_producer(mem, page) {
        return false;
    }
    budget.spend(LINES);
    copy_page(mem, page).is_ok_and(|copy| match check_producer(&copy) {
        Ok(()) => true,
        Err(why) => why.may_be_a_race(),
    })
}

/// No page of the ring may be the supervisor's; pages that are not there prove nothing.
fn check_ring<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<&M, R>,
    ring: Gva,
    end: Gva,
    budget: &mut Budget,
) -> Result<(), NoRegion> {
    let mut cursor = LeafCursor::new(ring, end).stopping_at_tables();
    let mut own = Budget::unlimited();
    let verdict = loop {
        let supervisor = match walker.next_leaf(&mut cursor, &mut own) {
            LeafStep::Leaf(leaf) => (!leaf.rights.user).then_some(leaf.gva),
            LeafStep::Table(table) => supervisor_page(walker, &table, ring, end, &mut own),
            LeafStep::Skipped(_) => None,
            LeafStep::Pending | LeafStep::Done => break Ok(()),
        };
        if let Some(gva) = supervisor {
            break Err(NoRegion::SupervisorRing(gva));
        }
    };
    budget.spend(u64::MAX.wrapping_sub(own.left()));
    verdict
}

/// The first page of a page table, in `start .. end`, that user mode may not access.
fn supervisor_page<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<&M, R>,
    table: &LeafTable,
    start: Gva,
    end: Gva,
    budget: &mut Budget,
) -> Option<Gva> {
    let inside = |gva: Gva| (gva.get().saturating_sub(table.gva.get()) >> PAGE_SHIFT).min(512);
    let (mut index, last) = (inside(start), inside(end));
    let mut lookup = R::Lookup::default();
    let mut block = [0_u64; BLOCK];
    while index < last {
        let count = usize::try_from(last.wrapping_sub(index)).unwrap_or(BLOCK).min(BLOCK);
        let words = block.get_mut(..count)?;
        budget.spend(count as u64);
        walker.mem().load_words(table.table.wrapping_add(index.wrapping_mul(8)), words).ok()?;
        for word in words {
            let gva = table.gva.wrapping_add(index << PAGE_SHIFT);
            index = index.wrapping_add(1);
            let entry = Pte::new(*word);
            let user = if entry.is_present() {
                // An entry with reserved bits maps nothing.
                table.rights.and(entry.rights()).user || walker.is_reserved(Level::Pt, entry)
            } else if entry.get() != 0 && R::RESOLVES {
                let asked = NotPresentEntry { gva, level: Level::Pt, entry: entry.get(), rights: table.rights };
                match walker.meaning(&asked, &mut lookup, budget).map(|answer| answer.resolution) {
                    Ok(Resolution::Page { rights: Some(rights), .. }) => rights.user,
                    Ok(_) | Err(_) => true,
                }
            } else {
                true
            };
            if !user {
                return Some(gva);
            }
        }
    }
    None
}

impl Found {
    /// A handle on the region, which was found at `base` of `space`.
    #[must_use]
    pub const fn region<R: NotPresentResolver>(&self, space: AddressSpace<R>, base: Gva) -> Region<R> {
        Region::new(space, base)
    }
}
