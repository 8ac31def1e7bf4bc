//! Processes: their user half, their address descriptors, their tables for user mode.

use vgpu_perception::{Gpa, Gva, PAGE_BYTES, PageSize};

use crate::builder::{GuestBuilder, Space};
use crate::flags;
use crate::frames::Placement;
use crate::rng::Rng;

use super::kernel::{Kernel, SHARED_DATA_USER};
use super::layout::Layout;
use super::pte::PteCodec;
use super::section::Section;
use super::vad::Range;

/// What is special about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's own process.
    System,
    /// One without user half: `Registry`, `MemCompression`.
    Minimal,
    /// An ordinary one that runs with all privileges, so without tables of its own for user mode.
    Service,
    /// An ordinary one.
    User,
    /// A 32-bit one.
    Wow64,
    /// It ended, but something still refers to it.
    Exited,
    /// It owns the region.
    Producer,
    /// It maps the region's memory read-only.
    Viewer,
    /// It made up a region of its own.
    Forger,
    /// Its directory table base holds garbage, as some software against cheating leaves it.
    GarbageTable,
    /// An ordinary one that is called "System".
    CalledSystem,
}

/// A process to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// Its image name.
    pub name: &'static str,
    /// Its number.
    pub pid: u32,
    /// Its parent's number.
    pub ppid: u32,
    /// What is special about it.
    pub kind: Kind,
}

/// The processes of a guest with `layout`, in the order of their list.
#[must_use]
pub(super) fn cast(layout: &Layout) -> Vec<Spec> {
    let spec = |name, pid, ppid, kind| Spec { name, pid, ppid, kind };
    let mut all = vec![spec("System", 4, 0, Kind::System)];
    if layout.build >= 17134 {
        all.push(spec("Registry", 124, 4, Kind::Minimal));
    }
    all.extend([
        spec("smss.exe", 388, 4, Kind::Service),
        spec("csrss.exe", 492, 480, Kind::Service),
        spec("wininit.exe", 564, 480, Kind::Service),
        spec("csrss.exe", 576, 556, Kind::Service),
        spec("winlogon.exe", 660, 556, Kind::Service),
        spec("services.exe", 704, 564, Kind::Service),
        spec("lsass.exe", 724, 564, Kind::Service),
        spec("svchost.exe", 836, 704, Kind::Service),
        spec("svchost.exe", 900, 704, Kind::Service),
        spec("dwm.exe", 1004, 660, Kind::User),
        spec("svchost.exe", 1048, 704, Kind::Service),
    ]);
    if layout.build >= 10586 {
        all.push(spec("MemCompression", 1832, 4, Kind::Minimal));
    }
    all.extend([
        spec("System", 2044, 704, Kind::CalledSystem),
        spec("gone.exe", 3120, 704, Kind::Exited),
        spec("explorer.exe", 4404, 4380, Kind::User),
        spec("wow.exe", 4888, 4404, Kind::Wow64),
        spec("forger.exe", 5216, 4404, Kind::Forger),
        spec("game.exe", 5640, 4404, Kind::GarbageTable),
        spec("vgpu-agent.exe", 6012, 704, Kind::Producer),
        spec("viewer.exe", 6240, 4404, Kind::Viewer),
        spec("notepad.exe", 7004, 4404, Kind::User),
    ]);
    all
}

/// Where a private page that is not present has its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateState {
    /// Still in RAM at this frame.
    Transition(Gpa),
    /// Never made.
    DemandZero,
    /// Written out.
    PageFile,
}

/// The user half of a process.
#[derive(Clone, Debug)]
pub(super) struct UserHalf {
    /// The process environment block.
    pub peb: Gva,
    /// Where the program lies.
    pub section_base: Gva,
    /// Private pages that are not present.
    pub trimmed: Vec<(Gva, PrivateState)>,
    /// What it maps, without the region: start, length, and the section's number in what was given.
    ranges: Vec<(Gva, u64, Option<usize>)>,
    program: Section,
}

impl UserHalf {
    /// What the process maps; `library` is what all of them map.
    #[must_use]
    pub(super) fn ranges<'s>(&'s self, library: &'s Section) -> Vec<Range<'s>> {
        let section = |number: &Option<usize>| number.map(|number| if number == 0 { &self.program } else { library });
        self.ranges
            .iter()
            .map(|(start, len, number)| Range { start: *start, len: *len, section: section(number) })
            .collect()
    }
}

/// A library that every process maps at the same address.
#[derive(Clone, Debug)]
pub(super) struct Library {
    /// Where.
    pub base: Gva,
    /// Its frames.
    pub frames: Vec<Gpa>,
    /// Its section.
    pub section: Section,
}

