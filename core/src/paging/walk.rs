//! One translation: from `CR3` down to a page.

use core::fmt;

use super::absent::{AbsentEntry, AbsentResolver, Hardware, Meaning};
use super::entry::{Grants, Level, Need, PagingMode, Pte, Rights};
use crate::addr::{Cr3, Gpa, Gva, PageSize};
use crate::phys::{PhysError, PhysRead};

/// A guest address space: its root, how its tables are read, and what its absent entries mean. A small plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace<R = Hardware> {
    /// The root.
    pub root: Cr3,
    /// How many levels there are.
    pub mode: PagingMode,
    /// Physical address bits of the guest's processor: entries with higher ones are refused. 52 accepts all.
    pub phys_bits: u32,
    /// What absent entries mean.
    pub absent: R,
}

impl AddressSpace<Hardware> {
    /// The space at `root` with 4-level tables and the processor's view of absent entries.
    #[must_use]
    pub const fn new(root: Cr3) -> Self {
        Self { root, mode: PagingMode::FourLevel, phys_bits: 52, absent: Hardware }
    }
}

impl<R> AddressSpace<R> {
    /// The same space with `mode` levels.
    #[must_use]
    pub fn with_mode(self, mode: PagingMode) -> Self {
        Self { mode, ..self }
    }

    /// The same space on a processor with `phys_bits` (32 to 52) of physical address.
    #[must_use]
    pub fn with_phys_bits(self, phys_bits: u32) -> Self {
        Self { phys_bits, ..self }
    }

    /// The same tables, with another meaning of absent entries.
    #[must_use]
    pub fn with_absent<Q>(self, absent: Q) -> AddressSpace<Q> {
        AddressSpace { root: self.root, mode: self.mode, phys_bits: self.phys_bits, absent }
    }

    /// The same kind of space at another root.
    #[must_use]
    pub fn at_root(self, root: Cr3) -> Self {
        Self { root, ..self }
    }
}

/// Translates addresses of one address space, reading the tables anew every time.
///
/// # Bound
/// A translation reads at most one entry a level, 4 or 5, and what the [`AbsentResolver`] reads.
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
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address, offset in the page included.
    pub gpa: Gpa,
    /// The size of the page that holds it.
    pub size: PageSize,
    /// What the walk grants.
    pub rights: Rights,
    /// Whether the processor would have found the page.
    pub residence: Residence,
}

impl Translation {
    /// Bytes from the address to the end of its page.
    #[must_use]
    pub const fn bytes_left(&self) -> u64 {
        self.size.bytes().wrapping_sub(self.gpa.offset_in(self.size))
    }
}

/// How a page was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Residence {
    /// By present entries alone.
    Present,
    /// Through an entry without P: the operating system trimmed the page (or its table), but it is still in RAM.
    Trimmed,
}

/// Why an address has no physical memory to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkError {
    /// The address is not canonical in this paging mode.
    NonCanonical {
        /// The address.
        gva: Gva,
    },
    /// No page is mapped: the entry of this level has P clear.
    NotMapped {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A page is mapped, but its bytes are not in RAM.
    NotResident {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A present entry has reserved bits set: the processor would fault, so this is no table or no page.
    Reserved {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// The page is there, but does not grant what the access needs.
    Denied {
        /// The address.
        gva: Gva,
        /// What the walk grants.
        rights: Rights,
    },
    /// A table, or a structure that gives an absent entry its meaning, is not in RAM.
    Table {
        /// The address.
        gva: Gva,
        /// The level of the table.
        level: Level,
        /// What could not be read.
        error: PhysError,
    },
    /// The page itself is not in RAM: its entry names a hole.
    Page {
        /// The address.
        gva: Gva,
        /// What could not be read.
        error: PhysError,
    },
}

impl WalkError {
    /// The address that has no memory to read.
    #[must_use]
    pub const fn gva(&self) -> Gva {
        match *self {
            Self::NonCanonical { gva }
            | Self::NotMapped { gva, .. }
            | Self::NotResident { gva, .. }
            | Self::Reserved { gva, .. }
            | Self::Denied { gva, .. }
            | Self::Table { gva, .. }
            | Self::Page { gva, .. } => gva,
        }
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NonCanonical { gva } => write!(f, "guest virtual {gva} is not canonical"),
            Self::NotMapped { gva, level, entry } => {
                write!(f, "guest virtual {gva} is not mapped: its {level} is {entry:#x}")
            }
            Self::NotResident { gva, level, entry } => {
                write!(f, "guest virtual {gva} is mapped but not in RAM: its {level} is {entry:#x}")
            }
            Self::Reserved { gva, level, entry } => {
                write!(f, "guest virtual {gva}: the {level} {entry:#x} has reserved bits set")
            }
            Self::Denied { gva, rights } => {
                write!(f, "guest virtual {gva} grants too little (user {}, writable {})", rights.user, rights.writable)
            }
            Self::Table { gva, level, error } => write!(f, "guest virtual {gva}: no {level} to read: {error}"),
            Self::Page { gva, error } => write!(f, "guest virtual {gva}: {error}"),
        }
    }
}

impl core::error::Error for WalkError {}

/// The entries that a walk used: re-reading them tells whether the translation still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    steps: [(Gpa, Pte); 5],
    len: u8,
    complete: bool,
}

