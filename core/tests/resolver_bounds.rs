//! Bounds with a resolver inside: what it reads is charged, to the budget and to the limit of tables, whatever it
//! answers.

mod common;

use std::collections::BTreeSet;

use common::{These, scan, words};
use vgpu_perception::abi;
use vgpu_perception::paging::{
    LeafCursor, LeafStep, Level, NotPresentEntry, NotPresentResolver, PageWalker, Resolution, Resolved, Rights,
};
use vgpu_perception::scan::{Discovery, ScanScratch, probe};
use vgpu_perception::{AddressSpace, Budget, Gpa, Gva, PhysError, PhysRead, Process, RunList, Step};
use vgpu_perception_testkit::{Counting, GuestBuilder, Placement, Ram, Region, RegionImage, Ring, Space, flags};

/// An entry that a resolver is asked about.
const ASK: u64 = 0x800;
const BASE: Gva = Gva::new(0x7000_0000_0000);
const RAM: u64 = 512 << 20;

/// Reads `LOADS` words for every entry, and finds one page for all.
#[derive(Clone, Copy, Debug, Default)]
struct Costly<const LOADS: u64> {
    page: Gpa,
    /// Whether a second answer of one operation is free, as where a descriptor is looked up once.
    remembers: bool,
}

impl<const LOADS: u64> NotPresentResolver for Costly<LOADS> {
    const LOADS: u64 = LOADS;
    type Lookup = bool;

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        asked: &NotPresentEntry,
        looked_up: &mut bool,
        cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        let loads = if self.remembers && *looked_up { 1 } else { LOADS };
        *looked_up = true;
        cost.spend(loads);
        for _ in 0..loads {
            mem.load_u64(self.page)?;
        }
        let page = Resolution::Page { gpa: self.page, rights: Some(Rights::USER_WRITE) };
        Ok(Resolved::for_page(asked.gva, page))
    }
}

fn region(ring: Ring) -> (GuestBuilder, Space, Region) {
    let mut guest = GuestBuilder::new(Ram::flat(RAM), 2);
    let space = guest.new_space();
    let image = RegionImage { width: 1920, height: 1080, frames: 1, ..RegionImage::default() };
    let region = Region::place(&mut guest, space, BASE, image, Placement::Scattered, ring);
    (guest, space, region)
}

/// Every page of the region but its first two asks the resolver.
fn trim(guest: &GuestBuilder, space: Space) {
    for page in 2..abi::REGION_BYTES / 4096 {
        let gva = BASE.wrapping_add(page * 4096);
        if guest.entry_at(space, Level::Pt, gva).is_some() {
            guest.set_entry(space, Level::Pt, gva, ASK);
        }
    }
}

#[test]
fn a_probe_asks_nobody_about_the_pages_of_the_ring() {
    let (guest, space, region) = region(Ring::All);
    trim(&guest, space);
    let mem = Counting::new(&guest.ram);
    let page = region.gpa(0).unwrap();
    let costly = space.space().with_resolver(Costly::<8192> { page, remembers: false });
    assert!(probe(&mem, &costly, BASE).is_ok());
    let count = mem.take().accesses();
    assert!(count <= 26_000, "{count}");
    // Without page tables it asks once for each 2 MiB, and then for nothing in it.
    for span in 1..49 {
        guest.set_entry(space, Level::Pd, BASE.wrapping_add(span << 21), ASK);
    }
    assert!(probe(&mem, &costly, BASE).is_ok());
    let count = mem.take().accesses();
    assert!(count <= 26_000 + 51 * 8192 && count > 48 * 8192, "{count}");
}

#[test]
fn an_entry_above_the_page_tables_costs_what_its_tables_would() {
    let (guest, space, region) = region(Ring::Absent);
    let page = region.gpa(0).unwrap();
    // 512 GiB by one entry of the top table: 2^27 pages.
    guest.set_entry(space, Level::Pml4, Gva::new(8 << 39), ASK);
    let mem = Counting::new(&guest.ram);
    for tables in [1, 2, 100] {
        for stop in [false, true] {
            let walker = PageWalker::new(&mem, space.space().with_resolver(Costly::<300> { page, remembers: false }));
            let cursor = LeafCursor::new(Gva::new(8 << 39), Gva::new(9 << 39)).with_tables(tables);
            let mut cursor = if stop { cursor.stopping_at_tables() } else { cursor };
            let mut steps = 0_u64;
            while walker.next_leaf(&mut cursor, &mut Budget::unlimited()) != LeafStep::Done {
                steps += 1;
            }
            let count = mem.take().accesses();
            assert!(count <= 512 * tables + 512 + 300, "{tables} tables, stop {stop}: {count} loads, {steps} steps");
            assert!(cursor.is_truncated(), "{tables} tables: {steps} steps");
        }
    }
}

