//! Several kernels in one RAM: nothing that lies still says which one runs, so every group of roots is handed out.

mod common;

use std::collections::BTreeSet;

use common::{scan, words};
use vgpu_perception::paging::Level;
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection, RootGroups};
use vgpu_perception::{Budget, Cr3, Gpa, Gva, PagingMode, PhysRead, ProcessSource, Step};
use vgpu_perception_testkit::linux::{LinuxKernel, LinuxOptions, REGION_BASE, standard_linux};
use vgpu_perception_testkit::{Counting, GuestBuilder, Placement, Ram, Region, RegionImage, Ring, Rng, Space, flags};

const RAM: u64 = 4 << 30;

fn kept(len: usize) -> Vec<RootCandidate> {
    vec![RootCandidate::default(); len]
}

/// All roots of a source, in order.
fn all<S: ProcessSource>(mem: &impl PhysRead, source: &mut S) -> Vec<Gpa> {
    let mut found = Vec::new();
    loop {
        match source.next_process(mem, &mut Budget::new(10_000)).unwrap() {
            Step::Found(process) => found.push(process.space.root.table()),
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}

/// The roots of two kernels that share nothing, `stale` and `live` of them.
fn two_boots(stale: usize, live: usize) -> (GuestBuilder, Vec<Space>, Vec<Space>) {
    let mut guest = GuestBuilder::new(Ram::flat(RAM), 9);
    let (before, now) = (LinuxKernel::build(&mut guest, false), LinuxKernel::build(&mut guest, false));
    let mut spawn = |kernel: &LinuxKernel| {
        let space = kernel.spawn_empty(&mut guest).space;
        guest.map_new(space, Gva::new(0x40_0000), 0x8000, Placement::Scattered, flags::USER_RW);
        space
    };
    let before = (0..stale).map(|_| spawn(&before)).collect();
    let now = (0..live).map(|_| spawn(&now)).collect();
    (guest, before, now)
}

/// A kernel's own tables, however many, are not what a guest runs in: one process with user pages says more.
#[test]
fn a_group_with_a_process_that_has_user_pages_comes_first() {
    let mut guest = GuestBuilder::new(Ram::flat(RAM), 9);
    let (bare, lived_in) = (LinuxKernel::build(&mut guest, false), LinuxKernel::build(&mut guest, false));
    for _ in 0..9 {
        bare.spawn_empty(&mut guest);
    }
    let spaces: Vec<_> = (0..3).map(|_| lived_in.spawn_empty(&mut guest).space).collect();
    let mut candidates = kept(RootElection::CANDIDATES);
    let mut best = |ram: &Ram| {
        let mut source = RootElection::new(None, &mut candidates);
        let found = all(ram, &mut source);
        (found, source.reference().unwrap().root.table())
    };
    let (found, first) = best(&guest.ram);
    assert!(found.len() >= 12 && !spaces.iter().any(|space| space.root == first), "the larger one");
    guest.map_new(spaces[1], Gva::new(0x40_0000), 0x1000, Placement::Scattered, flags::USER_RW);
    let (again, first) = best(&guest.ram);
    assert_eq!(again.iter().collect::<BTreeSet<_>>(), found.iter().collect::<BTreeSet<_>>(), "all are handed out");
    assert!(spaces.iter().any(|space| space.root == first) || lived_in.init.root == first, "{first:?}");
}

#[test]
fn more_roots_of_the_boot_before_do_not_outvote_the_live_ones() {
    let (mut guest, before, now) = two_boots(31, 11);
    let producer = now[7];
    Region::place(&mut guest, producer, REGION_BASE, RegionImage::default(), Placement::Scattered, Ring::Written);
    // With room for all roots, for some, and for one.
    for room in [RootElection::CANDIDATES, 16, 1] {
        let mut candidates = kept(room);
        let mut source = RootElection::new(None, &mut candidates);
        let found: BTreeSet<_> = all(&guest.ram, &mut source).into_iter().collect();
        for space in before.iter().chain(&now) {
            assert!(found.contains(&space.root), "room for {room}: {:?} is missing", space.root);
        }
        assert!(source.groups().len() >= 2 && source.groups().left_out() == 0, "{:?}", source.groups());
        // The same again from the groups alone, as from a kernel that was kept.
        let groups = *source.groups();
        let again: BTreeSet<_> = all(&guest.ram, &mut groups.processes()).into_iter().collect();
        assert_eq!(found, again, "room for {room}");

        let mut candidates = kept(room);
        let source = RootElection::new(None, &mut candidates);
        let (candidates, _) = scan(&guest.ram, source, 100_000, 64, words(RAM));
        let places: Vec<_> = candidates.iter().map(|found| (found.process.space.root.table(), found.base)).collect();
        assert_eq!(places, [(producer.root, REGION_BASE)], "room for {room}");
    }
}

#[test]
fn groups_take_turns() {
    let (guest, before, now) = two_boots(31, 11);
    let mut candidates = kept(RootElection::CANDIDATES);
    let order = all(&guest.ram, &mut RootElection::new(None, &mut candidates));
    let of = |spaces: &[Space]| -> Vec<usize> {
        order
            .iter()
            .enumerate()
            .filter(|(_, root)| spaces.iter().any(|space| space.root == **root))
            .map(|(n, _)| n)
            .collect()
    };
    // Whoever has more: as long as both have some left, nobody gives many in a row.
    let (stale, live) = (of(&before), of(&now));
    assert_eq!((stale.len(), live.len()), (31, 11));
    let last_live = *live.last().unwrap();
    let stale_before = stale.iter().filter(|place| **place < last_live).count();
    assert!(stale_before <= live.len() + 1, "{order:?}");
}

/// A program writes 16 MiB of pages that read like top tables, all with one kernel half that leads to real tables.
fn forge(guest: &mut GuestBuilder, victim: &LinuxKernel, pages: u64, distinct: bool) -> Vec<Gpa> {
    let text = guest.entry(victim.init, victim.init.mode.top(), Gva::new(0xffff_ffff_8100_0000)).unwrap();
    let first = guest.frames.contiguous(pages * 4096, 2 << 20);
    guest.ram.touch(first, pages * 4096);
    (0..pages)
        .map(|n| {
            let page = first.wrapping_add(n * 4096);
            guest.ram.write_u64(page.wrapping_add(511 * 8), text);
            for slot in 300..304 {
                // Nothing that the real kernel half has: they agree with each other, or with nobody.
                let unlike = if distinct { n * 8 } else { 0 };
                let entry = (0x100_0000 + (slot + unlike) * 4096) | 0x63;
                guest.ram.write_u64(page.wrapping_add(slot * 8), entry);
            }
            page
        })
        .collect()
}

#[test]
fn pages_that_a_program_writes_outvote_nobody() {
    for distinct in [false, true] {
        let mut guest = GuestBuilder::new(Ram::flat(RAM), 4);
        let kernel = LinuxKernel::build(&mut guest, false);
        let mut rng = Rng::new(3);
        let forged: BTreeSet<_> = forge(&mut guest, &kernel, 4096, distinct).into_iter().collect();
        let real: Vec<_> = (0..11).map(|_| kernel.spawn(&mut guest, &mut rng).space).collect();
        let place = (Placement::Scattered, Ring::Written);
        Region::place(&mut guest, real[5], REGION_BASE, RegionImage::default(), place.0, place.1);
        let mut candidates = kept(RootElection::CANDIDATES);
        let source = RootElection::new(None, &mut candidates);
        let (candidates, stats) = scan(&guest.ram, source, 1 << 16, 1024, words(RAM));
        let places: Vec<_> = candidates.iter().map(|found| found.process.space.root.table()).collect();
        assert!(places.contains(&real[5].root), "distinct {distinct}: {stats:?}");
        if distinct {
            assert!(stats.left_out > 0, "what there was no room for is counted: {stats:?}");
        } else {
            assert!(stats.spaces as usize >= forged.len(), "they are handed out as well: {stats:?}");
        }
    }
}

#[test]
fn groups_that_were_kept_take_turns_too() {
    let mut guest = GuestBuilder::new(Ram::flat(RAM), 4);
    let kernel = LinuxKernel::build(&mut guest, false);
    let mut rng = Rng::new(3);
    forge(&mut guest, &kernel, 4096, false);
    let real: Vec<_> = (0..300).map(|_| kernel.spawn_empty(&mut guest).space).collect();
    let _ = rng.next_u64();
    let mut candidates = kept(RootElection::CANDIDATES);
    let mut source = RootElection::new(None, &mut candidates);
    let _ = all(&guest.ram, &mut source);
    let groups = *source.groups();
    let order = all(&guest.ram, &mut groups.processes());
    let unique: BTreeSet<_> = order.iter().collect();
    assert_eq!(unique.len(), order.len(), "each once");
    let reached = order.iter().position(|root| *root == real[299].root).unwrap();
    assert!(reached < 256 + 512 + 310, "the last real root came after {reached}");
}

/// What moved between two looks goes first: a turn of its own, and no more than that.
#[test]
fn the_group_that_was_seen_to_run_begins() {
    let (guest, before, now) = two_boots(300, 280);
    for (led, others) in [(&now, &before), (&before, &now)] {
        let mut candidates = kept(RootElection::CANDIDATES);
        let mut source = RootElection::new(None, &mut candidates);
        let _ = all(&guest.ram, &mut source);
        let groups = source.groups().led_by(&guest.ram, Cr3::new(led[7].root.get()));
        assert_eq!(groups.len(), source.groups().len());
        let order = all(&guest.ram, &mut groups.processes());
        let unique: BTreeSet<_> = order.iter().collect();
        assert_eq!(unique.len(), order.len(), "each once");
        let expected = before.iter().chain(&now).all(|space| unique.contains(&space.root));
        assert!(expected, "all of them");
        let of = |spaces: &[Space], roots: &[Gpa]| {
            roots.iter().filter(|root| spaces.iter().any(|space| space.root == **root)).count()
        };
        assert_eq!(of(others, &order[..256]), 0, "the first turn is its own");
        assert!(of(led, &order[256..512]) < 256, "the second is not");
        assert!(of(others, &order[256..512]) > 128, "the others have theirs then");
        // A root of no group changes nothing.
        assert_eq!(source.groups().led_by(&guest.ram, Cr3::new(0x1000)), *source.groups());
    }
}

/// Under page-table isolation a process has two roots side by side. It is given once, with the other one named.
#[test]
fn a_process_with_two_roots_is_given_once() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let mut guest = GuestBuilder::new(Ram::flat(RAM), 9).with_mode(mode);
        let mut rng = Rng::new(3);
        let kernels = [LinuxKernel::build(&mut guest, true), LinuxKernel::build(&mut guest, true)];
        let each = kernels.iter().map(|kernel| (0..6).map(|_| kernel.spawn(&mut guest, &mut rng).space.root).collect());
        let roots: Vec<Vec<Gpa>> = each.collect();
        let expected: BTreeSet<_> = roots.iter().flatten().copied().collect();
        let halves: BTreeSet<_> = expected.iter().map(|root| root.wrapping_add(4096)).collect();
        let right = |what: &str, found: &[Gpa], expected: &BTreeSet<Gpa>| {
            let unique: BTreeSet<_> = found.iter().copied().collect();
            assert_eq!(unique.len(), found.len(), "{mode:?}, {what}: each once");
            assert!(unique.is_superset(expected), "{mode:?}, {what}: {:?} is missing", expected.difference(&unique));
            assert!(unique.is_disjoint(&halves), "{mode:?}, {what}: given twice: {:?}", unique.intersection(&halves));
        };
        for room in [RootElection::CANDIDATES, 3] {
            let mut candidates = kept(room);
            let mut source = RootElection::new(None, &mut candidates);
            right("from nothing", &all(&guest.ram, &mut source), &expected);
            let groups = *source.groups();
            assert!(groups.len() >= 2, "{groups:?}");
            right("from groups", &all(&guest.ram, &mut groups.processes()), &expected);
        }
        let reference = Space { root: roots[1][2], mode }.space();
        let of_one: BTreeSet<_> = roots[1].iter().copied().collect();
        right("from a root", &all(&guest.ram, &mut KernelHalf::new(reference)), &of_one);
    }
}