impl Trail {
    const EMPTY: Self = Self { steps: [(Gpa::new(0), Pte::new(0)); 5], len: 0, complete: true };

    #[inline]
    fn push(&mut self, at: Gpa, entry: Pte) {
        if let Some(step) = self.steps.get_mut(usize::from(self.len)) {
            *step = (at, entry);
            self.len = self.len.wrapping_add(1);
        }
    }

    /// Whether the entries alone decide the translation: not so where an absent entry was given its meaning by other
    /// structures.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Re-reads the entries and says whether each still maps what it did; what the processor sets by itself is ignored.
    ///
    /// # Errors
    /// [`PhysError`] where an entry can no longer be read.
    #[inline(always)]
    pub fn still_holds<M: PhysRead>(&self, mem: &M) -> Result<bool, PhysError> {
        match self.steps.first_chunk::<4>() {
            // By far the most, unrolled: all four are loaded before any is judged, so that their misses overlap.
            Some(steps) if self.len == 4 && self.complete => {
                let mut differs = 0;
                for (at, entry) in steps {
                    differs |= entry.get() ^ mem.load_u64(*at)?;
                }
                Ok(differs & !(Pte::ACCESSED | Pte::DIRTY) == 0)
            }
            _ => self.all_hold(mem),
        }
    }

    #[inline(never)]
    fn all_hold<M: PhysRead>(&self, mem: &M) -> Result<bool, PhysError> {
        let mut same = true;
        for (at, entry) in self.steps.iter().take(usize::from(self.len)) {
            same &= entry.same_mapping(Pte::new(mem.load_u64(*at)?));
        }
        Ok(same)
    }
}

// Cold, so that a walk that finds runs straight through.
#[cold]
const fn reserved(gva: Gva, level: Level, entry: u64) -> WalkError {
    WalkError::Reserved { gva, level, entry }
}

#[cold]
const fn denied(gva: Gva, rights: Rights) -> WalkError {
    WalkError::Denied { gva, rights }
}

#[cold]
const fn non_canonical(gva: Gva) -> WalkError {
    WalkError::NonCanonical { gva }
}

#[cold]
const fn no_table(gva: Gva, level: Level, error: PhysError) -> WalkError {
    WalkError::Table { gva, level, error }
}

/// How far down a walk has come.
struct Descent {
    table: Gpa,
    grants: Grants,
    residence: Residence,
}

impl Descent {
    #[inline(always)]
    const fn from<R>(space: &AddressSpace<R>) -> Self {
        Self { table: space.root.table(), grants: Grants::START, residence: Residence::Present }
    }
}

/// What a walk leaves behind besides its result: nothing, or a trail.
pub(super) trait Record {
    fn step(&mut self, at: Gpa, entry: Pte);
    fn beyond_the_entries(&mut self);
}

impl Record for () {
    #[inline(always)]
    fn step(&mut self, _at: Gpa, _entry: Pte) {}
    #[inline(always)]
    fn beyond_the_entries(&mut self) {}
}

impl Record for Trail {
    #[inline]
    fn step(&mut self, at: Gpa, entry: Pte) {
        self.push(at, entry);
    }
    #[inline]
    fn beyond_the_entries(&mut self) {
        self.complete = false;
    }
}

impl<M: PhysRead, R: AbsentResolver> PageWalker<M, R> {
    /// A walker of `space` over `mem` (a reference to a backend is a backend).
    #[must_use]
    pub const fn new(mem: M, space: AddressSpace<R>) -> Self {
        let beyond = Pte::beyond(space.phys_bits);
        Self { mem, space, need: Need::of(Rights::NONE), beyond }
    }

