//! Translations side by side: the same as one by one, in bounded work, and in few calls where each read is one.

mod common;

use common::batched::Batched;
use vgpu_perception::paging::{
    Level, NotPresentEntry, NotPresentResolver, PageWalker, Resolution, Resolved, Rights, Translation, WalkError,
};
use vgpu_perception::{AddressSpace, Budget, Extent, Gpa, Gva, PageSize, PagingMode, PhysError, PhysRead};
use vgpu_perception_testkit::linux::{LinuxOptions, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Counting, GuestBuilder, Placement, Ram, Rng, Space, flags, hostile};

type Walks<R> = Vec<(AddressSpace<R>, Gva)>;
type Results = Vec<Result<Translation, WalkError>>;

fn together<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<M, R>, walks: &Walks<R>) -> Results {
    let mut results = Vec::new();
    walker.translate_together(walks.iter().map(|(space, gva)| (space, *gva)), |result| results.push(result));
    results
}

/// Finds the page of every absent entry whose lowest byte is 0x40.
#[derive(Clone, Copy, Debug)]
struct Trimmed(Gpa);

impl NotPresentResolver for Trimmed {
    const LOADS: u64 = 0;
    type Lookup = ();

    fn resolve<M: PhysRead>(
        &self,
        _mem: &M,
        entry: &NotPresentEntry,
        _lookup: &mut (),
        _cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        let page = Resolution::Page { gpa: self.0, rights: None };
        let found = if entry.entry & 0xff == 0x40 { page } else { Resolution::NotMapped };
        Ok(Resolved::for_page(entry.gva, found))
    }
}

const NEEDS: [Rights; 4] = [Rights::NONE, Rights::USER, Rights::USER_WRITE, Rights::ALL];

/// A walker that needs `need`; every other need takes pages of unknown rights too.
fn walker<M: PhysRead, R: NotPresentResolver>(mem: M, space: AddressSpace<R>, nth: usize) -> PageWalker<M, R> {
    let walker = PageWalker::new(mem, space).needing(NEEDS[nth]);
    if nth.is_multiple_of(2) { walker } else { walker.taking_unknown_rights() }
}

/// Every memory, every need: each result is that of a walk alone.
fn compare<R: NotPresentResolver>(ram: &Ram, walks: &Walks<R>, gone: &[Gpa]) {
    let first = walks[0].0;
    for nth in 0..NEEDS.len() {
        let alone: Results = walks.iter().map(|(space, gva)| walker(ram, *space, nth).translate(*gva)).collect();
        let same = |results: Results, which: &str| {
            assert_eq!(results.len(), walks.len(), "{which}: a result for each");
            for ((got, expected), walk) in results.iter().zip(&alone).zip(walks) {
                assert_eq!(got, expected, "{which}, need {nth}: {walk:?}");
            }
        };
        same(together(&walker(ram, first, nth), walks), "word by word");
        for batch in [2, 5, 300] {
            for gone in [&[], gone] {
                let mem = Batched { batch, gone, ..Batched::new(ram) };
                same(together(&walker(&mem, first, nth), walks), "in batches");
            }
        }
    }
}

fn guest(mode: PagingMode, seed: u64) -> StandardLinux {
    standard_linux(LinuxOptions { mode, seed, processes: 5, ..LinuxOptions::default() })
}

/// Addresses that exist, their neighbours and any others, of all processes in turn.
fn walks(linux: &StandardLinux, rng: &mut Rng) -> Walks<vgpu_perception::paging::Hardware> {
    let mut all = Vec::new();
    for process in &linux.processes {
        let space = process.space.space().with_phys_bits(*rng.pick(&[52, 52, 46, 40, 36]));
        for page in process.pages.iter().take(60) {
            let inside = page.gva.get() + rng.below(page.size.bytes());
            all.extend([inside, inside + 4096, inside ^ (1 << rng.below(64))].map(|gva| (space, Gva::new(gva))));
        }
        all.extend((0..10).map(|_| (space, Gva::new(rng.next_u64()))));
        let direct = linux.kernel.direct_map.get();
        all.extend((0..10).map(|_| (space, Gva::new(direct + rng.below(6 << 30)))));
        // The same tables, taken for those of the other depth.
        let other = if space.mode == PagingMode::FiveLevel { PagingMode::FourLevel } else { PagingMode::FiveLevel };
        all.push((space.with_mode(other), Gva::new(direct)));
    }
    for last in (1..all.len()).rev() {
        all.swap(last, usize::try_from(rng.below(last as u64 + 1)).unwrap());
    }
    all
}

