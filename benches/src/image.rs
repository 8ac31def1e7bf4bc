//! The guest: 4 GiB of random bytes with real page tables in them, in a file in memory.
//!
//! One process holds regions in four layouts: the frames of each pass the caches when they are cycled. Two sets of 64
//! processes are there to be scanned, S1 typical and S2 adversarial, 256 MiB each, their frames shared about four
//! times.

use std::path::{Path, PathBuf};

use vgpu_perception::abi;
use vgpu_perception::paging::Pte;
use vgpu_perception::{AddressSpace, Cr3, Gpa, Gva, PhysRead, Region};
use vgpu_perception_mapped::{GuestRam, Populate};
use vgpu_perception_producer::FrameMeta;

use crate::builder::{Builder, PAGE, USER_RW, below, shuffle};
use crate::raw::Host;
use crate::writer::Writer;

const LARGE: u64 = 2 << 20;
/// Tables, producer pages and control pages lie below; nothing else maps them.
const TABLES_END: u64 = 256 << 20;
const USER_RO: u64 = Pte::PRESENT | Pte::USER;
const KERNEL: u64 = Pte::PRESENT | Pte::WRITABLE;

/// How the frames of a region lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Scattered,
    Fragments,
    Contiguous,
    Large,
}

impl Layout {
    pub(crate) const ALL: [Self; 4] = [Self::Scattered, Self::Fragments, Self::Contiguous, Self::Large];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Scattered => "scattered 4K",
            Self::Fragments => "64K fragments",
            Self::Contiguous => "contiguous 4K",
            Self::Large => "2M pages",
        }
    }
}

/// One frame of a region: where it is, for those who know.
pub(crate) struct Slot {
    /// The region's handle as it is found.
    pub(crate) region: Region,
    /// The slot's first address.
    pub(crate) gva: u64,
    /// Its pages' physical addresses.
    pub(crate) pages: Vec<u64>,
    /// Where the producer page lies.
    pub(crate) producer: u64,
}

/// The regions of one layout whose frames have one size.
pub(crate) struct Ring {
    pub(crate) bytes: usize,
    pub(crate) slots: Vec<Slot>,
}

/// The whole guest.
pub(crate) struct Image {
    pub(crate) ram: &'static GuestRam,
    pub(crate) host: Host,
    pub(crate) writer: Writer,
    /// The root of the process with the layouts.
    pub(crate) root: u64,
    rings: Vec<(Layout, bool, Ring)>,
    /// The roots of the processes to scan.
    pub(crate) typical: Vec<u64>,
    pub(crate) adversarial: Vec<u64>,
    path: PathBuf,
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Image {
    /// The RAM file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The regions of a layout, with 4K or 1080p frames.
    pub(crate) fn ring(&self, layout: Layout, large: bool) -> &Ring {
        let found = self.rings.iter().find(|(at, size, _)| *at == layout && *size == large);
        &found.expect("every layout was made").2
    }
}

/// Builds a guest of `bytes` bytes in a file in memory; `scans` adds the processes to scan.
pub(crate) fn build(bytes: u64, scans: bool) -> Image {
    let path = PathBuf::from(format!("/dev/shm/vgpu-bench-{}.ram", std::process::id()));
    let writer = Writer::create(&path, bytes).expect("the RAM file");
    let mut builder = Builder { writer, seed: 42, tables: Vec::new(), kernel: Vec::new() };
    builder.fill(bytes);
    let root = builder.space();
    let mut next = TABLES_END;
    let mut rings = Vec::new();
    for (index, layout) in Layout::ALL.into_iter().enumerate() {
        for large in [false, true] {
            let ring = builder.ring(root, index as u64 * 2 + u64::from(large), layout, large, &mut next);
            rings.push((layout, large, ring));
        }
    }
    assert!(next <= bytes, "the layouts fit");
    let (mut typical, mut adversarial) = (Vec::new(), Vec::new());
    if scans {
        let mut data: Vec<u64> = (TABLES_END / PAGE..bytes / PAGE).map(|frame| frame * PAGE).collect();
        shuffle(&mut builder.seed, &mut data);
        let mut draw = Draw { next: 0, data };
        for set in [&mut typical, &mut adversarial] {
            set.push(builder.target(&mut draw));
        }
        for _ in 0..64 {
            typical.push(builder.typical(&mut draw));
            adversarial.push(builder.adversarial(&mut draw));
        }
    }
    let ram: &'static GuestRam = Box::leak(Box::new(GuestRam::open_flat(&path).expect("the RAM file maps")));
    ram.populate(Populate::Read).expect("the RAM file populates");
    let window = ram.window(Gpa::new(0), usize::try_from(bytes).expect("RAM fits")).expect("one segment");
    let host = Host::new(window);
    Image { ram, host, writer: builder.writer, root, rings, typical, adversarial, path }
}

/// Which frame is mapped next: all in turn, so that each is mapped about as often as any other.
struct Draw {
    next: usize,
    /// All frames of data, in no order.
    data: Vec<u64>,
}

impl Draw {
    fn frame(&mut self) -> u64 {
        self.next += 1;
        self.data[self.next % self.data.len()]
    }
}

impl Builder {
    fn fill(&mut self, bytes: u64) {
        let mut state = 0x0123_4567_89ab_cdef_u64;
        for at in (0..bytes).step_by(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.writer.store_u64(at, state ^ (state >> 29));
        }
        self.tables = (1..TABLES_END / PAGE).map(|frame| frame * PAGE).collect();
        shuffle(&mut self.seed, &mut self.tables);
        // A kernel half: the last 2 GiB hold a kernel of large pages.
        let (pdpt, pd) = (self.zeroed(), self.zeroed());
        for large in 0..8 {
            self.writer.store_u64(pd + large * 8, (TABLES_END + large * LARGE) | KERNEL | Pte::PAGE);
        }
        self.writer.store_u64(pdpt + 510 * 8, pd | KERNEL);
        self.writer.store_u64(pdpt + 511 * 8, pd | KERNEL);
        self.kernel = vec![(511, pdpt | KERNEL), (300, pdpt | KERNEL)];
    }

