//! The region as Windows holds it: a section backed by the page file, whose pages may be trimmed from the producer.

use vgpu_perception::paging::Level;
use vgpu_perception::{Gpa, Gva, PAGE_BYTES, PageSize, abi};

use crate::builder::{GuestBuilder, MappedPage, Space};
use crate::flags;
use crate::region::{Region, RegionImage, Ring};

use super::kernel::Kernel;
use super::layout::Layout;
use super::pte::PteCodec;
use super::section::Section;

/// The bit by which Windows itself marks a page writable; the processor's own is set on dirty pages only.
const SOFTWARE_WRITE: u64 = 1 << 11;
/// A dirty page of shared memory.
pub(super) const SHARED_DIRTY: u64 = flags::USER_RW | SOFTWARE_WRITE;
/// A clean page of shared memory: the processor's bit is clear.
pub(super) const SHARED_CLEAN: u64 = flags::USER_RO | SOFTWARE_WRITE;

/// What a process's own entry for a shared page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Present and dirty.
    Dirty,
    /// Present, not written since it was brought in: the processor's W is clear.
    Clean,
    /// Points to the prototype.
    Direct,
    /// Says that the address descriptor knows.
    ConsultVad,
    /// Zero: this process never touched the page.
    Untouched,
}

/// What the prototype says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrototypeState {
    /// Some process has the page.
    Valid,
    /// No process has it, but it is still in RAM.
    Transition,
    /// Never made.
    DemandZero,
    /// Written out.
    PageFile,
}

/// Where one page of shared memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageState {
    /// The process's entry; present ones go with a valid prototype.
    pub entry: EntryState,
    /// The prototype.
    pub prototype: PrototypeState,
}

impl PageState {
    /// In the producer's working set, dirty.
    pub const PRESENT: Self = Self { entry: EntryState::Dirty, prototype: PrototypeState::Valid };
    /// Not made yet.
    pub const NEVER: Self = Self { entry: EntryState::Untouched, prototype: PrototypeState::DemandZero };

    /// Whether the bytes are in RAM.
    #[must_use]
    pub const fn is_resident(self) -> bool {
        matches!(self.prototype, PrototypeState::Valid | PrototypeState::Transition)
    }
}

/// Which state the touched pages of the region are in.
#[derive(Clone, Copy, Debug)]
pub enum Trim {
    /// All present.
    Nothing,
    /// The producer page present, the others through every state in which they are in RAM.
    Mixed,
    /// Each page, by its index in the region, as the function says.
    With(fn(u64) -> PageState),
}

impl Trim {
    fn state(self, index: u64) -> PageState {
        use EntryState::{Clean, ConsultVad, Direct, Dirty, Untouched};
        use PrototypeState::{Transition, Valid};
        let cycle = [
            (Dirty, Valid),
            (Direct, Transition),
            (Clean, Valid),
            (Direct, Valid),
            (ConsultVad, Transition),
            (ConsultVad, Valid),
            (Untouched, Transition),
            (Untouched, Valid),
        ];
        match self {
            Self::Nothing => PageState::PRESENT,
            Self::Mixed => {
                // Slots of the ring start at multiples of 512 pages, which would all fall on the first state.
                let turn = usize::try_from((index + index / 512) % 8).expect("small");
                let (entry, prototype) = if index == 0 { cycle[0] } else { cycle[turn] };
                PageState { entry, prototype }
            }
            Self::With(function) => function(index),
        }
    }
}

/// A page of the region and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPage {
    /// Its number in the region.
    pub index: u64,
    /// What the tables and prototypes say.
    pub state: PageState,
    /// Where its bytes are, where they are in RAM.
    pub frame: Option<Gpa>,
}

/// A region in its section.
#[derive(Clone, Debug)]
pub struct SharedRegion {
    /// The region; its pages are those in RAM, however they are found.
    pub region: Region,
    /// The section.
    pub section: Section,
    /// Every page that was ever touched, ascending.
    pub pages: Vec<SharedPage>,
    /// The 2 MiB range whose page table was trimmed.
    pub trimmed_table: Option<Gva>,
}