#[test]
fn every_result_is_that_of_a_walk_alone_on_honest_and_on_broken_tables() {
    for seed in 0..4_u64 {
        let mode = if seed.is_multiple_of(2) { PagingMode::FourLevel } else { PagingMode::FiveLevel };
        let linux = guest(mode, seed);
        let (ram, mut rng) = (&linux.guest.ram, Rng::new(seed));
        let walks = walks(&linux, &mut rng);
        compare(ram, &walks, &[]);
        let mut gone = Vec::new();
        for round in 0..100 {
            // Some entry on the way to an address, with a bit turned, or another entry, or one that leads out of RAM.
            let (space, gva) = *rng.pick(&walks);
            let level = *rng.pick(&[Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4, mode.top()]);
            let root = Space { root: space.root.table(), mode };
            let Some(at) = linux.guest.entry_at(root, level, gva) else { continue };
            let Ok(old) = ram.load_u64(at) else { continue };
            let new = match rng.below(5) {
                0 => rng.next_u64() | 1,
                1 => space.root.get() | 7,
                2 => old | 0x000f_0000_0000_0000,
                _ => old ^ (1 << rng.below(64)),
            };
            ram.write_u64(at, new);
            if round % 10 == 0 {
                gone.push(Gpa::new(at.get() & !0xfff));
            }
        }
        compare(ram, &walks, &gone);
        let page = Gpa::new(0x5000);
        let resolved = walks.iter().map(|(space, gva)| (space.with_resolver(Trimmed(page)), *gva)).collect();
        compare(ram, &resolved, &gone);
    }
}

/// A space with 512 plain pages, each with an entry of its own in one table.
fn plain() -> (GuestBuilder, Space, Gva) {
    let mut guest = GuestBuilder::new(Ram::flat(16 << 20), 1);
    let (space, start) = (guest.new_space(), Gva::new(0x7000_4000_0000));
    guest.map_new(space, start, 512 * 4096, Placement::Scattered, flags::USER_RW);
    (guest, space, start)
}

#[test]
fn every_bit_of_every_entry_on_the_way_counts() {
    let (guest, space, start) = plain();
    let near = start.wrapping_add(4096 * 7 + 5);
    let walks = vec![(space.space(), near), (space.space().with_phys_bits(40), near), (space.space(), start)];
    for level in [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt] {
        let at = guest.entry_at(space, level, near).unwrap();
        let entry = guest.ram.load_u64(at).unwrap();
        for bit in 0..64 {
            guest.ram.write_u64(at, entry ^ (1 << bit));
            compare(&guest.ram, &walks, &[]);
        }
        guest.ram.write_u64(at, entry);
    }
}

#[test]
fn an_address_that_one_processor_lacks_is_refused_for_that_one_alone() {
    // A second stretch of RAM. None of the tables lies there yet, and copies of them are made there.
    let (high, start) = (1 << 36, Gva::new(0x7000_4000_0000));
    let levels = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];
    let build = |seed| {
        let ram = Ram::new(&[0, high].map(|start| Extent { start: Gpa::new(start), len: 16 << 20 }));
        let mut guest = GuestBuilder::new(ram, seed);
        let space = guest.new_space();
        guest.map_new(space, start, 4096, Placement::Scattered, flags::USER_RW);
        let low = levels.iter().all(|level| guest.entry(space, *level, start).unwrap() & high == 0);
        low.then_some((guest, space))
    };
    let (guest, space) = (0..1000).find_map(build).unwrap();
    for level in levels {
        let at = guest.entry_at(space, level, start).unwrap();
        let entry = guest.ram.load_u64(at).unwrap();
        let page = entry & vgpu_perception::paging::Pte::ADDRESS;
        for word in (0..4096).step_by(8) {
            guest.ram.write_u64(Gpa::new(high + page + word), guest.ram.load_u64(Gpa::new(page + word)).unwrap());
        }
        guest.ram.write_u64(at, entry | high);
        let wide = space.space();
        let walks = vec![(wide, start), (wide.with_phys_bits(36), start), (wide, start)];
        let results = together(&PageWalker::new(&guest.ram, wide), &walks);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true], "{level}");
        compare(&guest.ram, &walks, &[]);
        guest.ram.write_u64(at, entry);
    }
}

