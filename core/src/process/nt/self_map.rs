//! Top tables that name themselves: Windows maps the tables of each address space into it by one entry of the top table
//! that leads back to the table.

use crate::addr::{Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::{ENTRIES, KERNEL_HALF, Level, Pte, all_entries};
use crate::phys::PhysRead;

/// Loads that see a table whole, and its kernel half once more.
const WHOLE_AND_HALF: u64 = 768;
/// What entries are read with: any processor.
const PHYS_BITS: u32 = 52;
/// Entries of the kernel half below which a table is taken for a dummy: even a small guest has more.
const LEAST: u32 = 6;

/// The entry of the kernel half that leads back to `table`; `None` where there is not exactly one.
pub(super) fn self_entry<M: PhysRead>(mem: &M, table: Gpa) -> Option<u64> {
    let mut found = None;
    let alone =
        all_entries(mem, table, KERNEL_HALF, |index, entry| !leads_to(entry, table) || found.replace(index).is_none());
    found.filter(|_| alone == Ok(true))
}

/// Whether entry `index` of `table` leads back to it.
pub(super) fn names_itself<M: PhysRead>(mem: &M, table: Gpa, index: u64) -> bool {
    mem.load_u64(table.wrapping_add(index.wrapping_mul(8))).is_ok_and(|word| leads_to(Pte::new(word), table))
}

fn leads_to(entry: Pte, table: Gpa) -> bool {
    entry.is_present() && entry.table() == table
}

/// The entry of the page that every Windows shares with user mode: its address is fixed.
const SHARED: u64 = 0x1ef;

/// Whether a page whose image entry is `image` reads like a top table with one self-reference: any process's, the
/// kernel's, a loader's.
///
/// It is known by what must be there: entry 511 or 0x1f0 (the kernel's image), side by side, and the entry 0x1ef of the
/// page that is shared with user mode. A top table of five levels has entry 511, and these one table down.
///
/// # Bound
/// Six loads, and for a page that has the shared page 768 more.
pub(super) fn is_self_mapped<M: PhysRead>(mem: &M, page: Gpa, image: Pte, budget: &mut Budget) -> bool {
    budget.spend(6);
    if !maps_shared_page(mem, page) && !names_shared_page(mem, page, image) {
        return false;
    }
    budget.spend(WHOLE_AND_HALF);
    is_table(mem, page)
}

/// Whether the entry of the shared page is present in a table, read as one of the fourth level.
fn maps_shared_page<M: PhysRead>(mem: &M, table: Gpa) -> bool {
    mem.load_u64(table.wrapping_add(SHARED.wrapping_mul(8))).is_ok_and(|word| {
        let entry = Pte::new(word);
        entry.is_present() && entry.fits(Level::Pml4, PHYS_BITS)
    })
}

/// Whether the table that entry 511 leads to has the entries of the image and of the shared page: five levels.
fn names_shared_page<M: PhysRead>(mem: &M, page: Gpa, image: Pte) -> bool {
    let below = image.table();
    let last = mem.load_u64(page.wrapping_add(PAGE_BYTES - 8));
    last == Ok(image.get())
        && mem.holds_data(below)
        && maps_shared_page(mem, below)
        && [511_u64, 0x1f0].into_iter().any(|index| {
            mem.load_u64(below.wrapping_add(index.wrapping_mul(8))).is_ok_and(|word| Pte::new(word).is_present())
        })
}

fn is_table<M: PhysRead>(mem: &M, table: Gpa) -> bool {
    let mut kernel = 0_u32;
    let fits = all_entries(mem, table, 0..ENTRIES, |index, entry| {
        kernel = kernel.wrapping_add(u32::from(KERNEL_HALF.contains(&index) && entry.is_present()));
        entry.fits(Level::Pml4, PHYS_BITS)
    });
    fits == Ok(true) && kernel >= LEAST && self_entry(mem, table).is_some()
}