impl Library {
    /// `ntdll.dll`, as far as anybody looks.
    pub(super) fn build(guest: &mut GuestBuilder, kernel: &mut Kernel, layout: &Layout, codec: PteCodec) -> Self {
        let (frames, section) = image_section(guest, kernel, layout, codec, 6);
        let base = if layout.build >= 9600 { 0x7ffd_4a21_0000 } else { 0x7782_0000 };
        Self { base: Gva::new(base), frames, section }
    }
}

/// A section over a file, all of whose pages are present; the first page starts as images do.
fn image_section(
    guest: &mut GuestBuilder,
    kernel: &mut Kernel,
    layout: &Layout,
    codec: PteCodec,
    pages: u64,
) -> (Vec<Gpa>, Section) {
    let frames: Vec<Gpa> = (0..pages).map(|_| guest.frames.frame()).collect();
    for frame in &frames {
        guest.ram.write_u8s(*frame, b"MZ\x90\0 synthetic image");
    }
    let prototypes: Vec<u64> = frames.iter().map(|frame| codec.valid_prototype(*frame)).collect();
    let file = kernel.nonpaged.take(guest, 0x100, 0x10).get() | 7;
    let section = Section::build(guest, kernel, layout, &prototypes, 512, file);
    (frames, section)
}

/// Fills the user half of `space`.
pub(super) fn user_half(
    guest: &mut GuestBuilder,
    kernel: &mut Kernel,
    layout: &Layout,
    codec: PteCodec,
    (space, library): (Space, &Library),
    rng: &mut Rng,
) -> UserHalf {
    let new = layout.build >= 9600;
    let high = rng.between(0x10, 0xff) << 32;
    let (program_at, peb, stack, heap) = if new {
        let peb = high | 0x4000_0000 | rng.below(1 << 12) << 16 | 0xe000;
        (0x7ff6_0000_0000 | rng.below(1 << 14) << 16, peb, high | 0x20_0000, 0x1d0_0000_0000 | rng.below(1 << 14) << 16)
    } else {
        let peb = 0x7ff_fffd_0000 | rng.below(8) << 12;
        (0x1_3f00_0000 | rng.below(1 << 6) << 16, peb, 0x20_0000, 0x3_0000_0000 | rng.below(1 << 10) << 16)
    };
    let (frames, program) = image_section(guest, kernel, layout, codec, 4);
    for (base, frames) in [(program_at, &frames), (library.base.get(), &library.frames)] {
        for (n, frame) in frames.iter().enumerate() {
            let entry_flags = if n == 0 { flags::USER_RO } else { flags::USER_RX };
            guest.map(space, Gva::new(base + n as u64 * PAGE_BYTES), *frame, PageSize::Size4K, entry_flags);
        }
    }
    map_shared_data(guest, kernel, space);
    guest.map_new(space, Gva::new(stack), 8 * PAGE_BYTES, Placement::Scattered, flags::USER_RW);
    let blocks = guest.map_new(space, Gva::new(peb), 3 * PAGE_BYTES, Placement::Scattered, flags::USER_RW);
    guest.ram.write_u64(blocks[0].gpa.wrapping_add(0x10), program_at);
    guest.ram.write_u64(blocks[0].gpa.wrapping_add(0x18), heap + 0x40);
    let pages = guest.map_new(space, Gva::new(heap), 32 * PAGE_BYTES, Placement::Scattered, flags::USER_RW);
    let mut trimmed = Vec::new();
    for (n, page) in pages.iter().enumerate() {
        let (state, entry) = match n % 12 {
            3 => (PrivateState::Transition(page.gpa), codec.transition(page.gpa)),
            5 => (PrivateState::DemandZero, codec.demand_zero()),
            8 => (PrivateState::PageFile, codec.pagefile(u32::try_from(n + 7).expect("small"))),
            _ => {
                guest.ram.write_u64(page.gpa, page.gva.get());
                continue;
            }
        };
        guest.ram.write_u64(page.gpa, page.gva.get());
        guest.set_entry(space, vgpu_perception::paging::Level::Pt, page.gva, entry);
        trimmed.push((page.gva, state));
    }
    let ranges = vec![
        (Gva::new(program_at), 4 * PAGE_BYTES, Some(0)),
        (library.base, 6 * PAGE_BYTES, Some(1)),
        (SHARED_DATA_USER, PAGE_BYTES, None),
        (Gva::new(stack), 8 * PAGE_BYTES, None),
        (Gva::new(peb), 3 * PAGE_BYTES, None),
        (Gva::new(heap), 32 * PAGE_BYTES, None),
    ];
    UserHalf { peb: Gva::new(peb), section_base: Gva::new(program_at), trimmed, ranges, program }
}

/// Maps the page that the kernel shares with every process.
pub(super) fn map_shared_data(guest: &mut GuestBuilder, kernel: &Kernel, space: Space) {
    guest.map(space, SHARED_DATA_USER, kernel.shared_data, PageSize::Size4K, flags::USER_RO);
}
