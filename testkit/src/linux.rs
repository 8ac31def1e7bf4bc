//! A guest as Linux lays one out: a kernel half that all roots share, page table isolation, the boot trampoline.
//!
//! Addresses are those of the kernel's `Documentation/arch/x86/x86_64/mm.rst`, without randomisation.

use vgpu_perception::paging::Level;
use vgpu_perception::{Extent, Gpa, Gva, PageSize, PagingMode, PhysRead};

use crate::builder::{GuestBuilder, MappedPage, Space};
use crate::flags;
use crate::frames::Placement;
use crate::ram::Ram;
use crate::region::{Region, RegionImage, Ring};
use crate::rng::Rng;

const KERNEL_TEXT: Gva = Gva::new(0xffff_ffff_8100_0000);
const TEXT_BYTES: u64 = 16 << 20;
const DATA_BYTES: u64 = 8 << 20;

/// The kernel: what every process's root has in its upper half.
#[derive(Clone, Debug)]
pub struct LinuxKernel {
    /// The kernel's own root (`init_top_pgt`).
    pub init: Space,
    /// The identity-mapped root of the boot trampoline: supervisor only, shares entries with the kernel half.
    pub trampoline: Space,
    /// Where the direct map of all RAM starts.
    pub direct_map: Gva,
    /// Whether each process has a second root for user mode, one page above its own.
    pub kpti: bool,
}

/// A process.
#[derive(Clone, Debug)]
pub struct LinuxProcess {
    /// Its root in kernel mode, which maps everything.
    pub space: Space,
    /// Its root in user mode under page table isolation: the kernel half is nearly empty.
    pub user_space: Option<Space>,
    /// Its pages, but for those that were mapped by hand.
    pub pages: Vec<MappedPage>,
}

impl LinuxKernel {
    /// Lays out the kernel half.
    ///
    /// # Panics
    /// Where the RAM is too small (64 MiB will do) or already taken below 1 MiB.
    pub fn build(guest: &mut GuestBuilder, kpti: bool) -> Self {
        let five = guest.mode == PagingMode::FiveLevel;
        let direct_map = Gva::new(if five { 0xff11_0000_0000_0000 } else { 0xffff_8880_0000_0000 });
        let vmalloc = Gva::new(if five { 0xffa0_0000_0000_0000 } else { 0xffff_c900_0000_0000 });
        let vmemmap = Gva::new(if five { 0xffd4_0000_0000_0000 } else { 0xffff_ea00_0000_0000 });
        let init = guest.new_space();
        for segment in guest.ram.segments() {
            map_direct(guest, init, direct_map, segment);
        }
        let text = Extent { start: guest.frames.contiguous(TEXT_BYTES, 2 << 20), len: TEXT_BYTES };
        guest.map_pieces(init, KERNEL_TEXT, &[text], PageSize::Size2M, flags::KERNEL_RX);
        let data = Extent { start: guest.frames.contiguous(DATA_BYTES, 2 << 20), len: DATA_BYTES };
        let data_at = KERNEL_TEXT.wrapping_add(TEXT_BYTES);
        guest.map_pieces(init, data_at, &[data], PageSize::Size2M, flags::KERNEL_RW);
        let mut rng = Rng::new(7);
        for piece in [text, data] {
            for page in (0..piece.len).step_by(0x40_000) {
                fill(&guest.ram, piece.start.wrapping_add(page), &mut rng);
            }
        }
        guest.map_new(init, vmalloc, 1 << 20, Placement::Scattered, flags::KERNEL_RW);
        guest.map_new(init, vmemmap, 4 << 20, Placement::Large2M, flags::KERNEL_RW);
        // The fixmap, above everything: its second page table is there from the start, and empty.
        guest.make_tables(init, Level::Pt, Gva::new(0xffff_ffff_ffc0_0000), false);
        let trampoline = Self::trampoline(guest, init, direct_map);
        Self { init, trampoline, direct_map, kpti }
    }

