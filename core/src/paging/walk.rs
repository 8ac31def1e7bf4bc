//! One translation: from `CR3` down to a page.

use super::error::{WalkError, WalkErrorKind};
use super::level::{Level, PagingMode};
use super::not_present::{Hardware, NotPresentEntry, NotPresentResolver, Resolution, Resolved};
use super::pte::Pte;
use super::rights::{Grants, Need, Rights};
use super::space::{AddressSpace, Residence, Translation};
use super::trail::{Record, Trail};
use crate::addr::{Gpa, Gva, PageSize};
use crate::budget::Budget;
use crate::phys::{PhysError, PhysRead};

/// Translates addresses of one address space, reading the tables anew every time.
///
/// # Bound
/// A translation reads at most one entry a level, 4 or 5, and what the [`NotPresentResolver`] reads.
///
/// ```
/// use vgpu_perception::{AddressSpace, Cr3, Gva, PageWalker, PhysRead, WalkError};
/// fn first_bytes(ram: &impl PhysRead, cr3: u64) -> Result<[u8; 16], WalkError> {
///     let walker = PageWalker::new(ram, AddressSpace::new(Cr3::new(cr3)));
///     let mut bytes = [0; 16];
///     walker.read(Gva::new(0x40_0000), &mut bytes)?;
///     Ok(bytes)
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PageWalker<M, R = Hardware> {
    mem: M,
    space: AddressSpace<R>,
    need: Need,
    /// The address bits that the guest's processor does not have.
    beyond: u64,
    /// Whether a page of which the entry does not say what it grants will do.
    takes_unknown: bool,
}

// Cold, so that a walk that finds runs straight through.
#[cold]
const fn denied(rights: Rights) -> WalkErrorKind {
    WalkErrorKind::Denied { rights }
}

#[cold]
const fn non_canonical() -> WalkErrorKind {
    WalkErrorKind::NonCanonical
}

#[cold]
const fn no_table(level: Level, error: PhysError) -> WalkErrorKind {
    WalkErrorKind::Table { level, error }
}

/// What the entries that a walk has passed came to.
#[derive(Clone, Copy)]
struct Passed {
    grants: Grants,
    residence: Residence,
}

impl Passed {
    const NOTHING: Self = Self { grants: Grants::START, residence: Residence::Present };
}

/// Whether an entry is present and sets none of the bits `not`, those that are reserved or would end the fast path.
#[inline(always)]
pub(super) const fn is_plain(entry: Pte, not: u64) -> bool {
    entry.is_present() && entry.get() & not == 0
}

/// Where a plain entry of a page table leads.
#[inline(always)]
pub(super) const fn small_page(pte: Pte, gva: Gva, grants: Grants, residence: Residence) -> Translation {
    let size = PageSize::Size4K;
    let gpa = pte.frame(size).wrapping_add(gva.offset_in(size));
    Translation { gpa, size, rights: grants.rights(), residence }
}

/// Where an entry leads.
enum Way {
    Page(Translation),
    Table(Gpa),
}

impl<M: PhysRead, R: NotPresentResolver> PageWalker<M, R> {
    /// A walker of `space` over `mem` (a reference to a backend is a backend).
    #[must_use]
    pub const fn new(mem: M, space: AddressSpace<R>) -> Self {
        let beyond = Pte::beyond(space.phys_bits);
        Self { mem, space, need: Need::of(Rights::NONE), beyond, takes_unknown: false }
    }

    /// The same walker, which refuses pages that do not grant `need`.
    #[must_use]
    pub fn needing(self, need: Rights) -> Self {
        Self { need: Need::of(need), ..self }
    }

    /// The same walker, which also takes a page in RAM whose entry does not say what it grants, if the levels above
    /// grant what is needed. Without this such a page is [`WalkErrorKind::RightsUnknown`].
    #[must_use]
    pub fn taking_unknown_rights(self) -> Self {
        Self { takes_unknown: true, ..self }
    }

