//! What is fetched ahead of a poll is what the poll reads, and no more.

use core::cell::RefCell;
use std::collections::BTreeSet;

use vgpu_perception::region::{FrameScratch, Reader, Region, Sample, Skip};
use vgpu_perception::{Extent, Gpa, NextUse, PhysError, PhysRead};
use vgpu_perception_testkit::Ram;
use vgpu_perception_testkit::linux::{LinuxOptions, standard_linux};

/// Notes the lines that are loaded, and those that are fetched ahead.
struct Noting<'r> {
    ram: &'r Ram,
    loaded: RefCell<BTreeSet<u64>>,
    fetched: RefCell<BTreeSet<u64>>,
}

impl<'r> Noting<'r> {
    fn new(ram: &'r Ram) -> Self {
        Self { ram, loaded: RefCell::default(), fetched: RefCell::default() }
    }
}

impl PhysRead for Noting<'_> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.loaded.borrow_mut().insert(gpa.get() / 64);
        self.ram.read(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.loaded.borrow_mut().insert(gpa.get() / 64);
        self.ram.load_u32(gpa)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.loaded.borrow_mut().insert(gpa.get() / 64);
        self.ram.load_u64(gpa)
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.ram.next_extent(from)
    }

    fn prefetch(&self, gpa: Gpa) {
        self.fetched.borrow_mut().insert(gpa.get() / 64);
    }
}

#[test]
fn a_cursor_and_a_poll_read_lines_that_were_fetched_ahead() {
    // As many frames as it takes until each slot was the latest twice.
    for frames in 1..=6 {
        let mut options = LinuxOptions::default();
        options.image.frames = frames;
        let linux = standard_linux(options);
        let mem = Noting::new(&linux.guest.ram);
        let mut region = Region::new(linux.region.space.space(), linux.region.base);
        region.prefetch(&mem);
        assert!(mem.fetched.borrow().is_empty() && mem.loaded.borrow().is_empty(), "nothing is known yet");

        let (mut scratch, mut dst) = (FrameScratch::new(), vec![0; 1 << 20]);
        let mut poll = |region: &mut Region| region.sample_frame(&mem, &mut scratch, &mut dst, NextUse::Unknown);
        assert!(poll(&mut region).unwrap().fresh().is_some());
        mem.loaded.take();
        region.prefetch(&mem);
        assert!(mem.loaded.take().is_empty(), "fetching ahead loads nothing");
        assert!(region.read_cursor(&mem).unwrap().fresh().is_some());
        assert!(matches!(poll(&mut region), Ok(Sample::Skip(Skip::Unchanged { .. }))));
        let (loaded, fetched) = (mem.loaded.take(), mem.fetched.take());
        assert!(loaded.is_subset(&fetched), "{loaded:x?} against {fetched:x?}");
        assert!(fetched.len() <= 4 + 3, "four entries and three lines: {fetched:x?}");

        let reader = Reader::new(&mem, region);
        reader.prefetch();
        assert_eq!(mem.fetched.take(), fetched);
    }
}
