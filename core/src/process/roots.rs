//! Address spaces without an operating system's help: the roots that share one kernel half.
//!
//! Every process of an x86-64 kernel carries (most of) the same upper 256 entries in its top table. Given one root, a
//! pass over physical memory that looks at one word a page finds the others: [`KernelHalf`]. With no root at all, the
//! same pass collects every page that could be a top table, and the largest set that agrees with itself wins:
//! [`RootElection`].
//!
//! Neither touches what the backend does not report as data, so a sparse RAM file stays sparse.
//!
//! A root found this way is a page of RAM that reads like one, not more: tables of processes that ended, and a
//! firmware's or boot trampoline's, are among them. The scan asks for user pages, which an identity map of the kernel
//! does not have.

pub use super::depth::guess_mode;
pub use super::election::{RootCandidate, RootElection};
pub use super::groups::{GroupSource, RootGroups};
use crate::addr::{Cr3, Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::{AddressSpace, Hardware, Level, Pte};
use crate::phys::{PhysError, PhysRead};
use crate::process::groups::{HALF, WHOLE};
use crate::process::pages::{PAIR, PAIR_BYTES, Pages};
use crate::process::{Process, ProcessSource, Step};

/// Entries of a table.
pub(super) const ENTRIES: u64 = 512;
/// The first entry of the kernel half.
const KERNEL: u64 = 256;
/// How far ahead the pass asks for lines, so that their misses overlap with its work.
pub(super) const AHEAD: u64 = 16 * PAGE_BYTES;
/// Entries read at a time, and where every read is a system call.
const BLOCK: usize = 64;
const TABLE: usize = ENTRIES as usize;
/// Entries of a pair of lines.
const PAIR_ENTRIES: u64 = PAIR as u64;

/// What of an entry is compared: everything but what the processor sets, and the software bits that an operating system
/// may count in.
pub(super) const COMPARED: u64 = Pte::ADDRESS | Pte::PRESENT | Pte::WRITABLE | Pte::USER | Pte::PAGE;

/// The entry of `table` at `index`.
fn entry<M: PhysRead>(mem: &M, table: Gpa, index: u64) -> Result<Pte, PhysError> {
    mem.load_u64(table.wrapping_add(index.wrapping_mul(8))).map(Pte::new)
}

/// Calls `each` with the entries `from..512` of `table` until it says no. `Ok(false)` where it did.
pub(super) fn entries<M: PhysRead>(
    mem: &M,
    table: Gpa,
    from: u64,
    each: impl FnMut(u64, Pte) -> bool,
) -> Result<bool, PhysError> {
    if mem.batch() > 1 {
        entries_by::<M, TABLE>(mem, table, from, each)
    } else {
        entries_by::<M, BLOCK>(mem, table, from, each)
    }
}

fn entries_by<M: PhysRead, const BLOCK: usize>(
    mem: &M,
    table: Gpa,
    from: u64,
    mut each: impl FnMut(u64, Pte) -> bool,
) -> Result<bool, PhysError> {
    let mut block = [0_u64; BLOCK];
    let mut index = from;
    while index < ENTRIES {
        let words = rest_of(&mut block, index);
        mem.load_words(table.wrapping_add(index.wrapping_mul(8)), words)?;
        for word in words {
            if !each(index, Pte::new(*word)) {
                return Ok(false);
            }
            index = index.wrapping_add(1);
        }
    }
    Ok(true)
}

/// As much of a block as a table has entries from `index` on.
fn rest_of(block: &mut [u64], index: u64) -> &mut [u64] {
    let left = usize::try_from(ENTRIES.wrapping_sub(index)).unwrap_or(0).min(block.len());
    block.get_mut(..left).unwrap_or_default()
}

/// Whether an entry could stand in a top table: absent, or a pointer to a table.
fn fits_top(entry: Pte, phys_bits: u32) -> bool {
    misfit(entry, reserved(phys_bits)) == 0
}

/// The bits that no present entry of a top table sets.
pub(super) const fn reserved(phys_bits: u32) -> u64 {
    Pte::new(u64::MAX).reserved_bits(Level::Pml4, phys_bits)
}

/// Which of the `reserved` bits an entry sets, if it is present. Without a branch: of pages of random bytes, which way
/// it would go is random too.
#[inline(always)]
const fn misfit(entry: Pte, reserved: u64) -> u64 {
    entry.get() & reserved & (entry.get() & Pte::PRESENT).wrapping_neg()
}

/// Whether all entries of a line could stand in a top table.
#[inline(always)]
pub(super) fn all_fit(line: &[u64], reserved: u64) -> bool {
    line.iter().fold(0, |bits, word| bits | misfit(Pte::new(*word), reserved)) == 0
}

/// How a root's kernel half compares with a reference's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Comparison {
    /// Entries that the reference has.
    reference: u32,
    /// Of these, how many are the same.
    same: u32,
    /// Entries that the other has and the reference has not, or has differently.
    other: u32,
}