#[test]
fn a_large_absent_stretch_is_passed_over_at_once() {
    /// Says that nothing is there up to the end of what the entry translates.
    #[derive(Clone, Copy, Debug)]
    struct Nothing(Resolution);
    impl NotPresentResolver for Nothing {
        const LOADS: u64 = 1;
        type Lookup = ();
        fn resolve<M: PhysRead>(
            &self,
            mem: &M,
            _asked: &NotPresentEntry,
            _lookup: &mut (),
            cost: &mut Budget,
        ) -> Result<Resolved, PhysError> {
            cost.spend(1);
            mem.load_u64(Gpa::new(0))?;
            Ok(Resolved::for_entry(self.0))
        }
    }
    let (guest, space, _) = region(Ring::Absent);
    for slot in 1..200 {
        guest.set_entry(space, Level::Pml4, Gva::new(slot << 39), ASK);
    }
    for nothing in [Resolution::NotMapped, Resolution::NotResident] {
        let mem = Counting::new(&guest.ram);
        let walker = PageWalker::new(&mem, space.space().with_resolver(Nothing(nothing)));
        let mut cursor = LeafCursor::new(Gva::new(1 << 39), Gva::new(200 << 39));
        while walker.next_leaf(&mut cursor, &mut Budget::unlimited()) != LeafStep::Done {}
        assert!(!cursor.is_truncated());
        assert_eq!(mem.take().accesses(), 199 * 2, "an entry and an answer each");
    }
}

/// The worst for a scan: a space whose every entry asks a resolver that reads as much as it may.
#[test]
fn a_step_overdraws_its_budget_by_a_piece_at_most_and_a_hostile_space_ends() {
    const LOADS: u64 = 8192;
    let (mut guest, honest, region) = region(Ring::Written);
    let page = region.gpa(0).unwrap();
    let hostile = guest.new_space();
    for slot in 0..256 {
        guest.set_entry(hostile, Level::Pml4, Gva::new(slot << 39), ASK);
    }
    let mem = Counting::new(&guest.ram);
    let resolver = Costly::<LOADS> { page, remembers: false };
    let spaces = [hostile, honest].map(|space| space.space().with_resolver(resolver)).to_vec();
    let mut processes = vec![Process::default(); 4];
    let mut frames = vec![0; words(RAM)];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut discovery = Discovery::new(These::new(spaces), scratch);
    const BUDGET: u64 = 1 << 20;
    let (mut total, mut found) = (0_u64, false);
    // Twice the space's tables (marked, then compared with the hits), after the first 2^12, and what is honest.
    let bound = 2 * 512 * (LeafCursor::TABLES + 2 * 4096);
    loop {
        let step = discovery.step(&mem, &mut Budget::new(BUDGET)).unwrap();
        let count = mem.take().accesses();
        assert!(count <= BUDGET + Budget::PIECE, "overdrawn by {}", count - BUDGET);
        total += count;
        assert!(total <= bound, "{total}");
        match step {
            Step::Found(candidate) if candidate.process.space.root.table() == honest.root => {
                found = true;
                // What is left is the hostile space's own bound.
                break;
            }
            Step::Found(_) | Step::Pending => {}
            Step::Done => break,
        }
    }
    assert!(found, "the honest one is scanned too");
}

#[test]
fn a_trimmed_frame_looks_its_section_up_once_a_run() {
    let (guest, space, region) = region(Ring::Written);
    let ring = BASE.wrapping_add(abi::RING_OFFSET);
    trim(&guest, space);
    let mem = Counting::new(&guest.ram);
    let page = region.gpa(0).unwrap();
    let walker = PageWalker::new(&mem, space.space().with_resolver(Costly::<200> { page, remembers: true }));
    let mut runs = RunList::<4096>::new();
    let len = 512 * 4096;
    assert_eq!(walker.runs(ring, len, &mut runs), Ok(len));
    let count = mem.take().accesses();
    // A walk, an entry and an answer for each page, and one look-up.
    assert!(count <= 4 + 512 * 2 + 200, "{count}");
    // Compared afterwards with everything read anew.
    assert!(walker.still_in(ring, len, &runs));
    assert_eq!(mem.take().accesses(), count);
}

/// More pages that read like producer pages than are remembered at a time, all of them beyond the bitmap.
#[test]
fn every_candidate_is_reported_with_any_size_of_scratch_memory() {
    const END: u64 = 8 << 30;
    let mut guest = GuestBuilder::new(Ram::flat(END), 2);
    let space = guest.new_space();
    // In a large page 512 pages beyond the bitmap are read at once.
    guest.map_new(space, Gva::new(0x4000_0000), 4 << 20, Placement::Large2M, flags::USER_RW);
    let mut expected = BTreeSet::new();
    for n in 0..70_u64 {
        let base = Gva::new(0x10_0000_0000 + n * (128 << 20));
        Region::place(&mut guest, space, base, RegionImage::default(), Placement::Scattered, Ring::Absent);
        expected.insert(base);
    }
    let spaces: Vec<AddressSpace> = vec![space.space()];
    for (batch, words) in [(1, 0), (4, 1000), (4, words(END))] {
        let (found, stats) = scan(&guest.ram, These::new(spaces.clone()), 10_000, batch, words);
        let places: BTreeSet<_> = found.iter().map(|found| found.base).collect();
        assert_eq!(places, expected, "{words} words: {stats:?}");
        assert_eq!(stats.skipped, 0, "{words} words");
    }
}

/// What the headers and documents name.
const _: () = assert!(Budget::PIECE == 1 << 15);
