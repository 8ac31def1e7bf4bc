//! All pages that an address space maps in a range, in ascending order: resumable, and bounded against tables that lead
//! back to themselves.

use super::entry::{Level, PagingMode, Pte, Rights};
use super::error::{WalkError, WalkErrorKind};
use super::not_present::{NotPresentEntry, NotPresentResolver, Resolution};
use super::table::{ENTRIES, LeafEntries, LeafTable, WHOLE};
use super::walk::{PageWalker, Residence};
use crate::addr::{Gpa, Gva, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::phys::{PageKind, PhysError, PhysRead};

/// A page that the space maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaf {
    /// Its first address.
    pub gva: Gva,
    /// Its first physical address.
    pub gpa: Gpa,
    /// Its size.
    pub size: PageSize,
    /// What the walk to it grants.
    pub rights: Rights,
    /// Whether the processor would find it.
    pub residence: Residence,
}

/// What one step of an enumeration gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafStep {
    /// A page.
    Leaf(Leaf),
    /// A page table that was not entered, or what stands for one: only from a cursor that was told so, see
    /// [`LeafCursor::stopping_at_tables`].
    Table(LeafTable),
    /// A stretch that cannot be enumerated, named by its first entry; the enumeration goes on after it.
    Skipped(WalkError),
    /// The budget is spent: call again with a new one.
    Pending,
    /// Nothing more in the range, or the cursor's own limit of tables is reached: see [`LeafCursor::is_truncated`].
    Done,
}

/// What is next in a table.
enum Entry {
    There(Pte),
    /// Zeros to the end of the table, or of the range.
    NoMore,
    /// The budget is spent.
    Pending,
    Unreadable(PhysError),
}

#[derive(Clone, Copy, Debug)]
struct Open {
    table: Gpa,
    rights: Rights,
    residence: Residence,
}

/// Where an enumeration stands: a plain value that may be kept, but the tables are read anew as it moves on.
#[derive(Clone, Copy, Debug)]
pub struct LeafCursor {
    next: u64,
    end: u64,
    tables_left: u64,
    /// Loads of a resolver that the tables taken off so far still pay for.
    paid: u64,
    truncated: bool,
    /// The tables on the path to `next`, by level: index 0 is the page table.
    path: [Option<Open>; 5],
    /// The last entry that led to a table, by the level of that table: the same entry again is passed over.
    previous: [u64; 5],
    repeated: u64,
    need: Rights,
    stop_at_tables: bool,
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
    const fn visit(&mut self, tables: u64) -> bool {
        match self.tables_left.checked_sub(tables) {
            Some(left) => self.tables_left = left,
            None => self.truncated = true,
        }
        !self.truncated
    }