impl Comparison {
    /// Processes share most of their kernel half; a few entries are a process's own (the self map, session space, an
    /// LDT).
    const fn agrees(self) -> bool {
        self.same >= 1 && self.same.saturating_mul(2) >= self.reference && self.other <= self.same
    }
}

/// Compares kernel halves; `None` where `root` cannot be a top table.
fn compare<M: PhysRead>(mem: &M, reference: Gpa, root: Gpa, phys_bits: u32) -> Result<Option<Comparison>, PhysError> {
    if mem.batch() > 1 {
        compare_by::<M, { ENTRIES.wrapping_sub(KERNEL) as usize }>(mem, reference, root, phys_bits)
    } else {
        compare_by::<M, BLOCK>(mem, reference, root, phys_bits)
    }
}

/// The same, `BLOCK` entries at a time; half of a table is a number of blocks.
fn compare_by<M: PhysRead, const BLOCK: usize>(
    mem: &M,
    reference: Gpa,
    root: Gpa,
    phys_bits: u32,
) -> Result<Option<Comparison>, PhysError> {
    let mut theirs = [0_u64; BLOCK];
    let mut ours = [0_u64; BLOCK];
    let mut result = Comparison::default();
    let mut index = 0_u64;
    while index < ENTRIES {
        let offset = index.wrapping_mul(8);
        mem.load_words(root.wrapping_add(offset), &mut theirs)?;
        if !all_fit(&theirs, reserved(phys_bits)) {
            return Ok(None);
        }
        if index >= KERNEL {
            mem.load_words(reference.wrapping_add(offset), &mut ours)?;
            for (our, their) in ours.iter().zip(&theirs) {
                let (our, their) = (our & COMPARED, their & COMPARED);
                let present = our & Pte::PRESENT != 0;
                result.reference = result.reference.wrapping_add(u32::from(present));
                if present && our == their {
                    result.same = result.same.wrapping_add(1);
                } else if their & Pte::PRESENT != 0 {
                    result.other = result.other.wrapping_add(1);
                }
            }
        }
        index = index.wrapping_add(BLOCK as u64);
    }
    Ok(Some(result))
}

/// Whether `root` is a top table that shares most of the kernel half of `reference`.
pub(super) fn shares_kernel_half<M: PhysRead>(mem: &M, reference: Gpa, root: Gpa, phys_bits: u32) -> bool {
    matches!(compare(mem, reference, root, phys_bits), Ok(Some(comparison)) if comparison.agrees())
}

/// The user-mode root that Linux keeps beside `root` under page-table isolation: the next page, with the same user half
/// and next to no kernel half (Linux, `arch/x86/include/asm/pgtable.h`: the pair is one 8 KiB allocation).
fn isolation_partner<M: PhysRead>(mem: &M, root: Gpa, phys_bits: u32) -> Option<Cr3> {
    if root.get() & PAGE_BYTES != 0 {
        return None;
    }
    let partner = root.wrapping_add(PAGE_BYTES);
    // Without isolation the next page is anybody's, or nobody's yet.
    if !mem.holds_data(partner) {
        return None;
    }
    let mut users = 0_u32;
    let mut kernel = [0_u32; 2];
    let mut block = [0_u64; BLOCK];
    let fits = entries(mem, root, 0, |index, ours| {
        // The partner's are read in blocks as well.
        let place = usize::try_from(index).unwrap_or(0) % BLOCK;
        if place == 0 && mem.load_words(partner.wrapping_add(index.wrapping_mul(8)), &mut block).is_err() {
            return false;
        }
        let theirs = Pte::new(block.get(place).copied().unwrap_or(0));
        if index < KERNEL {
            users = users.wrapping_add(u32::from(ours.is_present()));
            ours.get() & COMPARED == theirs.get() & COMPARED
        } else {
            for (count, entry) in kernel.iter_mut().zip([ours, theirs]) {
                *count = count.wrapping_add(u32::from(entry.is_present()));
            }
            fits_top(theirs, phys_bits)
        }
    });
    let [ours, theirs] = kernel;
    (fits == Ok(true) && users > 0 && theirs > 0 && theirs < ours).then(|| Cr3::new(partner.get()))
}

/// Whether `page` is the user-mode root that Linux keeps beside the root in the page before it.
pub(super) fn is_user_half<M: PhysRead>(mem: &M, page: Gpa, phys_bits: u32) -> bool {
    let root = Gpa::new(page.get().wrapping_sub(PAGE_BYTES));
    page.get() & PAGE_BYTES != 0
        && mem.holds_data(root)
        && isolation_partner(mem, root, phys_bits) == Some(Cr3::new(page.get()))
}

