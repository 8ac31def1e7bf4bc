//! All pages that an address space maps in a range, in ascending order: resumable, and bounded against tables that lead
//! back to themselves.

use super::ahead::Ahead;
use super::error::{WalkError, WalkErrorKind};
use super::leaf_cursor::{LeafCursor, Open};
use super::level::Level;
use super::not_present::{NotPresentEntry, NotPresentResolver, Resolution};
use super::pte::Pte;
use super::rights::{Grants, Need, Rights};
use super::space::Residence;
use super::table::{LeafEntries, LeafTable};
use super::walk::PageWalker;
use crate::addr::{Gpa, Gva, PageSize};
use crate::budget::Budget;
use crate::phys::{PhysError, PhysRead};

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

impl<M: PhysRead, R: NotPresentResolver> PageWalker<M, R> {
    /// The next page of the enumeration, whatever it grants; absent entries that the resolver finds in RAM are
    /// included. An entry of all zeros is passed over unasked: the process never touched what it maps, if it maps
    /// anything. Holes of a sparse RAM file are not touched.
    ///
    /// # Bound
    /// Each load is spent on `budget`, which one answer of the resolver can overdraw, or where the memory is read in
    /// batches half a table. In all at most 512 loads for each of the cursor's tables (1024 in batches: entries are
    /// read ahead, and those behind a page are read again), and one answer: what the resolver reads is taken off the
    /// limit of tables, and so is each page that an entry above the page tables leads to. A table that leads to itself
    /// or to a table above it is passed over, and so is an entry equal to the one before it.
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
    /// A load for each, and for one more that [`next_leaf`](Self::next_leaf) then loads again; twice as many where the
    /// memory is read in batches.
    pub(crate) fn more_spans(&self, cursor: &mut LeafCursor, budget: &mut Budget) -> u64 {
        let Some(open) = cursor.open(Level::Pd).filter(|_| cursor.stop_at_tables) else { return 0 };
        let at = Level::Pd.entry_in(open.table, Gva::new(cursor.next));
        if self.mem().batch() > 1 {
            return self.more_spans_ahead(cursor, open, at, budget);
        }
        self.count_spans(cursor, open, |n| {
            budget.spend(1).then(|| self.mem().load_u64(at.wrapping_add(n.wrapping_mul(8))).ok()).flatten()
        })
    }

    /// The same where every read is a system call. Apart: it takes half a table's worth of stack.
    #[inline(never)]
    fn more_spans_ahead(&self, cursor: &mut LeafCursor, open: Open, at: Gpa, budget: &mut Budget) -> u64 {
        let mut ahead = Ahead::new(at, cursor.entries_left(Level::Pd));
        self.count_spans(cursor, open, |n| ahead.word(self.mem(), n, budget).ok().flatten())
    }

    #[inline(always)]
    fn count_spans(&self, cursor: &mut LeafCursor, open: Open, mut load: impl FnMut(u64) -> Option<u64>) -> u64 {
        let most = cursor.entries_left(Level::Pd);
        let (above, need) = (Grants::below(open.rights), Need::of(cursor.need));
        let mut count = 0_u64;
        while count < most && cursor.tables_left > 0 {
            let Some(raw) = load(count) else { break };
            let entry = Pte::new(raw);
            let plain = self.follows(Level::Pd, entry, above, need);
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
            return self.next_entry_ahead(at, most, budget);
        }
        let affordable = most.min(budget.left());
        let mut skipped = 0_u64;
        let entry = loop {
            if skipped == affordable {
                budget.spend(skipped);
                return (skipped, if skipped < most { Entry::Pending } else { Entry::NoMore });
            }
            match self.mem().load_u64(at) {
                Ok(0) => at = at.wrapping_add(8),
                Ok(raw) => break Entry::There(Pte::new(raw)),
                Err(error) => break Entry::Unreadable(error),
            }
            skipped = skipped.wrapping_add(1);
        };
        budget.spend(skipped.wrapping_add(1));
        (skipped, entry)
    }

    /// The same where every read is a system call. Apart: it takes half a table's worth of stack.
    #[inline(never)]
    fn next_entry_ahead(&self, at: Gpa, most: u64, budget: &mut Budget) -> (u64, Entry) {
        let mut ahead = Ahead::new(at, most);
        for skipped in 0..most {
            match ahead.word(self.mem(), skipped, budget) {
                Ok(Some(0)) => {}
                Ok(Some(raw)) => return (skipped, Entry::There(Pte::new(raw))),
                Ok(None) => return (skipped, Entry::Pending),
                Err(error) => return (skipped, Entry::Unreadable(error)),
            }
        }
        (most, Entry::NoMore)
    }

    /// The lowest table on the path to the cursor; the root where there is none. `None`: no table may be visited any
    /// more.
    fn lowest_open(&self, cursor: &mut LeafCursor) -> Option<(Level, Open)> {
        if let Some(found) = cursor.lowest_open() {
            return Some(found);
        }
        let root = Open { table: self.space().root.table(), rights: Rights::ALL, residence: Residence::Present };
        let top = self.space().mode.top();
        cursor.push(top, root)?;
        Some((top, root))
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
            if self.is_reserved(level, entry) {
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
        if self.mem().fills_hole(table) {
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
        if cursor.push(below, Open { table, rights, residence }).is_none() {
            cursor.truncated = true;
            return Some(LeafStep::Done);
        }
        None
    }
}
