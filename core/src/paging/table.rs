//! The entries of one table, read in blocks, and the pages that a page table maps.

use core::ops::Range;

use super::blocks::{BLOCK, Blocks, ENTRIES, WHOLE};
use super::level::Level;
use super::not_present::{NotPresentEntry, NotPresentResolver, Resolution};
use super::pte::Pte;
use super::rights::{Grants, Rights};
use super::walk::PageWalker;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::phys::{PhysError, PhysRead};

/// What 2 MiB of addresses are translated by: a page table, 512 entries of 4 KiB each, or what stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeafTable {
    /// The first address that it translates, a multiple of 2 MiB.
    pub gva: Gva,
    /// Where its entries are.
    pub entries: LeafEntries,
    /// What the walk to it grants.
    pub rights: Rights,
}

/// Where the entries of a [`LeafTable`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafEntries {
    /// In RAM.
    At(Gpa),
    /// Nowhere: there is no table, and an entry above it without P says for each page what it means.
    Above {
        /// The level of the entry.
        level: Level,
        /// The entry.
        entry: u64,
    },
}

impl LeafTable {
    /// Which of its entries translate `start .. end`.
    pub(crate) fn inside(&self, start: Gva, end: Gva) -> Range<u64> {
        let index = |gva: Gva| (gva.get().saturating_sub(self.gva.get()) >> PAGE_SHIFT).min(ENTRIES);
        index(start)..index(end)
    }

    /// The address that entry `index` translates.
    const fn page(&self, index: u64) -> Gva {
        self.gva.wrapping_add(index << PAGE_SHIFT)
    }
}

/// How far a look at the pages of a table came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableRead {
    /// The entry to go on with.
    pub(crate) next: u64,
    /// Loads of the resolver, which were spent on the budget as well.
    pub(crate) resolving: u64,
}

impl<M: PhysRead, R: NotPresentResolver> PageWalker<M, R> {
    /// Hands the pages of `table` that grant what the walker needs to `each`, in order, from the entries `range`: the
    /// address and where the page lies. It stops behind a page for which `each` gives false, and where the budget is
    /// spent; entries of all zeros are passed over unasked.
    ///
    /// # Bound
    /// A block of 64 entries (a whole table where the memory is read in batches), or one answer of the resolver, more
    /// than the budget has.
    pub(crate) fn pages_of(
        &self,
        table: &LeafTable,
        range: Range<u64>,
        budget: &mut Budget,
        each: impl FnMut(Gva, Gpa, &mut Budget) -> bool,
    ) -> Result<TableRead, PhysError> {
        match table.entries {
            LeafEntries::At(at) if self.mem().batch() > 1 => {
                self.pages_in(table, &mut Blocks::<M, WHOLE>::new(self.mem(), at, &range), budget, each)
            }
            LeafEntries::At(at) => {
                self.pages_in(table, &mut Blocks::<M, BLOCK>::new(self.mem(), at, &range), budget, each)
            }
            LeafEntries::Above { level, entry } => Ok(self.pages_below(table, (level, entry), range, budget, each)),
        }
    }

    #[inline(always)]
    fn pages_in<const N: usize>(
        &self,
        table: &LeafTable,
        blocks: &mut Blocks<'_, M, N>,
        budget: &mut Budget,
        mut each: impl FnMut(Gva, Gpa, &mut Budget) -> bool,
    ) -> Result<TableRead, PhysError> {
        let above = Grants::below(table.rights);
        let mut lookup = R::Lookup::default();
        let mut resolving = 0_u64;
        while blocks.upcoming() > 0 {
            budget.spend(blocks.upcoming());
            for (index, word) in (blocks.index()..).zip(blocks.read()?) {
                let (gva, entry) = (table.page(index), Pte::new(*word));
                if entry.is_present() {
                    let fits = self.follows(Level::Pt, entry, above, self.need());
                    if fits && !each(gva, entry.frame(PageSize::Size4K), budget) {
                        return Ok(TableRead { next: index.wrapping_add(1), resolving });
                    }
                } else if *word != 0 && R::RESOLVES {
                    let asked = NotPresentEntry { gva, level: Level::Pt, entry: *word, rights: table.rights };
                    let mut cost = Budget::unlimited();
                    let page = self.page_meant(&asked, &mut lookup, &mut cost);
                    resolving = resolving.saturating_add(cost.spent());
                    budget.spend(cost.spent());
                    if page.is_ok_and(|page| !each(gva, page, budget)) || budget.is_spent() {
                        return Ok(TableRead { next: index.wrapping_add(1), resolving });
                    }
                }
            }
            if budget.is_spent() {
                break;
            }
        }
        Ok(TableRead { next: blocks.index(), resolving })
    }

    fn pages_below(
        &self,
        table: &LeafTable,
        (level, entry): (Level, u64),
        range: Range<u64>,
        budget: &mut Budget,
        mut each: impl FnMut(Gva, Gpa, &mut Budget) -> bool,
    ) -> TableRead {
        let mut lookup = R::Lookup::default();
        let mut resolving = 0_u64;
        let mut index = range.start;
        while index < range.end {
            let gva = table.page(index);
            let asked = NotPresentEntry { gva, level, entry, rights: table.rights };
            let mut cost = Budget::unlimited();
            let page = self.page_meant(&asked, &mut lookup, &mut cost);
            resolving = resolving.saturating_add(cost.spent());
            budget.spend(cost.spent().saturating_add(1));
            index = match page {
                Ok(page) => {
                    index = index.wrapping_add(1);
                    if !each(gva, page, budget) {
                        break;
                    }
                    index
                }
                Err(until) => {
                    let pages = until.get().saturating_sub(gva.get()).div_ceil(PAGE_BYTES).max(1);
                    index.saturating_add(pages).min(ENTRIES)
                }
            };
            if budget.is_spent() {
                break;
            }
        }
        TableRead { next: index, resolving }
    }

    /// The page that an entry without P leads to, if it grants what the walker needs; else up to where that is not so.
    fn page_meant(&self, asked: &NotPresentEntry, lookup: &mut R::Lookup, cost: &mut Budget) -> Result<Gpa, Gva> {
        let next_page = asked.gva.wrapping_add(PAGE_BYTES);
        match self.meaning(asked, lookup, cost) {
            Err(_) => Err(next_page),
            Ok(answer) => match answer.resolution {
                Resolution::Page { gpa, rights } if self.judge_rights(asked, rights).is_ok() => Ok(gpa),
                Resolution::Page { .. } | Resolution::Table(_) => Err(next_page),
                Resolution::NotMapped | Resolution::NotResident => Err(answer.until),
            },
        }
    }
}
