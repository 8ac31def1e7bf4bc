//! The first look at a page that may be a top table: one adjacent pair of cache lines.
//!
//! The last 16 entries of a top table, 128 bytes, hold what a 64-bit kernel cannot do without: entry 511 the image of
//! Linux and of the BSDs (the last 2 GiB), entry 0x1f0 that of Windows. Either will do.

use super::kernel_half::{all_fit, reserved};
use super::pages::PAIR;
use crate::addr::{Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::Pte;
use crate::phys::PhysRead;

/// Entries of a line.
const LINE: usize = 8;
/// Where the pair starts in a page: entry 0x1f0.
pub(super) const PAIR_AT: u64 = PAGE_BYTES - 128;
/// Where its second line starts.
pub(super) const LAST_LINE: u64 = PAGE_BYTES - 64;

/// Asks for the pair of a page that will be looked at.
#[inline(always)]
pub(super) fn prefetch<M: PhysRead>(mem: &M, page: Gpa) {
    mem.prefetch(page.wrapping_add(PAIR_AT));
    mem.prefetch(page.wrapping_add(LAST_LINE));
}

/// The entry through which a page, read as a top table, would map a kernel's image: entry 511, or 0x1f0 where that is
/// not present. `None` where neither is, or an entry of the line that it stands in cannot be a top table's.
///
/// # Bound
/// Ten loads; for nearly every page two.
#[inline]
pub(super) fn image_entry<M: PhysRead>(mem: &M, page: Gpa, phys_bits: u32, budget: &mut Budget) -> Option<Pte> {
    let reserved = reserved(phys_bits);
    budget.spend(1);
    // A page that is gone again is no root.
    let last = Pte::new(mem.load_u64(page.wrapping_add(PAGE_BYTES - 8)).ok()?);
    let (entry, line_at) = if last.is_present() {
        (last, LAST_LINE)
    } else {
        budget.spend(1);
        (Pte::new(mem.load_u64(page.wrapping_add(PAIR_AT)).ok()?), PAIR_AT)
    };
    if entry.get() & (reserved | Pte::PRESENT) != Pte::PRESENT {
        return None;
    }
    let mut line = [0_u64; LINE];
    budget.spend(LINE as u64);
    mem.load_words(page.wrapping_add(line_at), &mut line).ok()?;
    all_fit(&line, reserved).then_some(entry)
}

/// The same of a pair of lines that was read. All of both has to fit, since both are there.
#[inline]
pub(super) fn image_entry_in(pair: &[u64; PAIR], phys_bits: u32) -> Option<Pte> {
    let reserved = reserved(phys_bits);
    let last = Pte::new(*pair.last()?);
    let entry = if last.is_present() { last } else { Pte::new(*pair.first()?) };
    (entry.is_present() && all_fit(pair, reserved)).then_some(entry)
}