/// Pages that have to be compared with every group there is, twice: a step does not do all of that at once.
#[test]
fn a_step_over_groups_overdraws_its_budget_by_no_more_than_it_says() {
    let mut guest = GuestBuilder::new(Ram::flat(RAM), 4);
    let kernel = LinuxKernel::build(&mut guest, false);
    let real = kernel.spawn(&mut guest, &mut Rng::new(3)).space;
    forge(&mut guest, &kernel, 64, true);
    let top = real.mode.top();
    let text = guest.entry(real, top, Gva::new(0xffff_ffff_8100_0000)).unwrap();
    let user = (0..256).find_map(|slot| guest.ram.load_u64(real.root.wrapping_add(slot * 8)).ok().filter(|e| *e != 0));
    // A pair that reads like the two roots of a process of no group.
    let pair = guest.frames.contiguous(8192, 8192);
    guest.ram.touch(pair, 8192);
    for (page, entries) in [(pair, 310..330), (pair.wrapping_add(4096), 340..342)] {
        guest.ram.write_u64(page, user.unwrap());
        guest.ram.write_u64(page.wrapping_add(511 * 8), text);
        entries.for_each(|slot| guest.ram.write_u64(page.wrapping_add(slot * 8), 0x200_0063));
    }
    let mut candidates = kept(RootElection::CANDIDATES);
    let mut source = RootElection::new(None, &mut candidates);
    let mem = Counting::new(&guest.ram);
    let worst = |source: &mut dyn FnMut(&mut Budget) -> bool| {
        let mut worst = 0;
        loop {
            let go_on = source(&mut Budget::new(1));
            worst = worst.max(mem.take().accesses());
            if !go_on {
                return worst;
            }
        }
    };
    let first = worst(&mut |budget| source.next_process(&mem, budget).unwrap() != Step::Done);
    let groups = *source.groups();
    assert_eq!(groups.len(), RootGroups::MOST, "{groups:?}");
    let mut again = groups.processes();
    let second = worst(&mut |budget| again.next_process(&mem, budget).unwrap() != Step::Done);
    println!("{first} loads at most in a step that forms groups, {second} in one over groups");
    assert!(first.max(second) <= Budget::PIECE, "{first} and {second} loads in a step");
    assert!(second > 768 * 31, "the pair was compared with each group: {second}");
}