    /// As `setup_real_mode` of the kernel makes it: entry 0 is the direct map's first, so RAM is mapped to itself.
    fn trampoline(guest: &mut GuestBuilder, init: Space, direct_map: Gva) -> Space {
        let root = Gpa::new(0x9_9000);
        let top = init.mode.top();
        guest.ram.touch(root, 4096);
        let entry = |gva: Gva| guest.entry(init, top, gva).expect("the top table is in RAM");
        guest.ram.write_u64(root, entry(direct_map));
        guest.ram.write_u64(root.wrapping_add(511 * 8), entry(KERNEL_TEXT));
        Space { root, mode: init.mode }
    }

    /// A process without user pages.
    pub fn spawn_empty(&self, guest: &mut GuestBuilder) -> LinuxProcess {
        let bytes = if self.kpti { 8192 } else { 4096 };
        let root = guest.frames.contiguous(bytes, bytes);
        guest.ram.touch(root, bytes);
        let space = Space { root, mode: guest.mode };
        for slot in 256..512 {
            let entry = guest.ram.load_u64(self.init.root.wrapping_add(slot * 8)).expect("the root is in RAM");
            guest.ram.write_u64(root.wrapping_add(slot * 8), entry);
        }
        let user_space = self.kpti.then(|| {
            let user = Space { root: root.wrapping_add(4096), mode: guest.mode };
            // The entry code, and the per-processor entry area: all that user mode may see of the kernel.
            for gva in [KERNEL_TEXT.wrapping_add(0xa0_0000), Gva::new(0xffff_fe00_0000_0000)] {
                let gpa = match crate::naive::translate(&guest.ram, self.init.naive(), gva.get()) {
                    Ok(page) => Gpa::new(page.gpa),
                    Err(_) => guest.frames.frame(),
                };
                guest.map(user, gva, gpa, PageSize::Size4K, flags::KERNEL_RX);
            }
            user
        });
        LinuxProcess { space, user_space, pages: Vec::new() }
    }

    /// A process with program, heap, libraries and stack: which and how large follows from `rng`.
    pub fn spawn(&self, guest: &mut GuestBuilder, rng: &mut Rng) -> LinuxProcess {
        let mut process = self.spawn_empty(guest);
        let space = process.space;
        let program = 0x5555_5555_4000 + rng.below(1 << 20) * 4096;
        let heap = program + (64 << 20);
        let libraries = 0x7f00_0000_0000 + rng.below(1 << 26) * 4096;
        let stack = 0x7ffc_0000_0000 + rng.below(1 << 18) * 4096;
        let parts = [
            (program, 40, flags::USER_RX),
            (program + (8 << 20), 8, flags::USER_RO),
            (program + (9 << 20), 6, flags::USER_RW),
            (heap, 200, flags::USER_RW),
            (libraries, 300, flags::USER_RX),
            (libraries + (4 << 20), 20, flags::USER_RW),
            (stack, 30, flags::USER_RW),
        ];
        for (at, most, entry_flags) in parts {
            let len = rng.between(1, most) * 4096;
            let mapped = guest.map_new(space, Gva::new(at), len, Placement::Scattered, entry_flags);
            for page in &mapped {
                fill(&guest.ram, page.gpa, rng);
            }
            process.pages.extend(mapped);
        }
        if rng.one_in(2) {
            let at = Gva::new((libraries + (64 << 20)).next_multiple_of(2 << 20));
            let len = rng.between(1, 4) * (2 << 20);
            process.pages.extend(guest.map_new(space, at, len, Placement::Large2M, flags::USER_RW));
        }
        process.sync(guest);
        process
    }
}

