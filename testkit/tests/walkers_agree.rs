//! The library's walker and the naive one give the same answers, on honest tables and on broken ones.

use vgpu_perception::paging::{LeafCursor, LeafStep, Level};
use vgpu_perception::{Budget, Gpa, Gva, PageWalker, PagingMode, PhysRead, WalkErrorKind};
use vgpu_perception_testkit::naive::{self, NaiveFault};
use vgpu_perception_testkit::{LinuxOptions, Rng, Space, StandardLinux, standard_linux};

fn guest(mode: PagingMode, seed: u64) -> StandardLinux {
    standard_linux(LinuxOptions { mode, seed, processes: 5, ..LinuxOptions::default() })
}

fn compare(mem: &impl PhysRead, space: Space, gva: u64) {
    let ours = PageWalker::new(mem, space.space()).translate(Gva::new(gva)).map_err(|error| {
        assert_eq!(error.gva.get(), gva);
        error.kind
    });
    match (naive::translate(mem, space.naive(), gva), ours) {
        (Ok(theirs), Ok(ours)) => {
            let rights = (ours.rights.user, ours.rights.writable, ours.rights.executable);
            assert_eq!((ours.gpa.get(), ours.size.bytes()), (theirs.gpa, theirs.size), "{gva:#x}");
            assert_eq!(rights, (theirs.user, theirs.writable, theirs.executable), "{gva:#x}");
        }
        (Err(NaiveFault::NonCanonical), Err(WalkErrorKind::NonCanonical)) => {}
        (Err(NaiveFault::NotPresent { level, entry }), Err(WalkErrorKind::NotMapped { level: at, entry: raw }))
        | (Err(NaiveFault::Reserved { level, entry }), Err(WalkErrorKind::Reserved { level: at, entry: raw })) => {
            assert_eq!((level, entry), (at as u32, raw), "{gva:#x}");
        }
        (Err(NaiveFault::NoTable { level }), Err(WalkErrorKind::Table { level: at, .. })) => {
            assert_eq!(level, at as u32);
        }
        (theirs, ours) => panic!("{gva:#x}: naive says {theirs:?}, the library {ours:?}"),
    }
}

/// Addresses that exist, their neighbours, and any others.
fn addresses(linux: &StandardLinux, rng: &mut Rng) -> Vec<(Space, u64)> {
    let mut all = Vec::new();
    for process in &linux.processes {
        for page in &process.pages {
            let inside = page.gva.get() + rng.below(page.size.bytes());
            all.extend([inside, inside + 4096, inside ^ (1 << rng.below(64))].map(|gva| (process.space, gva)));
        }
        all.extend((0..50).map(|_| (process.space, rng.next_u64())));
        all.extend((0..50).map(|_| (process.space, linux.kernel.direct_map.get() + rng.below(6 << 30))));
    }
    all
}

#[test]
fn translations_agree() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let linux = guest(mode, 11);
        for (space, gva) in addresses(&linux, &mut Rng::new(1)) {
            compare(&linux.guest.ram, space, gva);
        }
    }
}

#[test]
fn translations_agree_on_broken_tables() {
    for seed in 0..12 {
        let mode = if seed % 2 == 0 { PagingMode::FourLevel } else { PagingMode::FiveLevel };
        let linux = guest(mode, seed);
        let mut rng = Rng::new(seed);
        let addresses = addresses(&linux, &mut rng);
        for _ in 0..200 {
            let (space, gva) = *rng.pick(&addresses);
            // Some entry on the way to the address, with a bit turned or replaced.
            let levels = [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4, mode.top()];
            let level = *rng.pick(&levels);
            let Some(at) = linux.guest.entry_at(space, level, Gva::new(gva)) else { continue };
            let Ok(old) = linux.guest.ram.load_u64(at) else { continue };
            let new = match rng.below(4) {
                0 => rng.next_u64() | 1,
                1 => space.root.get() | 7,
                _ => old ^ (1 << rng.below(64)),
            };
            linux.guest.ram.write_u64(at, new);
            compare(&linux.guest.ram, space, gva);
        }
        for (space, gva) in addresses {
            compare(&linux.guest.ram, space, gva);
        }
    }
}

#[test]
fn enumerations_agree() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let linux = guest(mode, 12);
        for process in &linux.processes {
            let walker = PageWalker::new(&linux.guest.ram, process.space.space());
            let mut cursor = LeafCursor::new(Gva::new(0), mode.user_end());
            let mut theirs = naive::user_leaves(&linux.guest.ram, process.space.naive(), usize::MAX).into_iter();
            loop {
                match walker.next_leaf(&mut cursor, &mut Budget::unlimited()) {
                    LeafStep::Leaf(leaf) => {
                        let page = theirs.next().expect("the naive walker finds as many");
                        assert_eq!((leaf.gva.get(), leaf.gpa), (page.gva, Gpa::new(page.gpa)));
                        assert_eq!((leaf.size.bytes(), leaf.rights.user), (page.size, page.user));
                        assert_eq!((leaf.rights.writable, leaf.rights.executable), (page.writable, page.executable));
                    }
                    LeafStep::Done => break,
                    step => panic!("{step:?} in honest tables"),
                }
            }
            assert_eq!(theirs.next(), None);
            assert!(!cursor.is_truncated());
        }
    }
}
