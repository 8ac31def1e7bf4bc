//! What two top tables have in common: the kernel half that the processes of one kernel share, and the user half that
//! the two roots of one process share.

use crate::addr::{Cr3, Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::{AddressSpace, BLOCK, Blocks, ENTRIES, Hardware, KERNEL_HALF, Level, Pte, WHOLE, all_pairs};
use crate::phys::{PhysError, PhysRead};

/// Loads of a comparison of two kernel halves at most.
pub(super) const COMPARISON: u64 = 768;
/// Loads of a look for the second root of a process at most.
pub(super) const SECOND_ROOT: u64 = 1024;

/// What of an entry is compared: everything but what the processor sets, and the software bits that an operating system
/// may count in.
pub(super) const COMPARED: u64 = Pte::ADDRESS | Pte::PRESENT | Pte::WRITABLE | Pte::USER | Pte::PAGE;

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
        compare_by::<M, { WHOLE / 2 }>(mem, reference, root, phys_bits)
    } else {
        compare_by::<M, BLOCK>(mem, reference, root, phys_bits)
    }
}

/// The same, `N` entries at a time; half of a table is a number of blocks.
fn compare_by<M: PhysRead, const N: usize>(
    mem: &M,
    reference: Gpa,
    root: Gpa,
    phys_bits: u32,
) -> Result<Option<Comparison>, PhysError> {
    let mut result = Comparison::default();
    let mut theirs = Blocks::<M, N>::new(mem, root, &(0..ENTRIES));
    let mut ours = Blocks::<M, N>::new(mem, reference, &KERNEL_HALF);
    while theirs.upcoming() > 0 {
        let in_kernel_half = KERNEL_HALF.contains(&theirs.index());
        let theirs = theirs.read()?;
        if !all_fit(theirs, reserved(phys_bits)) {
            return Ok(None);
        }
        if in_kernel_half {
            for (our, their) in ours.read()?.iter().zip(theirs) {
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
    }
    Ok(Some(result))
}

/// Whether `root` is a top table that shares most of the kernel half of `reference`.
pub(super) fn shares_kernel_half<M: PhysRead>(mem: &M, reference: Gpa, root: Gpa, phys_bits: u32) -> bool {
    matches!(compare(mem, reference, root, phys_bits), Ok(Some(comparison)) if comparison.agrees())
}

/// The user-mode root that Linux keeps beside `root` under page-table isolation: the next page, with the same user half
/// and next to no kernel half (Linux, `arch/x86/include/asm/pgtable.h`: the pair is one 8 KiB allocation).
pub(super) fn isolation_partner<M: PhysRead>(mem: &M, root: Gpa, phys_bits: u32) -> Option<Cr3> {
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
    let fits = all_pairs(mem, [root, partner], 0..ENTRIES, |index, [ours, theirs]| {
        if KERNEL_HALF.contains(&index) {
            for (count, entry) in kernel.iter_mut().zip([ours, theirs]) {
                *count = count.wrapping_add(u32::from(entry.is_present()));
            }
            theirs.fits(Level::Pml4, phys_bits)
        } else {
            users = users.wrapping_add(u32::from(ours.is_present()));
            ours.get() & COMPARED == theirs.get() & COMPARED
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
    budget.spend(SECOND_ROOT);
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
    budget.spend(COMPARISON);
    let table = reference.root.table();
    page != table && shares_kernel_half(mem, table, first, reference.phys_bits)
}
