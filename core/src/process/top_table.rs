//! Whether a page of RAM is a top table: what it leads to tells, and is looked at before the rest of it.

use super::kernel_half::{all_fit, reserved};
use super::pages::Pages;
use super::sieve::LAST_LINE;
use crate::addr::Gpa;
use crate::budget::Budget;
use crate::paging::{AddressSpace, ENTRIES, Hardware, Level, Pte, all_entries};
use crate::phys::PhysRead;

/// Entries of a cache line.
const LINE: usize = 8;
/// What the first look behind an image entry costs: a line there, and one here.
const LINES: u64 = 16;

/// What pages are judged with: the pass that they come from, and what tables are read as.
pub(super) struct TopTables<'p> {
    pub(super) pages: &'p Pages,
    pub(super) space: &'p AddressSpace<Hardware>,
}

impl TopTables<'_> {
    /// Whether a page is RAM.
    pub(super) fn is_ram<M: PhysRead>(&self, mem: &M, page: Gpa) -> bool {
        self.pages.is_inside(page) || mem.is_ram(page)
    }

    /// Whether a page is a hole of a sparse file: none that lies in the stretch of data that the pass is in.
    fn is_hole<M: PhysRead>(&self, mem: &M, page: Gpa) -> bool {
        !self.pages.is_inside(page) && mem.fills_hole(page)
    }

    /// Whether `page` is a top table; `entry` is its image entry, and the line that tells most of what that leads to
    /// was asked for some while before.
    ///
    /// # Bound
    /// 16 loads, and 512 for each level where these tell nothing.
    pub(super) fn is_one<M: PhysRead>(&self, mem: &M, page: Gpa, entry: Pte, budget: &mut Budget) -> bool {
        budget.spend(LINES);
        self.leads_on(mem, entry.table()) && self.line_fits(mem, page) && self.could_be_root(mem, page, entry, budget)
    }

    /// Whether the first line of a page could be a top table's.
    fn line_fits<M: PhysRead>(&self, mem: &M, page: Gpa) -> bool {
        let mut line = [0_u64; LINE];
        mem.load_words(page, &mut line).is_ok() && all_fit(&line, reserved(self.space.phys_bits))
    }

    /// Whether a table of the second level could lie at `table`, by its last line: present entries there lead to tables
    /// or are pages of 1 GiB.
    fn leads_on<M: PhysRead>(&self, mem: &M, table: Gpa) -> bool {
        let mut line = [0_u64; LINE];
        if self.is_hole(mem, table) {
            return true;
        }
        mem.load_words(table.wrapping_add(LAST_LINE), &mut line).is_ok()
            && line.iter().all(|word| Pte::new(*word).fits(Level::Pdpt, self.space.phys_bits))
    }

    /// A top table whose image entry leads, table by table, to a page, or to a page table that is empty: Linux ends its
    /// address space with such (the second table of its fixmap). Each table must read like one; what the page leads to
    /// is looked at before the rest of it, since it tells sooner.
    fn could_be_root<M: PhysRead>(&self, mem: &M, page: Gpa, entry: Pte, budget: &mut Budget) -> bool {
        let top = self.space.mode.top();
        let Some(second) = top.below() else { return false };
        if !self.leads_to_a_page(mem, entry.table(), second, budget) {
            return false;
        }
        budget.spend(ENTRIES);
        self.last_present(mem, page, top).is_some()
    }

    /// Whether the last entries of tables from `table` of `level` on lead to a page, or to an empty page table.
    fn leads_to_a_page<M: PhysRead>(&self, mem: &M, table: Gpa, level: Level, budget: &mut Budget) -> bool {
        let (mut table, mut level) = (table, level);
        loop {
            budget.spend(ENTRIES);
            let Some(last) = self.last_present(mem, table, level) else { return false };
            let Some(below) = level.below() else { return true };
            let Some(entry) = last else { return false };
            if entry.is_leaf(level) {
                return true;
            }
            if !self.is_ram(mem, entry.table()) {
                return false;
            }
            table = entry.table();
            level = below;
        }
    }

    /// The last present entry of the table of `level` at `table`, if there is one; `None` where it reads like no such
    /// table. A hole of a sparse file is an empty table, and is not touched.
    fn last_present<M: PhysRead>(&self, mem: &M, table: Gpa, level: Level) -> Option<Option<Pte>> {
        if self.is_hole(mem, table) {
            return Some(None);
        }
        let mut last = None;
        let fits = all_entries(mem, table, 0..ENTRIES, |_, entry| {
            if entry.is_present() {
                last = Some(entry);
            }
            entry.fits(level, self.space.phys_bits)
        });
        (fits == Ok(true)).then_some(last)
    }
}