    /// Leaps over the addresses that are not canonical: no entry translates them.
    fn leap(&mut self, mode: PagingMode) {
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
    fn entries_left(&self, level: Level) -> u64 {
        let span = level.span();
        let in_range = self.half_end.wrapping_sub(self.next & !span.wrapping_sub(1)).div_ceil(span);
        in_range.min(512_u64.wrapping_sub(level.index(Gva::new(self.next))))
    }

    /// Whether an entry leads to a `table` of `below` that is on its own path, or is the entry before it again.
    fn is_repeated(&self, below: Level, table: Gpa, entry: Pte) -> bool {
        let on_path = self.path.iter().flatten().any(|above| above.table == table);
        on_path || self.previous.get(Self::slot(below)).is_none_or(|previous| *previous == entry.get())
    }

    fn remember(&mut self, below: Level, entry: Pte) {
        if let Some(previous) = self.previous.get_mut(Self::slot(below)) {
            *previous = entry.get();
        }
    }

    fn slot(level: Level) -> usize {
        (level as usize).wrapping_sub(1)
    }

    fn open(&self, level: Level) -> Option<Open> {
        self.path.get(Self::slot(level)).copied().flatten()
    }

    /// Moves past the entry of `level` that translates `next`, and closes the tables that end there.
    fn pass(&mut self, level: Level) {
        self.pass_many(level, 1);
    }

    /// Moves past what lies before `until` of the entry of `level` that translates `next`: a page at least, and no more
    /// than the entry translates.
    fn pass_until(&mut self, level: Level, until: Gva) {
        let entry_last = self.next | level.span().wrapping_sub(1);
        if until.get() > entry_last || until.get() == u64::MAX {
            return self.pass(level);
        }
        let page = self.next >> PAGE_SHIFT;
        self.pass_many(Level::Pt, (until.get() >> PAGE_SHIFT).saturating_sub(page).max(1));
    }

    /// Moves past `count` entries of one table of `level`, from the one that translates `next` on.
    fn pass_many(&mut self, level: Level, count: u64) {
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
}

impl<M: PhysRead, R: NotPresentResolver> PageWalker<M, R> {
    /// The next page of the enumeration, whatever it grants; absent entries that the resolver finds in RAM are
    /// included. An entry of all zeros is passed over unasked: the process never touched what it maps, if it maps
    /// anything. Holes of a sparse RAM file are not touched.
    ///
    /// # Bound
    /// One entry load a step of `budget`, which one answer of the resolver can overdraw. In all at most 512 loads for
    /// each of the cursor's tables, and one answer: what the resolver reads is taken off the limit of tables, and so is
    /// each page that an entry above the page tables leads to. A table that leads to itself or to a table above it is
    /// passed over, and so is an entry equal to the one before it.
    pub fn next_leaf(&self, cursor: &mut LeafCursor, budget: &mut Budget) -> LeafStep {
        loop {
            cursor.leap(self.space().mode);
            if cursor.next >= cursor.end || cursor.truncated {
                return LeafStep::Done;
            }
            let (level, open) = match self.lowest_open(cursor) {
                Some(found) => found,
                None => {
                    cursor.truncated = true;
                    return LeafStep::Done;
                }
            };
            let (skipped, entry) = self.next_entry(cursor, level, open.table, budget);
            if skipped > 0 {
                cursor.pass_many(level, skipped);
            }
            let gva = Gva::new(cursor.next);
            let entry = match entry {
                Entry::There(entry) => entry,
                Entry::NoMore => continue,
                Entry::Pending => return LeafStep::Pending,
                Entry::Unreadable(error) => {
                    // The whole table is gone: go on after it.
                    cursor.pass(match level {
                        Level::Pt => Level::Pd,
                        Level::Pd => Level::Pdpt,
                        Level::Pdpt => Level::Pml4,
                        Level::Pml4 | Level::Pml5 => Level::Pml5,
                    });
                    return LeafStep::Skipped(WalkErrorKind::Table { level, error }.at(gva));
                }
            };
            if let Some(step) = self.enter(cursor, gva, level, open, entry, budget) {
                return step;
            }
        }
    }

    /// After a step that gave a table or a page by its directory entry: how many of the entries right after it, in the
    /// same directory, give another. The cursor moves past them. For a caller that wants to know what is there at all.
    ///
    /// # Bound
    /// A load for each, and for one more that [`next_leaf`](Self::next_leaf) then loads again.
    pub(crate) fn more_spans(&self, cursor: &mut LeafCursor, budget: &mut Budget) -> u64 {
        let Some(open) = cursor.open(Level::Pd).filter(|_| cursor.stop_at_tables) else { return 0 };
        let at = Level::Pd.entry_in(open.table, Gva::new(cursor.next));
        if self.mem().batch() > 1 {
            return self.more_spans_at_once(cursor, open, at, budget);
        }
        self.count_spans(cursor, open, budget, |n| self.mem().load_u64(at.wrapping_add(n.wrapping_mul(8))).ok())
    }

    /// The same by one load. Apart: it takes a table's worth of stack.
    #[inline(never)]
    fn more_spans_at_once(&self, cursor: &mut LeafCursor, open: Open, at: Gpa, budget: &mut Budget) -> u64 {
        let mut block = [0_u64; WHOLE];
        let most = usize::try_from(cursor.entries_left(Level::Pd)).unwrap_or(WHOLE).min(WHOLE);
        let Some(words) = block.get_mut(..most) else { return 0 };
        if budget.is_spent() || self.mem().load_words(at, words).is_err() {
            return 0;
        }
        self.count_spans(cursor, open, budget, |n| words.get(usize::try_from(n).ok()?).copied())
    }

    #[inline(always)]
    fn count_spans(
        &self,
        cursor: &mut LeafCursor,
        open: Open,
        budget: &mut Budget,
        load: impl Fn(u64) -> Option<u64>,
    ) -> u64 {
        let most = cursor.entries_left(Level::Pd);
        let mut count = 0_u64;
        while count < most && cursor.tables_left > 0 && budget.spend(1) {
            let Some(raw) = load(count) else { break };
            let entry = Pte::new(raw);
            let plain = entry.is_present()
                && entry.reserved_bits_beyond(Level::Pd, self.beyond()) == 0
                && open.rights.and(entry.rights()).grant(cursor.need);
            let page = entry.is_leaf(Level::Pd);
            if !plain || (!page && cursor.is_repeated(Level::Pt, entry.table(), entry)) {
                break;
            }
            if !page {
                cursor.remember(Level::Pt, entry);
            }
            cursor.visit(1);
            count = count.wrapping_add(1);
        }
        if count > 0 {
            cursor.pass_many(Level::Pd, count);
        }
        count
    }

    /// The next entry of the table that is not all zeros, and how many before it are. In a loop of its own: most
    /// entries of most upper tables are zeros.
    #[inline(always)]
    fn next_entry(&self, cursor: &LeafCursor, level: Level, table: Gpa, budget: &mut Budget) -> (u64, Entry) {
        let most = cursor.entries_left(level);
        let mut at = level.entry_in(table, Gva::new(cursor.next));
        if self.mem().batch() > 1 {
            return self.next_entry_at_once(at, most, budget);
        }
        for skipped in 0..most {
            if !budget.spend(1) {
                return (skipped, Entry::Pending);
            }
            match self.mem().load_u64(at) {
                Ok(0) => at = at.wrapping_add(8),
                Ok(raw) => return (skipped, Entry::There(Pte::new(raw))),
                Err(error) => return (skipped, Entry::Unreadable(error)),
            }
        }
        (most, Entry::NoMore)
    }

    /// The same by one load of all entries that are left. Apart: it takes a table's worth of stack.
    #[inline(never)]
    fn next_entry_at_once(&self, at: Gpa, most: u64, budget: &mut Budget) -> (u64, Entry) {
        let mut block = [0_u64; WHOLE];
        let Some(words) = block.get_mut(..usize::try_from(most).unwrap_or(WHOLE).min(WHOLE)) else {
            return (0, Entry::NoMore);
        };
        if budget.is_spent() {
            return (0, Entry::Pending);
        }
        if let Err(error) = self.mem().load_words(at, words) {
            return (0, Entry::Unreadable(error));
        }
        for (skipped, raw) in (0_u64..).zip(words.iter()) {
            if !budget.spend(1) {
                return (skipped, Entry::Pending);
            }
            if *raw != 0 {
                return (skipped, Entry::There(Pte::new(*raw)));
            }
        }
        (most, Entry::NoMore)
    }

    /// The lowest table on the path to the cursor; the root where there is none. `None`: no table may be visited any
    /// more.
    fn lowest_open(&self, cursor: &mut LeafCursor) -> Option<(Level, Open)> {
        for level in [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4, Level::Pml5] {
            if let Some(open) = cursor.open(level) {
                return Some((level, open));
            }
        }
        let root = Open { table: self.space().root.table(), rights: Rights::ALL, residence: Residence::Present };
        self.push(cursor, self.space().mode.top(), root)
    }

    fn push(&self, cursor: &mut LeafCursor, level: Level, open: Open) -> Option<(Level, Open)> {
        cursor.tables_left = cursor.tables_left.checked_sub(1)?;
        *cursor.path.get_mut(LeafCursor::slot(level))? = Some(open);
        if let Some(below) = level.below()
            && let Some(previous) = cursor.previous.get_mut(LeafCursor::slot(below))
        {
            *previous = 0;
        }
        Some((level, open))
    }

    /// Deals with one entry: a step to hand out, or `None` to go on.
    fn enter(
        &self,
        cursor: &mut LeafCursor,
        gva: Gva,
        level: Level,
        open: Open,
        entry: Pte,
        budget: &mut Budget,
    ) -> Option<LeafStep> {
        let (table, below, rights, residence) = if entry.is_present() {
            if entry.reserved_bits(level, self.space().phys_bits) != 0 {
                cursor.pass(level);
                return Some(LeafStep::Skipped(WalkErrorKind::Reserved { level, entry: entry.get() }.at(gva)));
            }
            let rights = open.rights.and(entry.rights());
            if !rights.grant(cursor.need) {
                cursor.pass(level);
                return None;
            }
            match (level.page_size(), level.below()) {
                (Some(size), _) if entry.is_leaf(level) => {
                    let gpa = entry.frame(size);
                    let gva = gva.align_down(size);
                    if cursor.stop_at_tables && !cursor.visit(size.bytes() >> PageSize::Size2M.bytes().trailing_zeros())
                    {
                        return Some(LeafStep::Done);
                    }
                    cursor.pass(level);
                    return Some(LeafStep::Leaf(Leaf { gva, gpa, size, rights, residence: open.residence }));
                }
                (_, Some(below)) => (entry.table(), below, rights, open.residence),
                (_, None) => {
                    cursor.pass(level);
                    return None;
                }
            }
        } else {
            let asked = NotPresentEntry { gva, level, entry: entry.get(), rights: open.rights };
            let mut cost = Budget::unlimited();
            let answer = self.meaning(&asked, &mut R::Lookup::default(), &mut cost);
            let loads = cost.spent();
            budget.spend(loads);
            // A page of an entry above the page tables costs the entry's own load once more each time.
            let again = u64::from(level != Level::Pt);
            if R::RESOLVES && !cursor.charge(loads.saturating_add(again)) {
                return Some(LeafStep::Done);
            }
            let answer = match answer {
                Ok(answer) => answer,
                Err(kind) => {
                    cursor.pass(level);
                    return Some(LeafStep::Skipped(kind.at(asked.gva)));
                }
            };
            match (answer.resolution, level.below()) {
                (Resolution::Page { .. }, Some(_)) if cursor.stop_at_tables => {
                    if !cursor.visit(1) {
                        return Some(LeafStep::Done);
                    }
                    cursor.pass(Level::Pd);
                    let entries = LeafEntries::Above { level, entry: entry.get() };
                    let gva = gva.align_down(PageSize::Size2M);
                    return Some(LeafStep::Table(LeafTable { gva, entries, rights: open.rights }));
                }
                (Resolution::Page { gpa, rights }, _) => {
                    let rights = rights.unwrap_or(open.rights);
                    // The answer is for this page alone: the entry of an upper level is asked again for the next one.
                    cursor.pass(Level::Pt);
                    return rights.grant(cursor.need).then_some(LeafStep::Leaf(Leaf {
                        gva: gva.align_down(PageSize::Size4K),
                        gpa,
                        size: PageSize::Size4K,
                        rights,
                        residence: Residence::Trimmed,
                    }));
                }
                (Resolution::Table(table), Some(below)) => (table, below, open.rights, Residence::Trimmed),
                (Resolution::NotResident, _) => {
                    cursor.pass_until(level, answer.until);
                    return Some(LeafStep::Skipped(WalkErrorKind::NotResident { level, entry: entry.get() }.at(gva)));
                }
                (Resolution::NotMapped | Resolution::Table(_), _) => {
                    cursor.pass_until(level, answer.until);
                    return None;
                }
            }
        };
        if cursor.is_repeated(below, table, entry) {
            cursor.repeated = cursor.repeated.wrapping_add(1);
            cursor.pass(level);
            return None;
        }
        cursor.remember(below, entry);
        // A table in a hole is all zeros, and reading it would fill the hole.
        if self.mem().page_kind(table) == PageKind::Hole {
            cursor.pass(level);
            return None;
        }
        if below == Level::Pt && cursor.stop_at_tables {
            if !cursor.visit(1) {
                return Some(LeafStep::Done);
            }
            cursor.pass(level);
            return Some(LeafStep::Table(LeafTable {
                gva: gva.align_down(PageSize::Size2M),
                entries: LeafEntries::At(table),
                rights,
            }));
        }
        if self.push(cursor, below, Open { table, rights, residence }).is_none() {
            cursor.truncated = true;
            return Some(LeafStep::Done);
        }
        None
    }
}
