//! A whole attach over a mapped RAM file: it allocates nothing, and what is remapped meanwhile is never shown stale.

mod common;

use core::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use common::{allocated, memfd};
use vgpu_perception::paging::{Hardware, Level};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::region::{FrameScratch, Region, Sample};
use vgpu_perception::scan::{Candidate, ScanScratch};
use vgpu_perception::{
    Budget, CopyHint, Discovery, Extent, Gpa, NextUse, PhysError, PhysRead, PhysRun, Process, Step, Window, abi,
};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_testkit::{LinuxOptions, Placement, StandardLinux, standard_linux};

const PAGE: usize = 4096;

/// The size of a frame that is large enough for every way to copy, even with one page of it elsewhere.
const SIZE: (u32, u32) = (1600, 400);
const FRAME: usize = 1600 * 400 * 4;

/// How pages lie decides how they are copied, as what the caller does with them does.
const PLACEMENTS: [Placement; 3] = [Placement::Scattered, Placement::Fragments64K, Placement::Contiguous];

/// A Linux guest with such frames, in a sparse memfd.
fn guest() -> (StandardLinux, File, GuestRam) {
    guest_placed(Placement::Scattered)
}

fn guest_placed(placement: Placement) -> (StandardLinux, File, GuestRam) {
    let mut options = LinuxOptions { placement, ..LinuxOptions::default() };
    if placement == Placement::Contiguous {
        // Room for regions in one piece.
        options.ram = 64 << 30;
    }
    (options.image.width, options.image.height) = SIZE;
    let linux = standard_linux(options);
    let mut file = memfd(PAGE as u64);
    let segments = linux.guest.ram.file_segments();
    linux.guest.ram.write_to(&mut file, &segments).unwrap();
    let map =
        segments.iter().map(|segment| Segment { gpa: segment.gpa, len: segment.len, offset: segment.offset, file: 0 });
    let ram = GuestRam::from_fd(common::fd(&file), "guest memfd", SegmentMap::new(map).unwrap()).unwrap();
    (linux, file, ram)
}

/// Stores a word of the guest through the file.
fn store(linux: &StandardLinux, file: &File, gpa: Gpa, bytes: &[u8]) {
    let segments = linux.guest.ram.file_segments();
    let inside = |at: Gpa| {
        move |segment: &&vgpu_perception_testkit::FileSegment| at.get().wrapping_sub(segment.gpa.get()) < segment.len
    };
    let segment = segments.iter().find(inside(gpa)).expect("the address is RAM");
    file.write_all_at(bytes, segment.offset + (gpa.get() - segment.gpa.get())).unwrap();
}

