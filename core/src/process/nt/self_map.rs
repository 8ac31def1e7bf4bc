//! Top tables that name themselves: Windows maps the tables of each address space into it by one entry of the top table that
//! leads back to the table.

use crate::addr::{Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::{Level, Pte};
use crate::phys::{PhysError, PhysRead};
use crate::process::Step;
use crate::process::pages::Pages;

const LINE: usize = 8;
const BLOCK: usize = 64;
/// Pages that are prefetched.
const AHEAD: u64 = 16;
/// Entries of the kernel half below which a table is taken for a dummy: even a small guest has more.
const LEAST: u32 = 6;

/// The entry of the kernel half that leads back to `table`; `None` where there is not exactly one.
pub(super) fn self_entry<M: PhysRead>(mem: &M, table: Gpa) -> Option<u64> {
    let mut found = None;
    let mut words = [0_u64; BLOCK];
    for block in 4..8_u64 {
        mem.load_words(table.wrapping_add(block.wrapping_mul(512)), &mut words).ok()?;
        for (n, word) in words.iter().enumerate() {
            let entry = Pte::new(*word);
            if entry.is_present() && entry.table() == table {
                if found.is_some() {
                    return None;
                }
                found = Some(block.wrapping_mul(64).wrapping_add(n as u64));
            }
        }
    }
    found
}

/// Whether entry `index` of `table` leads back to it.
pub(super) fn names_itself<M: PhysRead>(mem: &M, table: Gpa, index: u64) -> bool {
    mem.load_u64(table.wrapping_add(index.wrapping_mul(8))).is_ok_and(|word| {
        let entry = Pte::new(word);
        entry.is_present() && entry.table() == table
    })
}

/// Whether an entry can stand in a top table.
fn fits(word: u64) -> bool {
    let entry = Pte::new(word);
    !entry.is_present() || entry.reserved_bits(Level::Pml4, 52) == 0
}

/// The pages of RAM that read like top tables with one self-reference, ascending: any process's, the kernel's, a loader's.
///
/// # Bound
/// One line, at most 9 loads, of every page of RAM that holds data: the last, since every Windows kernel maps something through the
/// last entry. For each page that passes, at most 512 more.
#[derive(Clone, Copy, Debug)]
pub(super) struct SelfMapped {
    pages: Pages,
}

impl SelfMapped {
    pub(super) const fn new() -> Self {
        Self { pages: Pages::new() }
    }

    pub(super) fn next<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<Gpa>, PhysError> {
        loop {
            if !budget.spend(1) {
                return Ok(Step::Pending);
            }
            let Some(page) = self.pages.advance(mem)? else { return Ok(Step::Done) };
            let end = page.wrapping_add(PAGE_BYTES);
            // The misses of the pages to come overlap with the work on this one.
            mem.prefetch(end.wrapping_add(AHEAD.wrapping_mul(PAGE_BYTES).wrapping_sub(8)));
            // The last entry first: it alone rules most pages out. A page that is gone again is no table.
            let last = mem.load_u64(Gpa::new(end.get().wrapping_sub(8)));
            if !last.is_ok_and(|word| Pte::new(word).is_present() && fits(word)) {
                continue;
            }
            let mut line = [0_u64; LINE];
            let read = mem.load_words(Gpa::new(end.get().wrapping_sub(64)), &mut line);
            if read.is_err() || !line.iter().all(|word| fits(*word)) {
                continue;
            }
            budget.spend(64);
            if is_table(mem, page) {
                return Ok(Step::Found(page));
            }
        }
    }
}

fn is_table<M: PhysRead>(mem: &M, table: Gpa) -> bool {
    let mut kernel = 0_u32;
    let mut words = [0_u64; BLOCK];
    for block in 0..8_u64 {
        if mem.load_words(table.wrapping_add(block.wrapping_mul(512)), &mut words).is_err() {
            return false;
        }
        if !words.iter().all(|word| fits(*word)) {
            return false;
        }
        if block >= 4 {
            let present = words.iter().filter(|word| Pte::new(**word).is_present()).count();
            kernel = kernel.saturating_add(u32::try_from(present).unwrap_or(u32::MAX));
        }
    }
    kernel >= LEAST && self_entry(mem, table).is_some()
}
