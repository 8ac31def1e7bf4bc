//! From hits back to addresses: the places in a process that map a page which reads like a producer page.

use super::marked::Marked;
use crate::addr::{Gpa, Gva, PageSize};
use crate::budget::Budget;
use crate::paging::{
    ENTRIES, Leaf, LeafCursor, LeafStep, LeafTable, NotPresentResolver, PageWalker, Rights, TableRead,
};
use crate::phys::PhysRead;

/// Where the look at one process stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reverse {
    cursor: LeafCursor,
    part: Part,
}

/// What of an address space is being compared with the hits.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Ask the cursor for the next.
    Next,
    /// A page table, from this entry on.
    Table(LeafTable, u64),
    /// A large page, after this hit.
    Large(Leaf, Option<Gpa>),
}

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reversed {
    /// A place that maps a hit.
    Place(Gva),
    /// Nothing yet.
    On,
    /// No more in this process.
    Done,
}

impl Reverse {
    pub(super) const fn new(cursor: LeafCursor) -> Self {
        Self { cursor, part: Part::Next }
    }

    /// Takes `loads` off what the process may cost.
    pub(super) fn charge(&mut self, loads: u64) {
        if !self.cursor.charge(loads) {
            self.part = Part::Next;
        }
    }

    /// Whether the limit of tables ended the look.
    pub(super) const fn is_truncated(&self) -> bool {
        self.cursor.is_truncated()
    }

    /// One page table, one hit in a large page, or one step of the cursor.
    pub(super) fn step<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<&M, R>,
        marked: &Marked<'_>,
        budget: &mut Budget,
    ) -> Reversed {
        match self.part {
            Part::Table(table, from) => {
                let mut place = None;
                let walker = walker.needing(Rights::USER_WRITE);
                let read = walker.pages_of(&table, from..ENTRIES, budget, |gva, page, _| {
                    if marked.is_hit(page) {
                        place = Some(gva);
                    }
                    place.is_none()
                });
                // A table that cannot be read any more was counted when it was marked.
                let TableRead { next, resolving } = read.unwrap_or(TableRead { next: ENTRIES, resolving: 0 });
                self.part = if next < ENTRIES { Part::Table(table, next) } else { Part::Next };
                self.charge(resolving);
                place.map_or(Reversed::On, Reversed::Place)
            }
            Part::Large(leaf, after) => match next_hit_in(marked.hits(), &leaf, after) {
                None => {
                    self.part = Part::Next;
                    Reversed::On
                }
                Some(hit) => {
                    self.part = Part::Large(leaf, Some(hit));
                    Reversed::Place(leaf.gva.wrapping_add(hit.get().wrapping_sub(leaf.gpa.get())))
                }
            },
            Part::Next => {
                self.part = match walker.next_leaf(&mut self.cursor, budget) {
                    LeafStep::Table(table) => Part::Table(table, 0),
                    LeafStep::Leaf(leaf) => Part::Large(leaf, None),
                    LeafStep::Skipped(_) | LeafStep::Pending => Part::Next,
                    LeafStep::Done => return Reversed::Done,
                };
                Reversed::On
            }
        }
    }
}

/// The lowest hit in a large page that is above `after`.
fn next_hit_in(hits: &[Gpa], leaf: &Leaf, after: Option<Gpa>) -> Option<Gpa> {
    let inside = |hit: Gpa| hit.align_down(PageSize::Size4K).get().wrapping_sub(leaf.gpa.get()) < leaf.size.bytes();
    hits.iter().copied().filter(|hit| inside(*hit) && after.is_none_or(|after| *hit > after)).min()
}