    /// The physical memory that is walked.
    #[must_use]
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// The address space that is walked.
    #[must_use]
    pub const fn space(&self) -> &AddressSpace<R> {
        &self.space
    }

    /// The same walk of another space of this memory.
    pub(super) fn in_space(&self, space: AddressSpace<R>) -> PageWalker<&M, R> {
        let Self { mem, need, takes_unknown, .. } = self;
        PageWalker { mem, space, need: *need, beyond: Pte::beyond(space.phys_bits), takes_unknown: *takes_unknown }
    }

    #[inline]
    pub(super) const fn need(&self) -> Need {
        self.need
    }

    #[inline]
    pub(super) const fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Whether a present entry of `level` has reserved bits set.
    #[inline]
    pub(crate) const fn is_reserved(&self, level: Level, entry: Pte) -> bool {
        entry.reserved_bits_beyond(level, self.beyond) != 0
    }

    /// Whether a walk would follow an entry of `level` without asking anybody, and would find `need` granted under what
    /// the levels above grant.
    #[inline(always)]
    pub(crate) const fn follows(&self, level: Level, entry: Pte, above: Grants, need: Need) -> bool {
        above.and(entry).follow(entry.reserved_beyond(level, self.beyond), need)
    }

    /// Translates one address.
    ///
    /// # Errors
    /// Any [`WalkError`] but [`WalkErrorKind::Page`]: whether the page is RAM shows when it is read.
    #[inline]
    pub fn translate(&self, gva: Gva) -> Result<Translation, WalkError> {
        self.walk(gva, &mut ()).map_err(|kind| kind.at(gva))
    }

