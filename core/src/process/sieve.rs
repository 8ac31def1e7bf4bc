//! The first look at a page that may be a top table: one adjacent pair of cache lines.
//!
//! The last 16 entries of a top table, 128 bytes, hold what a 64-bit kernel cannot do without: entry 511 the image of
//! Linux and of the BSDs (the last 2 GiB), entry 0x1f0 that of Windows. Either will do.

use super::kernel_half::{all_fit, reserved};
use super::pages::{FirstLook, PAIR};
use crate::addr::{Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::Pte;
use crate::phys::PhysRead;

/// Entries of a line.
const LINE: usize = 8;
/// Where the pair starts in a page: entry 0x1f0.
pub(super) const PAIR_AT: u64 = PAGE_BYTES - 128;
/// Where its last entry lies: entry 511.
const LAST_ENTRY: u64 = PAGE_BYTES - 8;
/// Where its second line starts.
pub(super) const LAST_LINE: u64 = PAGE_BYTES - 64;

/// The first look at a page, which finds what could be a top table: one of the entries that would map a kernel's image
/// is present, sets no reserved bit, and leads below the end of RAM. Which of the two counts is seen later.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageLook {
    reserved: u64,
    end: u64,
}

impl ImageLook {
    pub(super) fn new<M: PhysRead>(mem: &M, phys_bits: u32) -> Self {
        Self { reserved: reserved(phys_bits), end: mem.ram_end().get() }
    }
}

impl FirstLook for ImageLook {
    #[inline(always)]
    fn at(&self) -> [u64; 2] {
        [LAST_ENTRY, PAIR_AT]
    }

    #[inline(always)]
    fn passes(&self, [last, windows]: [u64; 2]) -> bool {
        let (reserved, end) = (self.reserved, self.end.wrapping_sub(PAGE_BYTES));
        // Nothing lies at 0 that a table would lead to.
        let leads = |entry: u64| {
            (entry & (reserved | Pte::PRESENT) == Pte::PRESENT)
                & ((entry & Pte::ADDRESS).wrapping_sub(PAGE_BYTES) < end)
        };
        leads(last) | leads(windows)
    }

    fn fits(&self, pair: &[u64; PAIR]) -> bool {
        all_fit(pair, self.reserved)
    }
}

/// The entry through which a page, read as a top table, would map a kernel's image: entry 511, or 0x1f0 where that is
/// not present. `None` where neither is, or an entry of the line that it stands in cannot be a top table's.
///
/// # Bound
/// Ten loads.
#[inline]
pub(super) fn image_entry<M: PhysRead>(mem: &M, page: Gpa, phys_bits: u32, budget: &mut Budget) -> Option<Pte> {
    let reserved = reserved(phys_bits);
    budget.spend(1);
    // A page that is gone again is no root.
    let last = Pte::new(mem.load_u64(page.wrapping_add(LAST_ENTRY)).ok()?);
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
