//! Where an enumeration of pages stands: its range, its path of tables, and what it may still visit.

use super::blocks::ENTRIES;
use super::level::{Level, PagingMode};
use super::pte::Pte;
use super::rights::Rights;
use super::space::Residence;
use crate::addr::{Gpa, Gva, PAGE_SHIFT};

/// A table on the path of an enumeration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) table: Gpa,
    pub(super) rights: Rights,
    pub(super) residence: Residence,
}

/// Where an enumeration stands: a plain value that may be kept, but the tables are read anew as it moves on.
#[derive(Clone, Copy, Debug)]
pub struct LeafCursor {
    pub(super) next: u64,
    pub(super) end: u64,
    pub(super) tables_left: u64,
    /// Loads of a resolver that the tables taken off so far still pay for.
    paid: u64,
    pub(super) truncated: bool,
    /// The tables on the path to `next`, by level: index 0 is the page table.
    path: [Option<Open>; 5],
    /// The last entry that led to a table, by the level of that table: the same entry again is passed over.
    previous: [u64; 5],
    pub(super) repeated: u64,
    pub(super) need: Rights,
    pub(super) stop_at_tables: bool,
    /// Where the half of the address space that `next` is in ends, or the range does.
    half_end: u64,
}

impl LeafCursor {
    /// Tables that one enumeration may visit unless told otherwise: the page tables of 512 GiB mapped in 4 KiB pages.
    pub const TABLES: u64 = 1 << 18;

    /// An enumeration of the canonical addresses of `start .. end`; an `end` of `u64::MAX` takes in the last page.
    #[must_use]
    pub const fn new(start: Gva, end: Gva) -> Self {
        Self {
            next: start.get(),
            end: end.get(),
            tables_left: Self::TABLES,
            paid: 0,
            truncated: false,
            path: [None; 5],
            previous: [0; 5],
            repeated: 0,
            need: Rights::NONE,
            stop_at_tables: false,
            half_end: u64::MAX,
        }
    }

    /// The same, which passes over whatever does not grant `need`, whole tables at once.
    #[must_use]
    pub const fn needing(self, need: Rights) -> Self {
        Self { need, ..self }
    }

    /// The same, which hands out page tables instead of the 4 KiB pages in them: for a caller that reads them itself. A
    /// large page then counts as the page tables that it stands for, so that the limit of tables bounds what is handed
    /// out.
    #[must_use]
    pub const fn stopping_at_tables(self) -> Self {
        Self { stop_at_tables: true, ..self }
    }

    /// The same, which visits at most `tables` tables.
    #[must_use]
    pub const fn with_tables(self, tables: u64) -> Self {
        Self { tables_left: tables, ..self }
    }

    /// The next address to be looked at.
    #[must_use]
    pub const fn position(&self) -> Gva {
        Gva::new(self.next)
    }

    /// Whether the limit of tables ended the enumeration: a real address space never comes near it.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Entries that were passed over because they led to a table on their own path, or to the same table as the entry
    /// before them.
    #[must_use]
    pub const fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Takes `tables` off the limit; false, and the end, where it has no room for them.
    pub(super) const fn visit(&mut self, tables: u64) -> bool {
        match self.tables_left.checked_sub(tables) {
            Some(left) => self.tables_left = left,
            None => self.truncated = true,
        }
        !self.truncated
    }

    /// Leaps over the addresses that are not canonical: no entry translates them.
    pub(super) fn leap(&mut self, mode: PagingMode) {
        let (user_end, kernel_start) = (mode.user_end().get(), mode.user_end().get().wrapping_neg());
        if self.next >= user_end && self.next < kernel_start {
            self.next = kernel_start;
            // The top table translates both halves; nothing below it does.
            for level in [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4] {
                if level < mode.top()
                    && let Some(open) = self.path.get_mut(Self::slot(level))
                {
                    *open = None;
                }
            }
        }
        self.half_end = if self.next < user_end { self.end.min(user_end) } else { self.end };
    }

    /// Takes `loads` off the limit, as the loads of tables: what a resolver reads bounds an enumeration as its tables
    /// do. False, and the end, where it has no room for them.
    pub(crate) const fn charge(&mut self, loads: u64) -> bool {
        while self.paid < loads {
            if !self.visit(1) {
                return false;
            }
            self.paid = self.paid.wrapping_add(ENTRIES);
        }
        self.paid = self.paid.wrapping_sub(loads);
        true
    }

    /// Entries of the table of `level` from the one that translates `next` on, to its end or to that of the range.
    pub(super) fn entries_left(&self, level: Level) -> u64 {
        let span = level.span();
        let in_range = self.half_end.wrapping_sub(self.next & !span.wrapping_sub(1)).div_ceil(span);
        in_range.min(512_u64.wrapping_sub(level.index(Gva::new(self.next))))
    }

    /// Whether an entry leads to a `table` of `below` that is on its own path, or is the entry before it again.
    pub(super) fn is_repeated(&self, below: Level, table: Gpa, entry: Pte) -> bool {
        let on_path = self.path.iter().flatten().any(|above| above.table == table);
        on_path || self.previous.get(Self::slot(below)).is_none_or(|previous| *previous == entry.get())
    }

    pub(super) fn remember(&mut self, below: Level, entry: Pte) {
        if let Some(previous) = self.previous.get_mut(Self::slot(below)) {
            *previous = entry.get();
        }
    }

    fn slot(level: Level) -> usize {
        (level as usize).wrapping_sub(1)
    }

    pub(super) fn open(&self, level: Level) -> Option<Open> {
        self.path.get(Self::slot(level)).copied().flatten()
    }

    /// Moves past the entry of `level` that translates `next`, and closes the tables that end there.
    pub(super) fn pass(&mut self, level: Level) {
        self.pass_many(level, 1);
    }

    /// Moves past what lies before `until` of the entry of `level` that translates `next`: a page at least, and no more
    /// than the entry translates.
    pub(super) fn pass_until(&mut self, level: Level, until: Gva) {
        let entry_last = self.next | level.span().wrapping_sub(1);
        if until.get() > entry_last || until.get() == u64::MAX {
            return self.pass(level);
        }
        let page = self.next >> PAGE_SHIFT;
        self.pass_many(Level::Pt, (until.get() >> PAGE_SHIFT).saturating_sub(page).max(1));
    }

    /// Moves past `count` entries of one table of `level`, from the one that translates `next` on.
    pub(super) fn pass_many(&mut self, level: Level, count: u64) {
        let span = level.span();
        let after = (self.next & !span.wrapping_sub(1)).wrapping_add(span.wrapping_mul(count));
        let crossed = self.next ^ after;
        self.next = if after < self.next { self.end } else { after };
        for level in [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4, Level::Pml5] {
            // A table ends where an address bit above the part that it translates has changed.
            if crossed >> level.shift() >= 512
                && let Some(open) = self.path.get_mut(Self::slot(level))
            {
                *open = None;
            }
        }
    }

    /// Enters a table of `level`; `None` where no table may be visited any more.
    pub(super) fn push(&mut self, level: Level, open: Open) -> Option<()> {
        self.tables_left = self.tables_left.checked_sub(1)?;
        *self.path.get_mut(Self::slot(level))? = Some(open);
        if let Some(below) = level.below()
            && let Some(previous) = self.previous.get_mut(Self::slot(below))
        {
            *previous = 0;
        }
        Some(())
    }

    /// The lowest table on the path.
    pub(super) fn lowest_open(&self) -> Option<(Level, Open)> {
        let levels = [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4, Level::Pml5];
        levels.into_iter().find_map(|level| Some((level, self.open(level)?)))
    }
}