/// The root that `page` is the user-mode half of, if it is one.
pub(super) fn first_of_pair<M: PhysRead>(mem: &M, page: Gpa, phys_bits: u32, budget: &mut Budget) -> Option<Gpa> {
    if page.get() & PAGE_BYTES == 0 {
        return None;
    }
    budget.spend(WHOLE);
    is_user_half(mem, page, phys_bits).then(|| Gpa::new(page.get().wrapping_sub(PAGE_BYTES)))
}

/// Whether the group of `reference` gives the root `first`, and so the process that `page`, its half for user mode,
/// belongs to. With five levels the two share most of what little there is of a kernel half at the top.
pub(super) fn is_given_with<M: PhysRead>(
    mem: &M,
    reference: &AddressSpace<Hardware>,
    (first, page): (Gpa, Gpa),
    budget: &mut Budget,
) -> bool {
    budget.spend(HALF);
    let table = reference.root.table();
    page != table && shares_kernel_half(mem, table, first, reference.phys_bits)
}

/// The roots that share the kernel half of a known one, the known one included.
///
/// Pages are sieved by two entries of the reference that stand side by side. Where these were its own, so that no other
/// root passed, two others are taken, until some root did or none are left.
///
/// # Bound
/// A pass: 256 loads for the reference, two at most for every page of RAM that holds data, and at most 3584 more for
/// each page that passes. One pass where anybody shares the reference's entries; 16 at most.
#[derive(Clone, Copy, Debug)]
pub struct KernelHalf {
    reference: AddressSpace<Hardware>,
    sieve: Option<Sieve>,
    /// Pairs of lines whose entries were a sieve, as bits.
    tried: u32,
    found_others: bool,
    pages: Pages,
}

/// Two entries of the reference, in one pair of lines: a root has one of them at least. Both are the same where there
/// is one.
#[derive(Clone, Copy, Debug)]
struct Sieve {
    entries: [(u64, u64); 2],
}

impl Sieve {
    /// Where the pair of lines lies in a page.
    const fn pair_at(&self) -> u64 {
        let [(index, _), _] = self.entries;
        index.wrapping_mul(8) & !PAIR_BYTES.wrapping_sub(1)
    }

    /// Whether a pair that was read passes.
    fn passes_in(&self, pair: &[u64; PAIR]) -> bool {
        self.entries.iter().any(|(index, value)| {
            let found = usize::try_from(*index).ok().and_then(|index| pair.get(index % PAIR));
            found.is_some_and(|found| found & COMPARED == *value)
        })
    }

    #[inline]
    fn passes<M: PhysRead>(&self, mem: &M, page: Gpa, budget: &mut Budget) -> bool {
        let [first, second] = self.entries;
        // A page that is gone again is no root.
        let mut has = |(index, value): (u64, u64)| {
            budget.spend(1);
            entry(mem, page, index).is_ok_and(|found| found.get() & COMPARED == value)
        };
        has(first) || (second != first && has(second))
    }
}

impl KernelHalf {
    /// All roots that share `reference`'s kernel half.
    #[must_use]
    pub const fn new(reference: AddressSpace<Hardware>) -> Self {
        Self { reference, sieve: None, tried: 0, found_others: false, pages: Pages::new() }
    }

    /// Pages of RAM that were looked at so far.
    #[must_use]
    pub const fn pages_looked_at(&self) -> u64 {
        self.pages.looked_at
    }

    /// Checks that the reference reads like a top table with a kernel half, whose entries lead into RAM: what is found
    /// is compared with it.
    ///
    /// # Errors
    /// [`RootError`] naming what is wrong with it.
    pub fn check<M: PhysRead>(mem: &M, reference: &AddressSpace<Hardware>) -> Result<(), RootError> {
        let root = reference.root;
        let table = root.table();
        let mut kernel = 0_u32;
        let mut bad = None;
        entries(mem, table, 0, |index, entry| {
            if !fits_top(entry, reference.phys_bits) || (entry.is_present() && !mem.is_ram(entry.table())) {
                bad = Some((index, entry));
                return false;
            }
            kernel = kernel.wrapping_add(u32::from(index >= KERNEL && entry.is_present()));
            true
        })
        .map_err(|error| RootError::Unreadable { root, error })?;
        match bad {
            Some((index, entry)) => Err(RootError::NotATable { root, index, entry }),
            None if kernel == 0 => Err(RootError::NoKernelHalf { root }),
            None => Ok(()),
        }
    }