impl LinuxProcess {
    /// Brings the root for user mode up to date, after something was mapped under a new entry of the top table.
    pub fn sync(&self, guest: &GuestBuilder) {
        let Some(user) = self.user_space else { return };
        for slot in 0..256 {
            let at = slot * 8;
            let entry = guest.ram.load_u64(self.space.root.wrapping_add(at)).expect("the root is in RAM");
            guest.ram.write_u64(user.root.wrapping_add(at), entry & !flags::NX);
            if entry & flags::P != 0 {
                // So that the kernel cannot run user code by mistake with the wrong root.
                guest.ram.write_u64(self.space.root.wrapping_add(at), entry | flags::NX);
            }
        }
    }
}

/// Maps a segment of RAM at `direct_map` + its address: 1 GiB pages where they fit, but 2 MiB in the first GiB.
fn map_direct(guest: &mut GuestBuilder, init: Space, direct_map: Gva, segment: Extent) {
    let (mut at, end) = (segment.start.get(), segment.end().get());
    while at < end {
        let fits = |size: PageSize| at.is_multiple_of(size.bytes()) && at + size.bytes() <= end;
        let size = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K]
            .into_iter()
            .find(|size| fits(*size) && (*size != PageSize::Size1G || at > 0))
            .expect("a segment is whole pages");
        guest.map(init, direct_map.wrapping_add(at), Gpa::new(at), size, flags::KERNEL_RW);
        at += size.bytes();
    }
}

/// Makes a page look used: numbers, text, zeros, or one word over and over.
fn fill(ram: &Ram, page: Gpa, rng: &mut Rng) {
    let kind = rng.below(4);
    let word = rng.next_u64();
    for at in (0..4096).step_by(8) {
        let value = match kind {
            0 => rng.next_u64(),
            1 => rng.below(100),
            2 => 0,
            _ => word,
        };
        ram.write_u64(page.wrapping_add(at), value);
    }
}

/// A ready guest: see [`standard_linux`].
#[derive(Clone, Debug)]
pub struct StandardLinux {
    /// The RAM and what is free of it.
    pub guest: GuestBuilder,
    /// The kernel.
    pub kernel: LinuxKernel,
    /// All processes; the producer and those with decoys are among them.
    pub processes: Vec<LinuxProcess>,
    /// Which of them is the producer.
    pub producer: usize,
    /// The producer's region.
    pub region: Region,
    /// The same memory in process 0, supervisor only: must not become a candidate.
    pub supervisor_alias: Region,
    /// The same memory in process 1, read-only: must not become a candidate.
    pub read_only_alias: Region,
    /// A region that process 2 made up: a candidate, whose heartbeat never moves.
    pub forged: Region,
    /// Where the producer page of a region lies that no process maps any more.
    pub stale: Gpa,
}

/// What [`standard_linux`] makes, where the defaults will not do.
#[derive(Clone, Copy, Debug)]
pub struct LinuxOptions {
    /// Levels of the tables.
    pub mode: PagingMode,
    /// Page table isolation.
    pub kpti: bool,
    /// How many processes, at least 4.
    pub processes: usize,
    /// Bytes of RAM, which straddles the PCI hole above 3 GiB; it is sparse.
    pub ram: u64,
    /// Decides everything else.
    pub seed: u64,
    /// How the producer's region lies in physical memory.
    pub placement: Placement,
    /// Which of its pages are mapped.
    pub ring: Ring,
    /// What it shows.
    pub image: RegionImage,
}

impl Default for LinuxOptions {
    fn default() -> Self {
        Self {
            mode: PagingMode::FourLevel,
            kpti: false,
            processes: 12,
            ram: 4 << 30,
            seed: 1,
            placement: Placement::Scattered,
            ring: Ring::Written,
            image: RegionImage::default(),
        }
    }
}

/// The base of the producer's region in [`standard_linux`].
pub const REGION_BASE: Gva = Gva::new(0x7e12_3460_0000);

