//! Many translations side by side: one level of all of them, then the next.
//!
//! A walk waits for each entry before it knows where the next one lies. Walks that are taken a level at a time wait
//! together, so that their cache misses overlap, or are one system call where each read is one.

use heapless::Vec;

use super::error::WalkError;
use super::level::Level;
use super::not_present::NotPresentResolver;
use super::pte::Pte;
use super::rights::Grants;
use super::space::{AddressSpace, Residence, Translation};
use super::walk::{PageWalker, is_plain, small_page};
use crate::addr::{Gpa, Gva};
use crate::phys::{Line, PhysRead};

/// Walks that are taken side by side: as many misses as a processor core has in flight, about.
const WIDTH: usize = 16;

/// A walk of four levels through plain entries, as far as it has come.
#[derive(Clone, Copy)]
struct Walk<'s, R> {
    /// Where the next entry lies; [`NOWHERE`] after one that was not plain.
    at: Gpa,
    gva: Gva,
    grants: Grants,
    space: &'s AddressSpace<R>,
}

/// No entry lies here: it is no multiple of eight.
const NOWHERE: Gpa = Gpa::new(u64::MAX);

impl<R> Walk<'_, R> {
    #[inline(always)]
    const fn goes_on(&self) -> bool {
        self.at.get().is_multiple_of(8)
    }

    /// Follows the entry of `level` that was read at `at`, if it could be read and is a plain one.
    #[inline(always)]
    fn follow(&mut self, entry: Option<Pte>, not_table: u64, below: Level) {
        self.at = match entry {
            Some(entry) if is_plain(entry, not_table) => {
                self.grants = self.grants.and(entry);
                below.entry_in(entry.table(), self.gva)
            }
            _ => NOWHERE,
        };
    }
}

impl<M: PhysRead, R: NotPresentResolver> PageWalker<M, R> {
    /// Translates many addresses side by side, each in an address space of its own or all in one, and hands the results
    /// to `each`, in order. Memory, and what is needed of a page, are this walker's; its own space counts only where it
    /// is among those of `walks`.
    ///
    /// Each result is what [`translate`](Self::translate) gives, from entries that are read anew. The loads of 16 walks
    /// are in flight at a time: this is the faster way where entries are in no near cache, as those of many address
    /// spaces are, and where memory is read in [batches](PhysRead::batch), since 16 walks take one call a level. Where
    /// entries are near, one by one is faster: a processor then has several walks in flight by itself.
    ///
    /// # Bound
    /// Two walks an address: one side by side, and [`translate`](Self::translate) from its beginning, with what the
    /// resolver reads, for an address that has more on its way than four present entries which lead to a page of 4 KiB
    /// and grant what is needed. Where
    /// memory is read in batches, the first of the two reads the line of 64 bytes around each entry.
    ///
    /// ```
    /// use vgpu_perception::{AddressSpace, Cr3, Gpa, Gva, PageWalker, PhysRead};
    /// /// Where the page at `gva` lies in each process, for those that have one.
    /// fn in_each_process(ram: &impl PhysRead, roots: &[Cr3], gva: Gva) -> Vec<Option<Gpa>> {
    ///     let spaces: Vec<_> = roots.iter().map(|root| AddressSpace::new(*root)).collect();
    ///     let Some(first) = spaces.first() else { return Vec::new() };
    ///     let mut found = Vec::new();
    ///     let walks = spaces.iter().map(|space| (space, gva));
    ///     PageWalker::new(ram, *first).translate_together(walks, |result| {
    ///         found.push(result.ok().map(|translation| translation.gpa));
    ///     });
    ///     found
    /// }
    /// ```
    #[inline]
    pub fn translate_together<'s>(
        &self,
        walks: impl IntoIterator<Item = (&'s AddressSpace<R>, Gva)>,
        mut each: impl FnMut(Result<Translation, WalkError>),
    ) where
        R: 's,
    {
        let in_batches = self.mem().batch() > 1;
        let mut walks = walks.into_iter().fuse();
        loop {
            let mut group: Vec<Walk<'s, R>, WIDTH> = Vec::new();
            let mut phys_bits = self.space().phys_bits;
            for (space, gva) in walks.by_ref().take(WIDTH) {
                let at = space.first_entry(gva).unwrap_or(NOWHERE);
                phys_bits = phys_bits.min(space.phys_bits);
                // There is room for as many as are taken.
                let _ = group.push(Walk { at, gva, grants: Grants::START, space });
            }
            if group.is_empty() {
                return;
            }
            // What is reserved in one space is plain in none of the group. `translate` knows better.
            let not_page = Pte::beyond(phys_bits) | self.need().clear;
            if in_batches {
                self.take_by_lines(&mut group, not_page, &mut each);
            } else {
                self.take_each(&mut group, not_page, &mut each);
            }
        }
    }