    /// Whether `page` is the user-mode half of a process that is given by its other root.
    fn gives_with_another<M: PhysRead>(&self, mem: &M, page: Gpa, budget: &mut Budget) -> bool {
        first_of_pair(mem, page, self.reference.phys_bits, budget)
            .is_some_and(|first| is_given_with(mem, &self.reference, (first, page), budget))
    }

    /// The sieve of the next pass: the last two present entries of the pair of lines that has the most, of those that
    /// do not lead back to the table itself.
    fn next_sieve<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Option<Sieve>, PhysError> {
        let table = self.reference.root.table();
        let mut best: Option<(u32, u64, Sieve)> = None;
        let mut count = 0_u32;
        let mut last: Option<[(u64, u64); 2]> = None;
        budget.spend(ENTRIES.wrapping_sub(KERNEL));
        entries(mem, table, KERNEL, |index, entry| {
            if entry.is_present() && entry.table() != table {
                let this = (index, entry.get() & COMPARED);
                last = Some([this, last.map_or(this, |[newest, _]| newest)]);
                count = count.wrapping_add(1);
            }
            let pair = index.wrapping_sub(KERNEL) / PAIR_ENTRIES;
            if index.wrapping_add(1).is_multiple_of(PAIR_ENTRIES) {
                let is_new = self.tried & 1_u32.wrapping_shl(u32::try_from(pair).unwrap_or(0)) == 0;
                if let Some(entries) = last.take()
                    && is_new
                    && best.is_none_or(|(most, ..)| count >= most)
                {
                    best = Some((count, pair, Sieve { entries }));
                }
                count = 0;
            }
            true
        })?;
        Ok(best.map(|(_, pair, sieve)| {
            self.tried |= 1_u32.wrapping_shl(u32::try_from(pair).unwrap_or(0));
            sieve
        }))
    }
}

impl ProcessSource for KernelHalf {
    type Resolver = Hardware;

    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<Hardware>>, PhysError> {
        let reference = self.reference.root.table();
        let phys_bits = self.reference.phys_bits;
        loop {
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            let sieve = match self.sieve {
                Some(sieve) => sieve,
                None if self.found_others => return Ok(Step::Done),
                None => {
                    let Some(sieve) = self.next_sieve(mem, budget)? else { return Ok(Step::Done) };
                    self.pages.restart();
                    *self.sieve.insert(sieve)
                }
            };
            let [(ahead, _), _] = sieve.entries;
            loop {
                let first_look = |pair: &[u64; PAIR]| sieve.passes_in(pair);
                let page = match self.pages.advance_to(mem, sieve.pair_at(), budget, first_look)? {
                    Step::Found(page) => page,
                    Step::Pending => return Ok(Step::Pending),
                    Step::Done => {
                        self.sieve = None;
                        break;
                    }
                };
                mem.prefetch(page.wrapping_add(AHEAD).wrapping_add(ahead.wrapping_mul(8)));
                if sieve.passes(mem, page, budget) {
                    budget.spend(HALF.wrapping_add(WHOLE));
                    // The reference passes every sieve; it is given once.
                    let again = page == reference && self.tried.count_ones() > 1;
                    if !again
                        && shares_kernel_half(mem, reference, page, phys_bits)
                        && !self.gives_with_another(mem, page, budget)
                    {
                        self.found_others |= page != reference;
                        return Ok(Step::Found(process_at(mem, &self.reference, page)));
                    }
                }
                if budget.is_spent() {
                    return Ok(Step::Pending);
                }
            }
        }
    }
}

pub(super) fn process_at<M: PhysRead>(mem: &M, reference: &AddressSpace<Hardware>, root: Gpa) -> Process<Hardware> {
    let mut process = Process::unnamed(reference.at_root(Cr3::new(root.get())));
    process.user_root = isolation_partner(mem, root, reference.phys_bits);
    process
}

/// Why a root cannot serve as a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootError {
    /// Its page is not in RAM.
    Unreadable {
        /// The root.
        root: Cr3,
        /// What could not be read.
        error: PhysError,
    },
    /// An entry cannot stand in a top table.
    NotATable {
        /// The root.
        root: Cr3,
        /// The entry's index.
        index: u64,
        /// The entry.
        entry: Pte,
    },
    /// Its kernel half is empty.
    NoKernelHalf {
        /// The root.
        root: Cr3,
    },
}

impl core::fmt::Display for RootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unreadable { root, error } => write!(f, "CR3 {root} names no page table: {error}"),
            Self::NotATable { root, index, entry } => {
                write!(f, "CR3 {root} names no page table: its entry {index} is {entry}")
            }
            Self::NoKernelHalf { root } => {
                write!(f, "CR3 {root} names a page table without a kernel half; a guest that has rebooted leaves such")
            }
        }
    }
}

impl core::error::Error for RootError {}