    /// Regions of one layout: 16 with 1080p frames or 4 with 4K ones, one slot of each backed.
    fn ring(&mut self, root: u64, index: u64, layout: Layout, large: bool, next: &mut u64) -> Ring {
        let (width, height, count) = if large { (3840, 2160, 4) } else { (1920, 1080, 16) };
        let bytes = u64::from(width * height * 4_u32);
        let span = bytes.next_multiple_of(if layout == Layout::Large { LARGE } else { PAGE });
        *next = next.next_multiple_of(LARGE);
        let mut frames = self.place(layout, *next, span * count);
        *next += span * count;
        let mut slots = Vec::new();
        for nth in 0..count {
            let base = (1 << 40) + (index << 36) + nth * (128 << 20);
            let gva = base + abi::RING_OFFSET;
            let pages: Vec<u64> = frames.drain(..(span / PAGE) as usize).collect();
            let (producer, control) = (self.zeroed(), self.zeroed());
            self.map(root, base, producer, USER_RW, false);
            self.map(root, base + PAGE, control, USER_RW, false);
            if layout == Layout::Large {
                for (skip, page) in (0..span).step_by(LARGE as usize).zip(pages.iter().step_by(512)) {
                    self.map(root, gva + skip, *page, USER_RW, true);
                }
            } else {
                for (skip, page) in (0..span).step_by(PAGE as usize).zip(&pages) {
                    self.map(root, gva + skip, *page, USER_RW, false);
                }
            }
            self.publish(producer, control, FrameMeta { width, height, timestamp_ns: 1 });
            let region = Region::new(AddressSpace::new(Cr3::new(root)), Gva::new(base));
            slots.push(Slot { region, gva, pages, producer });
        }
        Ring { bytes: bytes as usize, slots }
    }

    /// Physical pages from `from` on, in the order of a layout.
    fn place(&mut self, layout: Layout, from: u64, len: u64) -> Vec<u64> {
        let mut pages: Vec<u64> = (from..from + len).step_by(PAGE as usize).collect();
        let seed = &mut self.seed;
        match layout {
            Layout::Contiguous => pages,
            Layout::Scattered => {
                shuffle(seed, &mut pages);
                pages
            }
            Layout::Fragments => {
                let mut pieces = Vec::new();
                while !pages.is_empty() {
                    let count = (below(seed, 31) as usize + 1).min(pages.len());
                    pieces.push(pages.drain(..count).collect::<Vec<_>>());
                }
                shuffle(seed, &mut pieces);
                pieces.concat()
            }
            Layout::Large => {
                let mut pieces: Vec<Vec<u64>> = pages.chunks(512).map(<[u64]>::to_vec).collect();
                shuffle(seed, &mut pieces);
                pieces.concat()
            }
        }
    }

    /// A process with four whole regions, and one of which only the first two pages are present.
    fn target(&mut self, draw: &mut Draw) -> u64 {
        let root = self.space();
        for nth in 0..5 {
            let base = (0x7f << 40) + nth * (1 << 30);
            let (producer, control) = (self.zeroed(), self.zeroed());
            self.map(root, base, producer, USER_RW, false);
            self.map(root, base + PAGE, control, USER_RW, false);
            if nth < 4 {
                for skip in (2 * PAGE..abi::REGION_BYTES).step_by(PAGE as usize) {
                    let frame = draw.frame();
                    self.map(root, base + skip, frame, USER_RW, false);
                }
            }
            self.publish(producer, control, FrameMeta { width: 1920, height: 1080, timestamp_ns: 1 });
        }
        root
    }

    /// 256 MiB in areas of 4 KiB to 32 MiB, half of them not writable, some pages missing, some large.
    fn typical(&mut self, draw: &mut Draw) -> u64 {
        let root = self.space();
        let mut gva = 0x40_0000_u64;
        let mut mapped = 0;
        while mapped < 256 << 20 {
            let len = PAGE << below(&mut self.seed, 14);
            let entry = if below(&mut self.seed, 100) < 45 { USER_RO } else { USER_RW };
            if len >= 2 * LARGE && below(&mut self.seed, 4) == 0 {
                gva = gva.next_multiple_of(LARGE);
                for _ in 0..len / LARGE {
                    let gpa = draw.frame() & !(LARGE - 1);
                    self.map(root, gva, gpa.max(TABLES_END), entry, true);
                    gva += LARGE;
                }
            } else {
                for _ in 0..len / PAGE {
                    if below(&mut self.seed, 100) >= 6 {
                        let frame = draw.frame();
                        self.map(root, gva, frame, entry, false);
                    }
                    gva += PAGE;
                }
            }
            mapped += len;
            gva += PAGE * (1 + below(&mut self.seed, 64));
        }
        root
    }

    /// One run of 256 MiB of scattered writable pages.
    fn adversarial(&mut self, draw: &mut Draw) -> u64 {
        let root = self.space();
        for skip in (0..256 << 20).step_by(PAGE as usize) {
            let frame = draw.frame();
            self.map(root, 0x10_0000_0000 + skip, frame, USER_RW, false);
        }
        root
    }
}