/// The highest present entry is a process's own: what is shared is found by other entries.
#[test]
fn a_half_is_measured_by_entries_that_are_shared() {
    for own in [vec![511], vec![511, 510], vec![511, 510, 509]] {
        let linux = standard_linux(LinuxOptions { processes: 24, ..LinuxOptions::default() });
        let mut guest = linux.guest;
        let top = linux.kernel.init.mode.top();
        for process in &linux.processes {
            for slot in &own {
                let table = guest.frames.frame();
                guest.ram.touch(table, 4096);
                let gva = Gva::new(0xffff_0000_0000_0000 | slot << 39);
                guest.set_entry(process.space, top, gva, table.get() | 0x67);
            }
        }
        let reference = linux.processes[3].space;
        let found: BTreeSet<_> = all(&guest.ram, &mut KernelHalf::new(reference.space())).into_iter().collect();
        for process in &linux.processes {
            assert!(found.contains(&process.space.root), "{own:?}: {:?} is missing", process.space.root);
        }
    }
}

#[test]
fn a_root_without_the_last_entry_is_found_by_the_other_image_entry() {
    let linux = standard_linux(LinuxOptions::default());
    let guest = &linux.guest;
    let top = linux.kernel.init.mode.top();
    let (last, image) = (Gva::new(0xffff_ffff_8000_0000), Gva::new(0xffff_f800_0000_0000));
    // As Windows has it: the image under 0x1f0, nothing at the end.
    let spaces: Vec<_> = linux.processes.iter().map(|process| process.space).chain([linux.kernel.init]).collect();
    for space in &spaces {
        let entry = guest.entry(*space, top, last).unwrap();
        guest.set_entry(*space, top, image, entry);
        guest.set_entry(*space, top, last, 0);
    }
    let mut candidates = kept(RootElection::CANDIDATES);
    let found: BTreeSet<_> = all(&guest.ram, &mut RootElection::new(None, &mut candidates)).into_iter().collect();
    assert!(spaces.iter().all(|space| found.contains(&space.root)));
    assert_eq!(RootGroups::MOST, 32);
    assert_eq!(Level::Pml4, top);
}