/// A guest with several processes, one of them a producer, a trampoline, and decoys of each kind.
///
/// # Panics
/// Where the options ask for fewer than 4 processes or too little RAM.
#[must_use]
pub fn standard_linux(options: LinuxOptions) -> StandardLinux {
    assert!(options.processes >= 4, "the decoys need 4 processes");
    let mut rng = Rng::new(options.seed);
    let ram = Ram::split(options.ram, 3 << 30);
    let mut guest = GuestBuilder::new(ram, options.seed).with_mode(options.mode);
    let kernel = LinuxKernel::build(&mut guest, options.kpti);
    let processes: Vec<_> = (0..options.processes).map(|_| kernel.spawn(&mut guest, &mut rng)).collect();
    let producer = options.processes - 1;
    let place = |guest: &mut GuestBuilder, space, image| {
        Region::place(guest, space, REGION_BASE, image, options.placement, options.ring)
    };
    let region = place(&mut guest, processes[producer].space, options.image);
    let forged_image = RegionImage { heartbeat: 77, frames: 2, ..options.image };
    let forged = place(&mut guest, processes[2].space, forged_image);
    let supervisor = flags::KERNEL_RW & !flags::G;
    let supervisor_alias = region.alias(&mut guest, processes[0].space, REGION_BASE, supervisor);
    let read_only_alias = region.alias(&mut guest, processes[1].space, REGION_BASE, flags::USER_RO);
    let gone = guest.new_space();
    let stale_region = place(&mut guest, gone, RegionImage { heartbeat: 5, ..options.image });
    let stale = stale_region.gpa(0).expect("the producer page is mapped");
    // The process ended: its top table was freed and used for something else.
    fill(&guest.ram, gone.root, &mut rng);
    for process in &processes {
        process.sync(&guest);
    }
    StandardLinux { guest, kernel, processes, producer, region, supervisor_alias, read_only_alias, forged, stale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;

    fn check(options: LinuxOptions) {
        let linux = standard_linux(options);
        let ram = &linux.guest.ram;
        for process in &linux.processes {
            for page in &process.pages {
                let found = naive::translate(ram, process.space.naive(), page.gva.get()).unwrap();
                assert_eq!((found.gpa, found.size, found.user), (page.gpa.get(), page.size.bytes(), true));
                if let Some(user) = process.user_space {
                    assert_eq!(user.root.get(), process.space.root.get() + 4096);
                    assert_eq!(naive::translate(ram, user.naive(), page.gva.get()).unwrap().gpa, page.gpa.get());
                }
            }
            for slot in 256..512 {
                let entry = |space: Space| ram.load_u64(space.root.wrapping_add(slot * 8)).unwrap();
                assert_eq!(entry(process.space), entry(linux.kernel.init));
            }
            assert_eq!(process.user_space.is_some(), options.kpti);
        }
        let producer_page = linux.region.gpa(0).unwrap().get();
        // Pages that reach the producer page as a user with the right to write: the producer's own alone.
        let mut seen = Vec::new();
        for (n, process) in linux.processes.iter().enumerate() {
            let pages = naive::user_leaves(ram, process.space.naive(), usize::MAX);
            seen.extend(
                pages.iter().filter(|page| page.gpa == producer_page).map(|page| (n, page.user, page.writable)),
            );
            assert!(!pages.iter().any(|page| page.gpa == linux.stale.get()));
        }
        assert_eq!(seen, [(0, false, true), (1, true, false), (linux.producer, true, true)]);
        let identity = naive::translate(ram, linux.kernel.trampoline.naive(), producer_page).unwrap();
        assert_eq!((identity.gpa, identity.user), (producer_page, false));
        let direct = linux.kernel.direct_map.get() + producer_page;
        let direct = naive::translate(ram, linux.processes[3].space.naive(), direct).unwrap();
        assert_eq!((direct.gpa, direct.user), (producer_page, false));
        let text = naive::translate(ram, linux.processes[3].space.naive(), KERNEL_TEXT.get()).unwrap();
        assert!(text.executable && !text.writable && !text.user);
    }

    #[test]
    fn the_standard_guest_is_what_it_says() {
        for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
            for kpti in [false, true] {
                check(LinuxOptions { mode, kpti, ..LinuxOptions::default() });
            }
        }
    }
}
