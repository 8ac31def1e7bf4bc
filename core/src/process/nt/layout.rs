//! Where the fields of a process object lie, and how that was proven.

use core::fmt;

use super::vad::DescriptorShape;

/// A field of `EPROCESS` (or of the `KPROCESS` at its start).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldName {
    /// `DirectoryTableBase`.
    DirectoryTableBase,
    /// `UserDirectoryTableBase`.
    UserDirectoryTableBase,
    /// `UniqueProcessId`.
    UniqueProcessId,
    /// `ActiveProcessLinks`.
    ActiveProcessLinks,
    /// `ImageFileName`.
    ImageFileName,
    /// `CreateTime`.
    CreateTime,
    /// `ExitTime`.
    ExitTime,
    /// `ExitStatus`.
    ExitStatus,
    /// `Peb`.
    Peb,
    /// `SectionBaseAddress`.
    SectionBaseAddress,
    /// `InheritedFromUniqueProcessId`.
    InheritedFromUniqueProcessId,
    /// `VadRoot`.
    VadRoot,
}

impl FieldName {
    /// What the field was told by.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        super::infer::rule(self)
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a field lies. A place is only ever given when structure proved it and no other place would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Field {
    /// Bytes from the start of the object.
    pub offset: u16,
    /// Processes that the rule ([`FieldName::rule`]) was seen to hold in.
    pub witnesses: u16,
}

/// The layout of this guest's process objects. What could not be proven is absent; what the list cannot be read without
/// (tables, number, links) is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `DirectoryTableBase`.
    pub table: Field,
    /// `UniqueProcessId`.
    pub pid: Field,
    /// `ActiveProcessLinks`.
    pub links: Field,
    /// `ImageFileName`.
    pub name: Option<Field>,
    /// `UserDirectoryTableBase`; also absent where the guest runs without page-table isolation.
    pub user_table: Option<Field>,
    /// `CreateTime`.
    pub create_time: Option<Field>,
    /// `ExitTime`; also absent where no process of the sample has ended.
    pub exit_time: Option<Field>,
    /// `ExitStatus`.
    pub exit_status: Option<Field>,
    /// `Peb`.
    pub peb: Option<Field>,
    /// `SectionBaseAddress`.
    pub section_base: Option<Field>,
    /// `InheritedFromUniqueProcessId`.
    pub ppid: Option<Field>,
    /// `VadRoot`, and how the tree's nodes look.
    pub descriptors: Option<(Field, DescriptorShape)>,
}

impl Layout {
    /// Every field, and where it lies.
    #[must_use]
    pub fn fields(&self) -> [(FieldName, Option<Field>); 12] {
        [
            (FieldName::DirectoryTableBase, Some(self.table)),
            (FieldName::UserDirectoryTableBase, self.user_table),
            (FieldName::UniqueProcessId, Some(self.pid)),
            (FieldName::ActiveProcessLinks, Some(self.links)),
            (FieldName::ImageFileName, self.name),
            (FieldName::CreateTime, self.create_time),
            (FieldName::ExitTime, self.exit_time),
            (FieldName::ExitStatus, self.exit_status),
            (FieldName::Peb, self.peb),
            (FieldName::SectionBaseAddress, self.section_base),
            (FieldName::InheritedFromUniqueProcessId, self.ppid),
            (FieldName::VadRoot, self.descriptors.map(|(field, _)| field)),
        ]
    }
}

/// A set of offsets that are multiples of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets([u64; super::eprocess::WORDS / 64]);

impl Offsets {
    pub(super) const NONE: Self = Self([0; super::eprocess::WORDS / 64]);

    pub(super) fn insert(&mut self, offset: u16) {
        let index = offset / 8;
        if let Some(word) = self.0.get_mut(usize::from(index / 64)) {
            *word |= 1 << (index % 64);
        }
    }

    pub(super) fn contains(&self, offset: u16) -> bool {
        let index = offset / 8;
        self.0.get(usize::from(index / 64)).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub(super) fn and(self, other: Self) -> Self {
        let mut both = self;
        for (word, other) in both.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        both
    }

    pub(super) fn or(self, other: Self) -> Self {
        let mut either = self;
        for (word, other) in either.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        either
    }

    pub(super) fn count(&self) -> u32 {
        self.0.iter().fold(0, |sum, word| sum.wrapping_add(word.count_ones()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..super::eprocess::WORDS as u16).map(|index| index.wrapping_mul(8)).filter(|offset| self.contains(*offset))
    }

    /// The offset, where there is exactly one.
    pub(super) fn only(&self) -> Option<u16> {
        if self.count() == 1 { self.iter().next() } else { None }
    }
}

/// Offsets that are still possible for a field, and how many processes spoke for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Possible {
    pub(super) offsets: Offsets,
    witnesses: u16,
}

impl Possible {
    pub(super) const fn new(offsets: Offsets) -> Self {
        Self { offsets, witnesses: 0 }
    }

    /// Nothing is ruled out yet: the first witness decides what is possible.
    pub(super) const UNKNOWN: Self = Self::new(Offsets([u64::MAX; super::eprocess::WORDS / 64]));

    /// Keeps what a process speaks for.
    pub(super) fn keep(&mut self, offsets: Offsets) {
        self.offsets = self.offsets.and(offsets);
        self.witnesses = self.witnesses.saturating_add(1);
    }

    /// Keeps the offsets that pass, without a witness: a rule that every process has to obey.
    pub(super) fn rule_out(&mut self, mut passes: impl FnMut(u16) -> bool) {
        let mut kept = Offsets::NONE;
        for offset in self.offsets.iter() {
            if passes(offset) {
                kept.insert(offset);
            }
        }
        self.offsets = kept;
    }

    /// The field, where one offset is left and at least `least` processes spoke for it.
    pub(super) fn proven(&self, least: u16) -> Option<Field> {
        let offset = self.offsets.only()?;
        (self.witnesses >= least).then_some(Field { offset, witnesses: self.witnesses })
    }
}