/// Finds the roots, and every candidate in them.
fn attach(ram: &GuestRam) -> Vec<Candidate<Hardware>> {
    let mut candidates = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut processes = vec![Process::default(); 64];
    let mut frames = vec![0; 1 << 14];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut scan = Discovery::new(RootElection::new(None, &mut candidates), scratch);
    let mut found = Vec::new();
    loop {
        match scan.step(ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(candidate) => found.push(candidate),
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}

#[test]
fn an_attach_leaves_a_sparse_file_as_it_was() {
    let (linux, file, ram) = guest();
    let before = allocated(&file);
    assert!(before < linux.guest.ram.segments().iter().map(|segment| segment.len).sum(), "the file is sparse");
    let found = attach(&ram);
    let place =
        found.iter().find(|candidate| candidate.base == linux.region.base).expect("the producer's region is found");
    let mut region = place.region();
    let mut buffer = vec![0; abi::MAX_FRAME_BYTES as usize];
    let sample = region.sample_frame(&ram, &mut FrameScratch::new(), &mut buffer, NextUse::ReadSoon).unwrap();
    assert!(matches!(sample, Sample::Fresh(_)), "{sample:?}");
    assert!(region.read_cursor(&ram).unwrap().fresh().is_some());
    assert_eq!(allocated(&file), before);
}

/// The region, the entry of a page in the middle of its latest frame, and a page of other bytes to put there.
struct Remap {
    region: Region,
    entry_at: Gpa,
    old: u64,
    new: u64,
    at: usize,
}

const OTHER: u8 = 0xee;

fn prepare(linux: &StandardLinux, file: &File) -> Remap {
    let image = LinuxOptions::default().image;
    let slot = vgpu_perception_testkit::RegionImage::slot_of(image.frames) as u32;
    let at = 37 * PAGE;
    let space = linux.processes[linux.producer].space;
    let gva = linux.region.base.wrapping_add(abi::slot_offset(slot).unwrap() + at as u64);
    let entry_at = linux.guest.entry_at(space, Level::Pt, gva).unwrap();
    let old = linux.guest.ram.load_u64(entry_at).unwrap();
    // A page that nothing else in these tests looks at: the stale copy of another region.
    let frame = linux.stale.get() & !0xfff;
    store(linux, file, Gpa::new(frame), &[OTHER; PAGE]);
    let new = (old & !0x000f_ffff_ffff_f000) | frame;
    Remap { region: Region::new(space.space(), linux.region.base), entry_at, old, new, at }
}

/// All ways to copy: what a buffer is for, and where it begins in a page.
const USES: [(NextUse, usize); 6] = [
    (NextUse::Unknown, 0),
    (NextUse::ReadSoon, 0),
    (NextUse::Handoff, 0),
    (NextUse::Unknown, 16),
    (NextUse::ReadSoon, 16),
    (NextUse::Handoff, 16),
];

/// A buffer for a frame, `skip` bytes after the start of a page.
fn at_page(whole: &mut Vec<u8>, skip: usize) -> &mut [u8] {
    whole.resize(FRAME + 2 * PAGE, 0);
    let from = whole.as_ptr().align_offset(PAGE) + skip;
    &mut whole[from..from + FRAME]
}

#[test]
fn a_page_that_is_remapped_between_two_calls_gives_its_new_bytes() {
    for placement in PLACEMENTS {
        let (linux, file, ram) = guest_placed(placement);
        let remap = prepare(&linux, &file);
        let mut region = remap.region;
        let mut scratch = FrameScratch::new();
        let mut whole = Vec::new();
        for (next_use, skip) in USES {
            let buffer = at_page(&mut whole, skip);
            for (entry, other) in [(remap.old, false), (remap.new, true), (remap.old, false)] {
                store(&linux, &file, remap.entry_at, &entry.to_le_bytes());
                region.forget_frames();
                let sample = region.sample_frame(&ram, &mut scratch, buffer, next_use).unwrap();
                assert!(matches!(sample, Sample::Fresh(_)), "{sample:?}");
                let page = &buffer[remap.at..remap.at + PAGE];
                assert_eq!(page.iter().all(|byte| *byte == OTHER), other, "{placement:?} {next_use:?} {skip}");
            }
        }
    }
}

/// The file, whose guest remaps a page right after the bytes of a run were copied, once.
struct Remapping<'r> {
    ram: &'r GuestRam,
    remap: &'r dyn Fn(),
    armed: Cell<bool>,
}

impl PhysRead for Remapping<'_> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.ram.read(gpa, dst)
    }
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.ram.load_u32(gpa)
    }
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.ram.load_u64(gpa)
    }
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.ram.load_words(gpa, dst)
    }
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        let copied = self.ram.read_runs(runs, dst, hint);
        if self.armed.replace(false) {
            (self.remap)();
        }
        copied
    }
    fn copied(&self, dst: &[u8], hint: CopyHint) {
        self.ram.copied(dst, hint);
    }
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.ram.next_extent(from)
    }
    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        self.ram.window(gpa, len)
    }
}

#[test]
fn a_page_that_is_remapped_inside_a_call_is_copied_again() {
    for placement in PLACEMENTS {
        let (linux, file, ram) = guest_placed(placement);
        let remap = prepare(&linux, &file);
        let mut scratch = FrameScratch::new();
        let mut whole = Vec::new();
        for (next_use, skip) in USES {
            let buffer = at_page(&mut whole, skip);
            store(&linux, &file, remap.entry_at, &remap.old.to_le_bytes());
            let change = || store(&linux, &file, remap.entry_at, &remap.new.to_le_bytes());
            let mem = Remapping { ram: &ram, remap: &change, armed: Cell::new(true) };
            let mut region = remap.region;
            let sample = region.sample_frame(&mem, &mut scratch, buffer, next_use).unwrap();
            assert!(matches!(sample, Sample::Fresh(_)), "{sample:?}");
            assert!(!mem.armed.get(), "the page was remapped");
            let page = &buffer[remap.at..remap.at + PAGE];
            assert!(page.iter().all(|byte| *byte == OTHER), "{placement:?} {next_use:?} {skip}");
        }
    }
}

#[test]
fn a_producer_page_that_is_remapped_shows_its_new_lines() {
    let (linux, file, ram) = guest();
    let space = linux.processes[linux.producer].space;
    let mut region = Region::new(space.space(), linux.region.base);
    let before = region.read_cursor(&ram).unwrap().fresh().expect("a cursor");
    let entry_at = linux.guest.entry_at(space, Level::Pt, linux.region.base).unwrap();
    let old = linux.guest.ram.load_u64(entry_at).unwrap();
    let frame = linux.stale.get() & !0xfff;
    let mut page = linux.guest.ram.bytes(Gpa::new(old & 0x000f_ffff_ffff_f000), PAGE);
    let seq = before.seq.wrapping_add(2).to_le_bytes();
    page[abi::producer::CURSOR as usize..][..4].copy_from_slice(&seq);
    store(&linux, &file, Gpa::new(frame), &page);
    store(&linux, &file, entry_at, &((old & !0x000f_ffff_ffff_f000) | frame).to_le_bytes());
    let after = region.read_cursor(&ram).unwrap().fresh().expect("a cursor");
    assert_eq!(after.seq, before.seq.wrapping_add(2));
}