    /// Takes a group of walks to their ends.
    #[inline(always)]
    fn take_each(
        &self,
        group: &mut [Walk<'_, R>],
        not_page: u64,
        each: &mut impl FnMut(Result<Translation, WalkError>),
    ) {
        let load = |walk: &Walk<'_, R>| self.mem().load_at_once(walk.at).map(Pte::new);
        for below in [Level::Pdpt, Level::Pd, Level::Pt] {
            for walk in group.iter_mut().filter(|walk| walk.goes_on()) {
                walk.follow(load(walk), not_page | Pte::PAGE, below);
            }
        }
        for walk in &*group {
            let entry = if walk.goes_on() { load(walk) } else { None };
            each(self.finish(walk, entry, not_page));
        }
    }

    /// The same, with a call for the entries of many walks at a time.
    #[inline(never)]
    fn take_by_lines(
        &self,
        group: &mut [Walk<'_, R>],
        not_page: u64,
        each: &mut impl FnMut(Result<Translation, WalkError>),
    ) {
        for below in [Level::Pdpt, Level::Pd, Level::Pt] {
            let entries = self.load_by_lines(group);
            for (walk, entry) in group.iter_mut().zip(entries) {
                walk.follow(entry, not_page | Pte::PAGE, below);
            }
        }
        let entries = self.load_by_lines(group);
        for (walk, entry) in group.iter().zip(entries) {
            each(self.finish(walk, entry, not_page));
        }
    }

    /// The entry that each walk needs next, where it can be read: with one call more for each that cannot.
    fn load_by_lines(&self, group: &[Walk<'_, R>]) -> [Option<Pte>; WIDTH] {
        let mut entries = [None; WIDTH];
        let mut at: Vec<Gpa, WIDTH> = Vec::new();
        for walk in group.iter().filter(|walk| walk.goes_on()) {
            let _ = at.push(walk.at);
        }
        let mut wanted = at.as_slice();
        let mut to = group.iter().zip(&mut entries).filter(|(walk, _)| walk.goes_on()).map(|(_, entry)| entry);
        while !wanted.is_empty() {
            let mut places: Vec<Gpa, WIDTH> = Vec::new();
            for at in wanted.iter().take(self.mem().batch().max(1)) {
                let _ = places.push(Gpa::new(at.get() & !63));
            }
            let mut lines: [Line; WIDTH] = [[0; 8]; WIDTH];
            // Where memory is gone as a whole, no entry can be read.
            let Ok(loaded) = self.mem().load_lines(&places, &mut lines) else { return [None; WIDTH] };
            for ((line, at), entry) in lines.iter().zip(wanted).take(loaded.min(places.len())).zip(&mut to) {
                let index = usize::try_from(at.get() / 8 % 8).unwrap_or_default();
                *entry = line.get(index).copied().map(Pte::new);
            }
            let mut done = places.len();
            if loaded < done {
                // The first of those that are left could not be loaded.
                let _ = to.next();
                done = loaded.wrapping_add(1);
            }
            wanted = wanted.get(done..).unwrap_or_default();
        }
        entries
    }

    /// What a walk comes to with the entry of its page table, if it could be read.
    #[inline(always)]
    fn finish(&self, walk: &Walk<'_, R>, entry: Option<Pte>, not_page: u64) -> Result<Translation, WalkError> {
        match entry {
            Some(entry) if is_plain(entry, not_page) && walk.grants.and(entry).all_set(self.need()) => {
                Ok(small_page(entry, walk.gva, walk.grants.and(entry), Residence::Present))
            }
            _ => self.translate_alone(walk.space, walk.gva),
        }
    }

    #[cold]
    #[inline(never)]
    fn translate_alone(&self, space: &AddressSpace<R>, gva: Gva) -> Result<Translation, WalkError> {
        self.in_space(*space).translate(gva)
    }
}
