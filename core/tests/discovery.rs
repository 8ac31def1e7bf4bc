//! From one root, or from none, to the regions of a guest: over synthetic guests with real page tables.

mod common;

use std::collections::BTreeSet;

use common::{scan, words};
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection, guess_mode};
use vgpu_perception::scan::{Candidate, FoundBy, NoRegion, probe};
use vgpu_perception::{Budget, Cr3, Gva, PageSize, PagingMode, PhysRead, ProcessSource, Step};
use vgpu_perception_testkit::linux::{LinuxOptions, REGION_BASE, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Field, Placement, Region, RegionImage, Ring, flags};

fn roots<S: ProcessSource>(mem: &impl PhysRead, mut source: S) -> BTreeSet<Cr3> {
    let mut found = BTreeSet::new();
    loop {
        match source.next_process(mem, &mut Budget::new(100)).unwrap() {
            Step::Found(process) => assert!(found.insert(process.space.root), "a root twice"),
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}

fn shared(linux: &StandardLinux) -> KernelHalf {
    KernelHalf::new(linux.kernel.init.space())
}

/// Where the scan has to find a region: the producer's own, and the forged one.
fn expected(linux: &StandardLinux) -> BTreeSet<(u64, u64)> {
    [&linux.region, &linux.forged].iter().map(|region| (region.space.root.get(), region.base.get())).collect()
}

fn places<R>(candidates: &[Candidate<R>]) -> BTreeSet<(u64, u64)> {
    candidates.iter().map(|found| (found.process.space.root.table().get(), found.base.get())).collect()
}

#[test]
fn all_roots_are_found_from_one_and_from_none() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        for kpti in [false, true] {
            let linux = standard_linux(LinuxOptions { mode, kpti, ..LinuxOptions::default() });
            let ram = &linux.guest.ram;
            let processes: BTreeSet<_> =
                linux.processes.iter().map(|process| Cr3::new(process.space.root.get())).collect();
            let from_one = roots(ram, shared(&linux));
            assert!(from_one.is_superset(&processes), "{mode:?} kpti {kpti}: from one root");
            let mut candidates = vec![RootCandidate::default(); RootElection::CANDIDATES];
            let from_none = roots(ram, RootElection::new(Some(mode), &mut candidates));
            assert!(from_none.is_superset(&processes), "{mode:?} kpti {kpti}: from none");
            let mut source = RootElection::new(None, &mut candidates);
            loop {
                match source.next_process(ram, &mut Budget::unlimited()).unwrap() {
                    Step::Found(process) => assert_eq!(process.space.mode, mode),
                    Step::Pending => {}
                    Step::Done => break,
                }
            }
            assert_eq!(source.reference().map(|reference| reference.mode), Some(mode));
            // With room for a few candidates only, a second pass finds the same.
            let mut few = vec![RootCandidate::default(); 8];
            let second = roots(ram, RootElection::new(None, &mut few));
            assert!(second.is_superset(&processes), "{mode:?} kpti {kpti}: from none, little room");
            assert_eq!(guess_mode(ram, linux.kernel.init.space().root), Some(mode));
        }
    }
}

#[test]
fn isolation_pairs_are_recognised() {
    let linux = standard_linux(LinuxOptions { kpti: true, ..LinuxOptions::default() });
    let mut source = shared(&linux);
    let mut pairs = 0;
    loop {
        match source.next_process(&linux.guest.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(process) => {
                let truth = linux.processes.iter().find(|known| known.space.root == process.space.root.table());
                if let Some(truth) = truth {
                    let user = truth.user_space.map(|space| Cr3::new(space.root.get()));
                    assert_eq!(process.user_root, user);
                    pairs += 1;
                }
            }
            Step::Pending => {}
            Step::Done => break,
        }
    }
    assert_eq!(pairs, linux.processes.len());
}

#[test]
fn a_root_that_is_none_is_refused() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    let space = linux.kernel.init.space();
    assert_eq!(KernelHalf::check(ram, &space), Ok(()));
    let message = |cr3: u64| KernelHalf::check(ram, &space.at_root(Cr3::new(cr3))).unwrap_err().to_string();
    assert!(message(0xdead_0000_0000).contains("0xdead00000000"));
    assert!(message(0).contains("without a kernel half"));
    // The first page of the region is data.
    let page = linux.region.gpa(0).unwrap().get();
    assert!(message(page).contains("names"));
}

