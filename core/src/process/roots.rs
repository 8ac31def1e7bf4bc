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
use crate::addr::{Cr3, Gpa};
use crate::budget::Budget;
use crate::paging::{AddressSpace, ENTRIES, Hardware, KERNEL_HALF, Level, Pte, all_entries};
use crate::phys::{PhysError, PhysRead};
use crate::process::kernel_half::{
    COMPARED, COMPARISON, SECOND_ROOT, first_of_pair, is_given_with, isolation_partner, shares_kernel_half,
};
use crate::process::pages::{FirstLook, PAIR, Pages};
use crate::process::{Process, ProcessSource, Step};

/// Entries of a pair of lines.
const PAIR_ENTRIES: u64 = PAIR as u64;

/// The roots that share the kernel half of a known one, the known one included.
///
/// Pages are sieved by two entries of the reference that stand side by side. Where these were its own, so that no other
/// root passed, two others are taken, until some root did or none are left.
///
/// # Bound
/// A pass: 256 loads for the reference, two at most for every page of RAM that holds data, 16 where the memory is read
/// in batches, and at most 3584 more for each page that passes. One pass where anybody shares the reference's entries;
/// 16 at most.
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

impl FirstLook for Sieve {
    #[inline(always)]
    fn at(&self) -> [u64; 2] {
        self.entries.map(|(index, _)| index.wrapping_mul(8))
    }

    #[inline(always)]
    fn passes(&self, [one, other]: [u64; 2]) -> bool {
        let [(_, first), (_, second)] = self.entries;
        (one & COMPARED == first) | (other & COMPARED == second)
    }

    fn fits(&self, _: &[u64; PAIR]) -> bool {
        true
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
        all_entries(mem, table, 0..ENTRIES, |index, entry| {
            if !entry.fits(Level::Pml4, reference.phys_bits) || (entry.is_present() && !mem.is_ram(entry.table())) {
                bad = Some((index, entry));
                return false;
            }
            kernel = kernel.wrapping_add(u32::from(KERNEL_HALF.contains(&index) && entry.is_present()));
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
        budget.spend(ENTRIES / 2);
        all_entries(mem, table, KERNEL_HALF, |index, entry| {
            if entry.is_present() && entry.table() != table {
                let this = (index, entry.get() & COMPARED);
                last = Some([this, last.map_or(this, |[newest, _]| newest)]);
                count = count.wrapping_add(1);
            }
            let pair = index.wrapping_sub(KERNEL_HALF.start) / PAIR_ENTRIES;
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
            loop {
                let page = match self.pages.advance_to(mem, &sieve, budget)? {
                    Step::Found(page) => page,
                    Step::Pending => return Ok(Step::Pending),
                    Step::Done => {
                        self.sieve = None;
                        break;
                    }
                };
                budget.spend(COMPARISON.wrapping_add(SECOND_ROOT));
                // The reference passes every sieve; it is given once.
                let again = page == reference && self.tried.count_ones() > 1;
                if !again
                    && shares_kernel_half(mem, reference, page, phys_bits)
                    && !self.gives_with_another(mem, page, budget)
                {
                    self.found_others |= page != reference;
                    return Ok(Step::Found(process_at(mem, &self.reference, page)));
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