    /// The same walker, which refuses pages that do not grant `need`.
    #[must_use]
    pub fn needing(self, need: Rights) -> Self {
        Self { need: Need::of(need), ..self }
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

    #[inline]
    pub(super) const fn need(&self) -> Rights {
        self.need.rights
    }

    #[inline]
    pub(super) const fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Translates one address.
    ///
    /// # Errors
    /// Any [`WalkError`] but [`WalkError::Page`]: whether the page is RAM shows when it is read.
    #[inline]
    pub fn translate(&self, gva: Gva) -> Result<Translation, WalkError> {
        self.walk(gva, &mut ())
    }

    /// Translates one address and hands out the entries that were used, so that the caller can see later whether the
    /// translation still stands.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    pub fn translate_with_trail(&self, gva: Gva) -> Result<(Translation, Trail), WalkError> {
        let mut trail = Trail::EMPTY;
        let translation = self.walk(gva, &mut trail)?;
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
            self.mem.read(found.gpa, head).map_err(|error| WalkError::Page { gva: at, error })?;
            // A range that runs past the top of the address space is not canonical there.
            at = at.checked_add(len as u64).ok_or(WalkError::NonCanonical { gva: at })?;
            rest = tail;
        }
        Ok(())
    }

    /// One step after the other with the level known to the compiler: a loop over levels takes three times as long.
    #[inline(always)]
    pub(super) fn walk<T: Record>(&self, gva: Gva, record: &mut T) -> Result<Translation, WalkError> {
        match self.space.mode {
            PagingMode::FourLevel if gva.is_canonical(PagingMode::FourLevel.address_bits()) => {
                self.descend(Descent::from(&self.space), gva, record)
            }
            PagingMode::FiveLevel => self.walk_five(gva, record),
            PagingMode::FourLevel => Err(non_canonical(gva)),
        }
    }

    /// Apart, so that a walk of four levels starts from constants.
    #[inline(never)]
    fn walk_five<T: Record>(&self, gva: Gva, record: &mut T) -> Result<Translation, WalkError> {
        if !gva.is_canonical(PagingMode::FiveLevel.address_bits()) {
            return Err(non_canonical(gva));
        }
        let mut descent = Descent::from(&self.space);
        match self.step(Level::Pml5, gva, &mut descent, record)? {
            Some(found) => Ok(found),
            None => self.descend(descent, gva, record),
        }
    }

    #[inline(always)]
    fn descend<T: Record>(&self, mut descent: Descent, gva: Gva, record: &mut T) -> Result<Translation, WalkError> {
        if let Some(found) = self.step(Level::Pml4, gva, &mut descent, record)? {
            return Ok(found);
        }
        if let Some(found) = self.step(Level::Pdpt, gva, &mut descent, record)? {
            return Ok(found);
        }
        if let Some(found) = self.step(Level::Pd, gva, &mut descent, record)? {
            return Ok(found);
        }
        // A PTE is a leaf or an error, so that the last step always finds.
        self.step(Level::Pt, gva, &mut descent, record)?.ok_or(WalkError::NotMapped { gva, level: Level::Pt, entry: 0 })
    }

    /// Reads the entry of `level`: a page, or `None` and one table further down.
    #[inline(always)]
    fn step<T: Record>(
        &self,
        level: Level,
        gva: Gva,
        descent: &mut Descent,
        record: &mut T,
    ) -> Result<Option<Translation>, WalkError> {
        let at = descent.table.wrapping_add(level.index(gva).wrapping_mul(8));
        let raw = match self.mem.load_u64(at) {
            Ok(raw) => raw,
            Err(error) => return Err(no_table(gva, level, error)),
        };
        let entry = Pte::new(raw);
        record.step(at, entry);
        if !entry.is_present() {
            record.beyond_the_entries();
            descent.residence = Residence::Trimmed;
            return match self.meaning(gva, level, raw, descent.grants.rights())? {
                (Meaning::Table(lower), Some(_)) => {
                    descent.table = lower;
                    Ok(None)
                }
                (Meaning::Page { frame, rights }, _) => {
                    let gpa = frame.wrapping_add(gva.offset_in(PageSize::Size4K));
                    let residence = descent.residence;
                    if !rights.grant(self.need.rights) {
                        return Err(denied(gva, rights));
                    }
                    Ok(Some(Translation { gpa, size: PageSize::Size4K, rights, residence }))
                }
                _ => Err(WalkError::NotMapped { gva, level, entry: raw }),
            };
        }
        descent.grants = descent.grants.and(entry);
        // Asked on each way by itself: a table's entry has fewer reserved bits than a page's.
        match level.page_size() {
            Some(size) if entry.is_leaf(level) => {
                self.sound(entry, level, gva)?;
                let gpa = entry.frame(size).wrapping_add(gva.offset_in(size));
                let (rights, residence) = (descent.grants.rights(), descent.residence);
                if !descent.grants.meet(self.need) {
                    return Err(denied(gva, rights));
                }
                Ok(Some(Translation { gpa, size, rights, residence }))
            }
            _ => {
                self.sound(entry, level, gva)?;
                descent.table = entry.table();
                Ok(None)
            }
        }
    }

    #[inline(always)]
    fn sound(&self, entry: Pte, level: Level, gva: Gva) -> Result<(), WalkError> {
        match entry.reserved_bits_beyond(level, self.beyond) {
            0 => Ok(()),
            _ => Err(reserved(gva, level, entry.get())),
        }
    }

    /// What an absent entry means; [`Meaning::Page`]'s rights are those that remain under the levels above.
    #[cold]
    pub(super) fn meaning(
        &self,
        gva: Gva,
        level: Level,
        entry: u64,
        above: Rights,
    ) -> Result<(Meaning, Option<Level>), WalkError> {
        let absent = AbsentEntry { gva, level, entry, rights: above };
        let meaning =
            self.space.absent.resolve(&self.mem, &absent).map_err(|error| WalkError::Table { gva, level, error })?;
        match meaning {
            Meaning::NotMapped => Err(WalkError::NotMapped { gva, level, entry }),
            Meaning::NotResident => Err(WalkError::NotResident { gva, level, entry }),
            Meaning::Page { frame, rights } => {
                let frame = frame.align_down(PageSize::Size4K);
                Ok((Meaning::Page { frame, rights: above.and(rights) }, level.below()))
            }
            Meaning::Table(table) => Ok((Meaning::Table(table.align_down(PageSize::Size4K)), level.below())),
        }
    }
}