#[test]
fn every_candidate_is_found_and_nothing_else() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        for kpti in [false, true] {
            for (ring, by) in
                [(Ring::Written, FoundBy::Page), (Ring::Absent, FoundBy::Page), (Ring::All, FoundBy::RunStart)]
            {
                let linux = standard_linux(LinuxOptions { mode, kpti, ring, ..LinuxOptions::default() });
                let ram = &linux.guest.ram;
                let (candidates, stats) = scan(ram, shared(&linux), 1000, 64, words(6 << 30));
                assert_eq!(places(&candidates), expected(&linux), "{mode:?} kpti {kpti} {ring:?}");
                assert_eq!(candidates.len(), 2, "{candidates:?}");
                assert!(candidates.iter().all(|candidate| candidate.by == by), "{candidates:?}");
                assert_eq!(stats.candidates, 2);
                assert!(stats.pages > 0 && stats.tables > 0);
            }
        }
    }
}

#[test]
fn scratch_memory_and_budget_change_nothing_but_the_order() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    for (budget, batch, words) in [(1, 64, 0), (7, 1, words(6 << 30)), (u64::MAX, 3, 100), (1000, 2, 0)] {
        let (candidates, _) = scan(ram, shared(&linux), budget, batch, words);
        assert_eq!(places(&candidates), expected(&linux), "budget {budget}, batch {batch}, {words} words");
    }
}

#[test]
fn placements_and_page_sizes() {
    for placement in [Placement::Scattered, Placement::Fragments64K, Placement::Contiguous, Placement::Large2M] {
        let ring = if placement == Placement::Large2M { Ring::Written } else { Ring::All };
        let linux = standard_linux(LinuxOptions { placement, ring, ram: 64 << 30, ..LinuxOptions::default() });
        let (candidates, _) = scan(&linux.guest.ram, shared(&linux), u64::MAX, 64, words(6 << 30));
        assert_eq!(places(&candidates), expected(&linux), "{placement:?}");
    }
}

/// A region in the middle of a larger mapping, at an address that is aligned to 4 KiB only.
#[test]
fn a_region_inside_a_run_is_found_by_the_first_pass() {
    let mut linux = standard_linux(LinuxOptions::default());
    let process = linux.processes[3].space;
    let base = Gva::new(0x5555_0000_3000);
    let before = 2 << 20;
    linux.guest.map_new(process, Gva::new(base.get() - before), before, Placement::Scattered, flags::USER_RW);
    let region =
        Region::place(&mut linux.guest, process, base, RegionImage::default(), Placement::Scattered, Ring::All);
    linux.guest.map_new(process, Gva::new(base.get() + (98 << 20)), 5 << 20, Placement::Scattered, flags::USER_RW);
    let (candidates, stats) = scan(&linux.guest.ram, shared(&linux), u64::MAX, 64, words(6 << 30));
    let found = candidates.iter().find(|found| found.base == base).unwrap();
    assert_eq!(found.by, FoundBy::Run);
    assert_eq!(found.process.space.root.table(), region.space.root);
    assert_eq!(stats.runs, 1);
}

/// The same memory in two processes: each place is a candidate of its own.
#[test]
fn a_shared_region_is_reported_for_each_process() {
    let mut linux = standard_linux(LinuxOptions { ring: Ring::All, ..LinuxOptions::default() });
    let other = linux.processes[4].space;
    let at = Gva::new(0x1234_5000_0000);
    linux.region.clone().alias(&mut linux.guest, other, at, flags::USER_RW);
    let (candidates, _) = scan(&linux.guest.ram, shared(&linux), u64::MAX, 64, words(6 << 30));
    let mut places = places(&candidates);
    assert!(places.remove(&(other.root.get(), at.get())));
    assert_eq!(places, expected(&linux));
}

#[test]
fn a_supervisor_page_in_the_ring_disqualifies() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    let page = linux.region.pages.last().unwrap();
    let at = linux.guest.entry_at(linux.region.space, vgpu_perception::paging::Level::Pt, page.gva).unwrap();
    let entry = ram.load_u64(at).unwrap();
    ram.write_u64(at, entry & !4);
    let (candidates, _) = scan(ram, shared(&linux), u64::MAX, 64, words(6 << 30));
    assert!(!candidates.iter().any(|found| found.process.space.root.table() == linux.region.space.root));
}

