//! What absent entries mean in a Windows guest: pages and tables that were trimmed but are still in RAM are found.

use super::charged::Charged;
use super::memory::word;
use super::pte::{Absent, Prototype, decode, prototype};
use super::section::Section;
use super::vad::{Covered, DescriptorShape, Descriptors};
use crate::addr::{Cr3, Gpa, Gva, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::paging::{
    AddressSpace, Level, NotPresentEntry, NotPresentResolver, PageWalker, PagingMode, Resolution, Resolved, Rights,
    WalkError, WalkErrorKind, all_entries,
};
use crate::phys::{PhysError, PhysRead};

/// The kernel's own half: trimmed pages of paged pool, and trimmed tables. Nothing in it needs another translation, so
/// that a resolver that reads kernel memory does not call itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelPaging;

impl NotPresentResolver for KernelPaging {
    const LOADS: u64 = 0;
    type Lookup = ();

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        absent: &NotPresentEntry,
        _lookup: &mut (),
        _cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        Ok(Resolved::for_entry(match decode(absent.entry) {
            Absent::Transition(page) => match page.frame(mem) {
                Some(frame) if absent.level == Level::Pt => {
                    Resolution::Page { gpa: frame, rights: Some(Rights { user: false, ..page.rights() }) }
                }
                Some(frame) => Resolution::Table(frame),
                None => Resolution::NotResident,
            },
            Absent::Descriptor => Resolution::NotMapped,
            Absent::Prototype(..) | Absent::NotResident => Resolution::NotResident,
        }))
    }
}

/// Where the address descriptors of one process are, and how to tell that the process is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) eprocess: Gva,
    /// Offset and value of the field that names its tables.
    pub(super) table: (u16, u64),
    pub(super) root: (u16, DescriptorShape),
}

/// The meaning of absent entries in the address space of one Windows process.
///
/// * A page **in transition** was trimmed and still lies in RAM: its entry says where. So does the entry of a trimmed
///   table.
/// * A **shared** page that was trimmed, or that the process never touched, is known to the section: the entry, or the
///   process's address descriptor, leads to a prototype, and the prototype to the page.
/// * Everything else that Windows keeps track of (page file, compressed store, never made) is
///   [`Resolution::NotResident`], what it knows nothing of is [`Resolution::NotMapped`].
///
/// On machines with the L1TF mitigation an address in an absent entry can carry one more bit. A prototype's address
/// that can be read both ways is taken as the address descriptor has it, and is `NotResident` where that cannot decide.
///
/// Holds no translation: kernel tables, descriptors and prototypes are read anew in every operation, and a process
/// object that was reused since is noticed. [`Default`] knows nothing of a kernel, and finds only what entries say by
/// themselves.
///
/// # Bound
/// At most 2^13 loads for an entry, whatever the guest shows; what would cost more is `NotResident`. In an operation
/// over many pages the descriptor is looked up once for its range, and a page costs one load more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NtPaging {
    kernel: Cr3,
    mode: PagingMode,
    phys_bits: u32,
    may_swizzle: bool,
    owner: Option<Owner>,
}

/// What [`NtPaging`] remembers within one operation: the section of the last descriptor, and where the last prototypes
/// lay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NtLookup {
    section: Option<Section>,
    /// A page of kernel addresses, by its number, and where it is.
    page: Option<(u64, Gpa)>,
}

/// Where the prototype of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Described {
    At(Gva),
    /// A descriptor covers the page and leads to no prototype; so do the pages up to this one.
    Private(u64),
    /// No descriptor covers the page, nor the pages up to this one.
    Nothing(u64),
}

/// The work of one answer.
struct Question<'q, 'm, M> {
    paging: &'q NtPaging,
    walker: PageWalker<&'q Charged<'m, M>, KernelPaging>,
    lookup: &'q mut NtLookup,
    absent: &'q NotPresentEntry,
}

impl NtPaging {
    /// Pages of any process of the kernel at `kernel`; address descriptors are not known.
    pub(super) const fn new(kernel: &AddressSpace<KernelPaging>, may_swizzle: bool) -> Self {
        Self { kernel: kernel.root, mode: kernel.mode, phys_bits: kernel.phys_bits, may_swizzle, owner: None }
    }