#[test]
fn large_pages_and_trimmed_ones_are_found() {
    let (mut guest, space, start) = plain();
    let (large, giant) = (Gva::new(0x7100_0000_0000), Gva::new(0x7200_0000_0000));
    guest.map(space, large, Gpa::new(0x20_0000), PageSize::Size2M, flags::USER_RW);
    guest.map(space, giant, Gpa::new(0), PageSize::Size1G, flags::USER_RO);
    guest.set_entry(space, Level::Pt, start.wrapping_add(4096), 0x40);
    let space = space.space().with_resolver(Trimmed(Gpa::new(0x5000)));
    let walks = vec![
        (space, start.wrapping_add(8)),
        (space, large.wrapping_add(0x1_2345)),
        (space, start.wrapping_add(4096 + 9)),
        (space, giant.wrapping_add(0x123_4567)),
    ];
    let results = together(&PageWalker::new(&guest.ram, space), &walks);
    let at: Vec<_> = results.iter().map(|result| result.map(|found| (found.gpa.get(), found.size.bytes()))).collect();
    let first = guest.gpa(Space { root: space.root.table(), mode: space.mode }, start).get() + 8;
    assert_eq!(at, [Ok((first, 4096)), Ok((0x21_2345, 2 << 20)), Ok((0x5009, 4096)), Ok((0x123_4567, 1 << 30))]);
    compare(&guest.ram, &walks, &[]);
}

#[test]
fn a_plain_address_takes_one_walk_and_any_other_two() {
    let (guest, space, start) = plain();
    let mem = Counting::new(&guest.ram);
    let walker = PageWalker::new(&mem, space.space());
    let walks: Walks<_> = (0..100).map(|page| (space.space(), start.wrapping_add(page * 4096))).collect();
    assert!(together(&walker, &walks).iter().all(Result::is_ok));
    assert_eq!(mem.take().accesses(), 400, "each entry once");
    // Rights that are missing show at the end of the first walk.
    assert!(together(&walker.needing(Rights::ALL), &walks).iter().all(Result::is_err));
    assert_eq!(mem.take().accesses(), 800, "two walks of four entries");

    type Make = fn(&mut GuestBuilder) -> Space;
    let makes: [Make; 4] = [hostile::own_tables, hostile::fan_out, hostile::fan_out_in_turn, hostile::wide];
    let mut rng = Rng::new(3);
    for (mode, make) in [PagingMode::FourLevel, PagingMode::FiveLevel].into_iter().flat_map(|m| makes.map(|f| (m, f))) {
        let mut guest = GuestBuilder::new(Ram::flat(64 << 20), 1).with_mode(mode);
        let space = make(&mut guest).space();
        let mem = Counting::new(&guest.ram);
        let walks: Walks<_> = (0..1000).map(|_| (space, Gva::new(rng.next_u64() >> rng.below(40)))).collect();
        let _ = together(&PageWalker::new(&mem, space), &walks);
        let count = mem.take().accesses();
        assert!(count <= 2 * mode.top() as u64 * 1000, "{count}");
    }
}

#[test]
fn a_group_takes_a_call_a_level_where_memory_is_read_in_batches() {
    let (guest, space, start) = plain();
    let walks: Walks<_> = (0..160).map(|page| (space.space(), start.wrapping_add(page * 4096))).collect();
    for (batch, most) in [(300, 4 * 10), (8, 4 * 20), (1, 4 * 160)] {
        let mem = Batched { batch, ..Batched::new(&guest.ram) };
        let walker = PageWalker::new(&mem, space.space());
        assert!(together(&walker, &walks).iter().all(Result::is_ok));
        assert_eq!(mem.calls.get(), most, "batches of {batch}");
        // One by one it is a call an entry.
        mem.calls.set(0);
        assert!(walks.iter().all(|(_, gva)| walker.translate(*gva).is_ok()));
        assert_eq!(mem.calls.get(), 4 * 160);
    }
    // A table that cannot be read costs a call for each walk that needs it, and hides none of the others.
    let table = guest.entry_at(space, Level::Pt, start).unwrap();
    let gone = [Gpa::new(table.get() & !0xfff)];
    let mem = Batched { gone: &gone, ..Batched::new(&guest.ram) };
    assert!(together(&PageWalker::new(&mem, space.space()), &walks).iter().all(Result::is_ok));
    let calls = mem.calls.get();
    assert!(calls <= 3 * 10 + 160 + 4 * 160, "{calls} calls");
    // Two tables in turn, of which one cannot be read.
    let mut guest = guest;
    let other = start.wrapping_add(2 << 20);
    guest.map_new(space, other, 512 * 4096, Placement::Scattered, flags::USER_RW);
    let turns = |page: u64| [start, other].map(|from: Gva| (space.space(), from.wrapping_add(page * 4096)));
    let walks: Walks<_> = (0..80).flat_map(turns).collect();
    compare(&guest.ram, &walks, &gone);
    let mem = Batched { gone: &gone, ..Batched::new(&guest.ram) };
    assert!(together(&PageWalker::new(&mem, space.space()), &walks).iter().all(Result::is_ok));
    // Ten groups: three levels in a call each, the last in one more for each of eight; those walk again, alone.
    assert_eq!(mem.calls.get(), 10 * (3 + 1 + 8 + 8 * 4));
}