#[test]
fn every_page_of_the_ring_counts_and_no_other() {
    use vgpu_perception::paging::Level;
    let linux = standard_linux(LinuxOptions { ring: Ring::All, ..LinuxOptions::default() });
    let (guest, base) = (&linux.guest, linux.region.base);
    let space = linux.region.space.space().with_phys_bits(40);
    let judge = || probe(&guest.ram, &space, base);
    assert!(judge().is_ok());
    let ring: Vec<Gva> = linux
        .region
        .pages
        .iter()
        .map(|page| page.gva)
        .filter(|gva| *gva >= base.wrapping_add(vgpu_perception::abi::RING_OFFSET))
        .collect();
    // Some of all, the first and the last, and those at both ends of a page table.
    let at_an_end = |gva: &&Gva| [0, 511].contains(&((gva.get() >> 12) & 511));
    let ends: Vec<Gva> = ring.iter().filter(at_an_end).copied().collect();
    for gva in ring.iter().step_by(613).chain(ring.first()).chain(ring.last()).chain(&ends) {
        let entry = guest.entry(linux.region.space, Level::Pt, *gva).unwrap();
        guest.set_entry(linux.region.space, Level::Pt, *gva, entry & !4);
        assert_eq!(judge().unwrap_err(), NoRegion::SupervisorRing(*gva));
        // With a reserved bit it maps nothing, and without P neither.
        for nothing in [entry & !4 | 1 << 45, entry & !5, 0] {
            guest.set_entry(linux.region.space, Level::Pt, *gva, nothing);
            assert!(judge().is_ok(), "{gva} as {nothing:#x}");
        }
        guest.set_entry(linux.region.space, Level::Pt, *gva, entry);
    }
    // The page after the region is somebody else's, and a table that is the supervisor's makes all its pages so.
    let after = base.wrapping_add(vgpu_perception::abi::REGION_BYTES);
    if let Some(entry) = guest.entry(linux.region.space, Level::Pt, after) {
        guest.set_entry(linux.region.space, Level::Pt, after, entry & !4);
        assert!(judge().is_ok(), "{after} is not of the region");
    }
    let middle = ring[ring.len() / 2];
    let table = guest.entry(linux.region.space, Level::Pd, middle).unwrap();
    guest.set_entry(linux.region.space, Level::Pd, middle, table & !4);
    assert!(matches!(judge(), Err(NoRegion::SupervisorRing(_) | NoRegion::Page(_))), "{:?}", judge());
}

#[test]
fn lying_fields_disqualify() {
    let lies = [
        (Field::STATUS, 5),
        (Field::BACKEND, 4),
        (Field::RUN_EPOCH, 0),
        (Field::HEARTBEAT, 0),
        (Field::SUPPORTED_FORMATS, 6),
        (Field::LATEST, 3),
        (Field::FRAME_ID, 1000),
        (Field::CURSOR_VISIBLE, 2),
        (Field::DESIRED_STATE, 3),
        (Field::DRAW_CURSOR, 2),
    ];
    for (field, value) in lies {
        let linux = standard_linux(LinuxOptions::default());
        linux.region.set(&linux.guest.ram, field, value);
        let (candidates, _) = scan(&linux.guest.ram, shared(&linux), u64::MAX, 64, words(6 << 30));
        let own = linux.region.space.root;
        assert!(!candidates.iter().any(|found| found.process.space.root.table() == own), "{field:?} = {value}");
        assert_eq!(candidates.len(), 1, "the forged one stays");
    }
}

#[test]
fn a_guest_without_a_producer_has_no_candidate() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    for region in [&linux.region, &linux.forged] {
        let page = region.gpa(0).unwrap();
        for word in 0..512 {
            ram.write_u64(page.wrapping_add(word * 8), 0);
        }
    }
    let (candidates, stats) = scan(ram, shared(&linux), u64::MAX, 64, words(6 << 30));
    assert_eq!(candidates, []);
    assert!(stats.spaces >= linux.processes.len() as u64);
}

#[test]
fn the_base_is_the_region_base_of_the_kit() {
    let linux = standard_linux(LinuxOptions::default());
    assert_eq!(linux.region.base, REGION_BASE);
    assert!(REGION_BASE.is_aligned(PageSize::Size4K));
}