    pub(super) const fn of(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    /// Whether the address descriptors of the process are known: pages that it never touched itself are then found too.
    #[must_use]
    pub const fn knows_descriptors(&self) -> bool {
        self.owner.is_some()
    }

    fn space(&self) -> AddressSpace<KernelPaging> {
        let space = AddressSpace::new(self.kernel).with_mode(self.mode).with_phys_bits(self.phys_bits);
        space.with_resolver(KernelPaging)
    }
}

/// Up to a page.
const fn until(resolution: Resolution, page: u64) -> Resolved {
    Resolved { resolution, until: Gva::new(page << PAGE_SHIFT) }
}

impl<M: PhysRead> Question<'_, '_, M> {
    fn number(&self) -> u64 {
        self.absent.gva.get() >> PAGE_SHIFT
    }

    fn for_page(&self, resolution: Resolution) -> Resolved {
        Resolved::for_page(self.absent.gva, resolution)
    }

    /// The prototype that the process's address descriptor names.
    fn described(&mut self) -> Result<Described, WalkError> {
        let page = self.number();
        let here = page.wrapping_add(1);
        let Some(owner) = self.paging.owner else { return Ok(Described::Nothing(here)) };
        if let Some(section) = &mut self.lookup.section
            && section.serves(page)
        {
            let last = section.descriptor.last_page;
            let found = section.prototype(&self.walker, page)?;
            return Ok(found.map_or(Described::Private(last.wrapping_add(1)), Described::At));
        }
        let (table_at, table) = owner.table;
        if word(&self.walker, owner.eprocess.wrapping_add(table_at.into()))? != table {
            return Ok(Described::Nothing(here));
        }
        let (root_at, shape) = owner.root;
        let tree = Descriptors { field: owner.eprocess.wrapping_add(root_at.into()), shape };
        let descriptor = match tree.look_up(&self.walker, self.absent.gva)? {
            Covered::By(descriptor) => descriptor,
            Covered::Nothing { until } => return Ok(Described::Nothing(until)),
            Covered::Unclear => return Ok(Described::Nothing(here)),
        };
        let behind = descriptor.last_page.wrapping_add(1);
        let Some(mut section) = Section::of(&self.walker, descriptor, shape)? else {
            return Ok(Described::Private(behind));
        };
        let found = section.prototype(&self.walker, page)?;
        self.lookup.section = Some(section);
        Ok(found.map_or(Described::Private(behind), Described::At))
    }

    /// Where a prototype is in RAM.
    fn place(&mut self, at: Gva) -> Result<Gpa, WalkError> {
        let page = at.get() >> PAGE_SHIFT;
        let start = match self.lookup.page {
            Some((number, start)) if number == page => start,
            _ => {
                let start = self.walker.translate(at.align_down(PageSize::Size4K))?.gpa;
                self.lookup.page = Some((page, start));
                start
            }
        };
        Ok(start.wrapping_add(at.offset_in(PageSize::Size4K)))
    }

    fn follow(&mut self, at: Gva) -> Result<Resolved, WalkError> {
        if !at.get().is_multiple_of(8) {
            return Ok(self.for_page(Resolution::NotResident));
        }
        let in_page = 512_u64.wrapping_sub(at.offset_in(PageSize::Size4K) / 8);
        let place = match self.place(at) {
            Ok(place) => place,
            // The page that holds it is not in RAM, nor is any prototype in it.
            Err(WalkError { kind: WalkErrorKind::NotResident { .. } | WalkErrorKind::NotMapped { .. }, .. }) => {
                return Ok(self.missing(in_page));
            }
            Err(error) => return Err(error),
        };
        let gva = self.absent.gva;
        let value = self.walker.mem().load_u64(place).map_err(|error| WalkErrorKind::Page { error }.at(gva))?;
        let resolution = self.meaning(prototype(value));
        if resolution == Resolution::NotResident && self.absent.level != Level::Pt {
            // The entry stands for a whole table: see how many pages of it are missing at once.
            return Ok(self.missing(self.missing_from(place, in_page)));
        }
        Ok(self.for_page(resolution))
    }