    /// As [`translate`](Self::translate), with every load spent on `budget`, the resolver's too; it is not asked.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    pub fn translate_spending(&self, gva: Gva, budget: &mut Budget) -> Result<Translation, WalkError> {
        self.walk(gva, budget).map_err(|kind| kind.at(gva))
    }

    /// Translates one address and hands out the entries that were used, so that the caller can see later whether the
    /// translation still stands.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    pub fn translate_with_trail(&self, gva: Gva) -> Result<(Translation, Trail), WalkError> {
        let mut trail = Trail::EMPTY;
        let translation = self.walk(gva, &mut trail).map_err(|kind| kind.at(gva))?;
        Ok((translation, trail))
    }

    /// Copies `dst.len()` bytes at `gva`, page by page.
    ///
    /// # Bound
    /// One walk for every 4 KiB of `dst` at most.
    ///
    /// # Errors
    /// The [`WalkError`] of the first page that could not be read; `dst` is filled up to there.
    pub fn read(&self, gva: Gva, dst: &mut [u8]) -> Result<(), WalkError> {
        let mut at = gva;
        let mut rest = dst;
        while !rest.is_empty() {
            let found = self.translate(at)?;
            let len = usize::try_from(found.bytes_left()).unwrap_or(usize::MAX).min(rest.len());
            let Some((head, tail)) = rest.split_at_mut_checked(len) else { break };
            self.mem.read(found.gpa, head).map_err(|error| WalkErrorKind::Page { error }.at(at))?;
            rest = tail;
            if !rest.is_empty() {
                // A range that runs past the top of the address space is not canonical there.
                at = at.checked_add(len as u64).ok_or(WalkErrorKind::NonCanonical.at(at))?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn walk<T: Record<R>>(&self, gva: Gva, record: &mut T) -> Result<Translation, WalkErrorKind> {
        match (self.space.mode, gva.pml4_offset()) {
            (PagingMode::FourLevel, Some(offset)) => {
                self.descend(self.space.root.table().wrapping_add(offset), Passed::NOTHING, gva, record)
            }
            (PagingMode::FourLevel, None) => Err(non_canonical()),
            (PagingMode::FiveLevel, _) => {
                // Taken apart and put together again, here and below: a result that a call has written stays in memory,
                // and then the fast path would write its own there as well.
                let found = self.walk_five(gva, record)?;
                Ok(found)
            }
        }
    }

    /// Apart, so that a walk of four levels starts from constants.
    #[inline(never)]
    fn walk_five<T: Record<R>>(&self, gva: Gva, record: &mut T) -> Result<Translation, WalkErrorKind> {
        if !gva.is_canonical(PagingMode::FiveLevel.address_bits()) {
            return Err(non_canonical());
        }
        let mut passed = Passed::NOTHING;
        match self.step(Level::Pml5, self.space.root.table(), gva, &mut passed, record)? {
            Way::Page(found) => Ok(found),
            Way::Table(table) => self.descend(Level::Pml4.entry_in(table, gva), passed, gva, record),
        }
    }

    /// The fast path from the PML4E at `at`, with each level known to the compiler: three tables and a page of 4 KiB.
    /// Anything else continues on the [`slow_path`](Self::slow_path) with the entry that was read.
    #[inline(always)]
    fn descend<T: Record<R>>(
        &self,
        at: Gpa,
        passed: Passed,
        gva: Gva,
        record: &mut T,
    ) -> Result<Translation, WalkErrorKind> {
        // Reserved, or what no entry on the way may set.
        let not_page = self.beyond | self.need.clear;
        let not_table = not_page | Pte::PAGE;
        let Passed { grants, residence } = passed;
        // What was granted above is put together where it is asked for: in the rare case, and at the end.
        macro_rules! entry {
            ($level:expr, $at:expr, $not:expr, $above:expr) => {{
                let entry = self.entry($level, $at, record)?;
                if !is_plain(entry, $not) {
                    let found = self.slow_path($level, entry, ($above, residence), gva, record)?;
                    return Ok(found);
                }
                entry
            }};
        }
        let pml4e = entry!(Level::Pml4, at, not_table, grants);
        let pdpte = entry!(Level::Pdpt, Level::Pdpt.entry_in(pml4e.table(), gva), not_table, grants.and(pml4e));
        let pde = entry!(Level::Pd, Level::Pd.entry_in(pdpte.table(), gva), not_table, grants.and(pml4e).and(pdpte));
        let above = || grants.and(pml4e).and(pdpte).and(pde);
        let pte = entry!(Level::Pt, Level::Pt.entry_in(pde.table(), gva), not_page, above());
        let grants = above().and(pte);
        if !grants.all_set(self.need) {
            return Err(denied(grants.rights()));
        }
        Ok(small_page(pte, gva, grants, residence))
    }

    /// Reads the entry of `level` at `at`.
    #[inline(always)]
    fn entry<T: Record<R>>(&self, level: Level, at: Gpa, record: &mut T) -> Result<Pte, WalkErrorKind> {
        match self.mem.load_u64(at) {
            Ok(raw) => {
                record.step(at, Pte::new(raw));
                Ok(Pte::new(raw))
            }
            Err(error) => Err(no_table(level, error)),
        }
    }

    /// Goes on from an entry of `level` that is no plain one, step by step.
    #[cold]
    #[inline(never)]
    fn slow_path<T: Record<R>>(
        &self,
        level: Level,
        entry: Pte,
        (grants, residence): (Grants, Residence),
        gva: Gva,
        record: &mut T,
    ) -> Result<Translation, WalkErrorKind> {
        let mut passed = Passed { grants, residence };
        let mut way = self.judge(level, entry, gva, &mut passed, record)?;
        for lower in [Level::Pdpt, Level::Pd, Level::Pt] {
            if let Way::Table(table) = way
                && lower < level
            {
                way = self.step(lower, table, gva, &mut passed, record)?;
            }
        }
        match way {
            Way::Page(found) => Ok(found),
            // A PTE is a page or an error, so that the last step always finds.
            Way::Table(_) => Err(WalkErrorKind::NotMapped { level: Level::Pt, entry: 0 }),
        }
    }

    /// Reads the entry of `level` in `table` and follows it.
    fn step<T: Record<R>>(
        &self,
        level: Level,
        table: Gpa,
        gva: Gva,
        passed: &mut Passed,
        record: &mut T,
    ) -> Result<Way, WalkErrorKind> {
        let entry = self.entry(level, level.entry_in(table, gva), record)?;
        self.judge(level, entry, gva, passed, record)
    }

    /// Where an entry of `level` leads.
    fn judge<T: Record<R>>(
        &self,
        level: Level,
        entry: Pte,
        gva: Gva,
        passed: &mut Passed,
        record: &mut T,
    ) -> Result<Way, WalkErrorKind> {
        if !entry.is_present() {
            passed.residence = Residence::Trimmed;
            let asked = NotPresentEntry { gva, level, entry: entry.get(), rights: passed.grants.rights() };
            return match record.ask(self, &asked)?.resolution {
                Resolution::Table(table) => Ok(Way::Table(table)),
                Resolution::Page { gpa, rights } => {
                    let rights = self.judge_rights(&asked, rights)?;
                    let size = PageSize::Size4K;
                    let gpa = gpa.wrapping_add(gva.offset_in(size));
                    Ok(Way::Page(Translation { gpa, size, rights, residence: passed.residence }))
                }
                Resolution::NotMapped => Err(WalkErrorKind::NotMapped { level, entry: entry.get() }),
                Resolution::NotResident => Err(WalkErrorKind::NotResident { level, entry: entry.get() }),
            };
        }
        if self.is_reserved(level, entry) {
            return Err(WalkErrorKind::Reserved { level, entry: entry.get() });
        }
        passed.grants = passed.grants.and(entry);
        match level.page_size() {
            Some(size) if entry.is_leaf(level) => {
                let rights = passed.grants.rights();
                if !passed.grants.meet(self.need) {
                    return Err(denied(rights));
                }
                let gpa = entry.frame(size).wrapping_add(gva.offset_in(size));
                Ok(Way::Page(Translation { gpa, size, rights, residence: passed.residence }))
            }
            _ => Ok(Way::Table(entry.table())),
        }
    }

    /// What an entry without P means; the rights of a [`Resolution::Page`] are those that remain under the levels
    /// above.
    #[cold]
    pub(crate) fn meaning(
        &self,
        asked: &NotPresentEntry,
        lookup: &mut R::Lookup,
        cost: &mut Budget,
    ) -> Result<Resolved, WalkErrorKind> {
        let level = asked.level;
        let answer = self.space.resolver.resolve(&self.mem, asked, lookup, cost);
        let Resolved { resolution, until } = answer.map_err(|error| WalkErrorKind::Table { level, error })?;
        let resolution = match resolution {
            Resolution::Page { gpa, rights } => Resolution::Page {
                gpa: gpa.align_down(PageSize::Size4K),
                rights: rights.map(|own| asked.rights.and(own)),
            },
            // Nothing lies below a page table.
            Resolution::Table(_) if level == Level::Pt => Resolution::NotMapped,
            Resolution::Table(table) => Resolution::Table(table.align_down(PageSize::Size4K)),
            nothing => nothing,
        };
        Ok(Resolved { resolution, until })
    }

    /// The rights on a page that a resolver found, if they meet what is needed.
    pub(super) fn judge_rights(
        &self,
        asked: &NotPresentEntry,
        rights: Option<Rights>,
    ) -> Result<Rights, WalkErrorKind> {
        match rights {
            Some(rights) if rights.grant(self.need.rights) => Ok(rights),
            Some(rights) => Err(denied(rights)),
            None if !asked.rights.grant(self.need.rights) => Err(denied(asked.rights)),
            None if self.need.rights == Rights::NONE || self.takes_unknown => Ok(asked.rights),
            None => Err(WalkErrorKind::RightsUnknown { level: asked.level, entry: asked.entry }),
        }
    }
}