/// How a region is to be laid out.
#[derive(Clone, Copy, Debug)]
pub struct SharedOptions {
    /// What it shows.
    pub image: RegionImage,
    /// Which pages were touched.
    pub ring: Ring,
    /// In which state they are.
    pub trim: Trim,
    /// Prototypes in one subsection.
    pub per_subsection: usize,
    /// Trim the page table over the last frame too.
    pub trim_table: bool,
}

impl SharedRegion {
    /// Makes a section with a region in it and maps it at `base` of `space`.
    pub fn place(
        guest: &mut GuestBuilder,
        kernel: &mut Kernel,
        layout: &Layout,
        codec: PteCodec,
        (space, base): (Space, Gva),
        options: &SharedOptions,
    ) -> Self {
        let mut region = Region { space, base, image: options.image, pages: Vec::new() };
        let mut pages = Vec::new();
        let mut prototypes = Vec::new();
        for index in 0..abi::REGION_BYTES / PAGE_BYTES {
            let touched = region.wants(options.ring, index * PAGE_BYTES, PAGE_BYTES);
            let state = if touched { options.trim.state(index) } else { PageState::NEVER };
            let frame = state.is_resident().then(|| guest.frames.frame());
            prototypes.push(prototype(codec, state.prototype, frame, index));
            if let Some(gpa) = frame {
                let gva = base.wrapping_add(index * PAGE_BYTES);
                region.pages.push(MappedPage { gva, gpa, size: PageSize::Size4K });
            }
            if touched {
                pages.push(SharedPage { index, state, frame });
            }
        }
        let section = Section::build(guest, kernel, layout, &prototypes, options.per_subsection, 0);
        for page in &pages {
            let at = base.wrapping_add(page.index * PAGE_BYTES);
            let present = |entry_flags| page.frame.map_or(0, |frame| frame.get() | entry_flags);
            let entry = match page.state.entry {
                EntryState::Dirty => present(SHARED_DIRTY),
                EntryState::Clean => present(SHARED_CLEAN),
                EntryState::Direct => codec.prototype(section.prototype(page.index)),
                EntryState::ConsultVad => codec.consult_vad(),
                EntryState::Untouched => 0,
            };
            if entry != 0 {
                let place = guest.make_tables(space, Level::Pt, at, true);
                guest.ram.write_u64(place, entry);
            }
        }
        region.fill(&guest.ram);
        let mut shared = Self { region, section, pages, trimmed_table: None };
        if options.trim_table {
            shared.trim_table(guest, codec);
        }
        shared
    }

    /// Puts the page table over the last page that has one into transition.
    fn trim_table(&mut self, guest: &GuestBuilder, codec: PteCodec) {
        let space = self.region.space;
        for page in self.pages.iter().rev() {
            let at = self.region.base.wrapping_add(page.index * PAGE_BYTES);
            if let (Some(entry), Some(first)) =
                (guest.entry_at(space, Level::Pd, at), guest.entry_at(space, Level::Pt, at))
            {
                guest.ram.write_u64(entry, codec.transition(first.align_down(PageSize::Size4K)));
                self.trimmed_table = Some(at.align_down(PageSize::Size2M));
                return;
            }
        }
    }

    /// Maps the pages that some process has in another one, read-only.
    pub fn view(&self, guest: &mut GuestBuilder, space: Space, base: Gva) {
        for page in &self.pages {
            if let (PrototypeState::Valid, Some(frame)) = (page.state.prototype, page.frame) {
                let at = base.wrapping_add(page.index * PAGE_BYTES);
                guest.map(space, at, frame, PageSize::Size4K, flags::USER_RO);
            }
        }
    }
}

fn prototype(codec: PteCodec, state: PrototypeState, frame: Option<Gpa>, index: u64) -> u64 {
    match (state, frame) {
        (PrototypeState::Valid, Some(frame)) => codec.valid_prototype(frame),
        (PrototypeState::Transition, Some(frame)) => codec.transition(frame),
        (PrototypeState::PageFile, _) => codec.pagefile(u32::try_from(0x1000 + index).expect("the region is small")),
        _ => codec.demand_zero(),
    }
}