    /// How many of the `most` prototypes from `place` on, in one page of RAM, lead nowhere: the first does.
    fn missing_from(&self, place: Gpa, most: u64) -> u64 {
        let mut missing = 0_u64;
        // What cannot be read ends them.
        let _ = all_entries(self.walker.mem(), place, 0..most, |_, word| {
            let is_missing = prototype(word.get()) == Prototype::NotResident;
            missing = missing.wrapping_add(u64::from(is_missing));
            is_missing
        });
        missing.max(1)
    }

    /// The next `pages` have prototypes that lead nowhere: as many as there are of the same descriptor, where it was
    /// asked.
    fn missing(&self, pages: u64) -> Resolved {
        let page = self.number();
        let by_descriptor = self.lookup.section.filter(|section| section.serves(page));
        let most = by_descriptor.map_or(1, |section| section.pages_left(page));
        until(Resolution::NotResident, page.saturating_add(pages.min(most)))
    }

    fn meaning(&self, prototype: Prototype) -> Resolution {
        // What no processor uses says nothing of rights; the process's own view does, where it has the page.
        let rights = Rights { user: true, writable: true, executable: false };
        match prototype {
            Prototype::Valid(frame) => Resolution::Page { gpa: frame, rights: Some(rights) },
            Prototype::Transition(page) => match page.frame(*self.walker.mem()) {
                Some(frame) => Resolution::Page { gpa: frame, rights: Some(page.rights()) },
                None => Resolution::NotResident,
            },
            Prototype::NotResident => Resolution::NotResident,
        }
    }

    fn answer(&mut self) -> Result<Resolved, WalkError> {
        let level = self.absent.level;
        match decode(self.absent.entry) {
            Absent::Transition(page) => Ok(match page.frame(*self.walker.mem()) {
                Some(frame) if level == Level::Pt => {
                    self.for_page(Resolution::Page { gpa: frame, rights: Some(page.rights()) })
                }
                Some(frame) => Resolved::for_entry(Resolution::Table(frame)),
                None => Resolved::for_entry(Resolution::NotResident),
            }),
            Absent::NotResident if level == Level::Pt => Ok(self.for_page(Resolution::NotResident)),
            // A table that was written out, or never made: what it would say, the descriptor says as well.
            Absent::Descriptor | Absent::NotResident => Ok(match self.described()? {
                Described::At(at) => self.follow(at)?,
                Described::Private(end) | Described::Nothing(end) if self.absent.entry == 0 => {
                    until(Resolution::NotMapped, end)
                }
                Described::Private(end) | Described::Nothing(end) => until(Resolution::NotResident, end),
            }),
            // Only page tables hold these.
            Absent::Prototype(..) if level != Level::Pt => Ok(Resolved::for_entry(Resolution::NotResident)),
            Absent::Prototype(at, Some(plain)) if self.paging.may_swizzle => match self.described()? {
                Described::At(expected) if expected == at || expected == plain => self.follow(expected),
                _ => Ok(self.for_page(Resolution::NotResident)),
            },
            Absent::Prototype(at, _) => self.follow(at),
        }
    }
}

impl NotPresentResolver for NtPaging {
    const LOADS: u64 = 1 << 13;
    type Lookup = NtLookup;

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        absent: &NotPresentEntry,
        lookup: &mut NtLookup,
        cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        if self.phys_bits == 0 || absent.gva.is_in_kernel_half() {
            return KernelPaging.resolve(mem, absent, &mut (), cost);
        }
        let charged = Charged::new(mem, Self::LOADS);
        let walker = PageWalker::new(&charged, self.space());
        let answer = Question { paging: self, walker, lookup, absent }.answer();
        cost.spend(charged.spent());
        match answer {
            Ok(answer) => Ok(answer),
            Err(WalkError { kind: WalkErrorKind::Table { error, .. } | WalkErrorKind::Page { error }, .. })
                if !charged.is_exhausted() =>
            {
                Err(error)
            }
            // What should lead to the page is itself not in RAM, or no pointer, or leads too far.
            Err(_) => Ok(Resolved::for_page(absent.gva, Resolution::NotResident)),
        }
    }
}
