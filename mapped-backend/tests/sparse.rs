//! Holes of a RAM file in memory are left alone: reading one would allocate it.

mod common;

use std::os::unix::fs::FileExt;

use common::{PAGE, allocated, filled, memfd, pattern, ram};
use vgpu_perception::paging::{LeafCursor, LeafStep};
use vgpu_perception::{AddressSpace, Budget, Cr3, Extent, Gpa, Gva, PageKind, PageWalker, PhysRead};
use vgpu_perception_mapped::{Change, ChangeProbe, GuestRam, Populate};

const FILE: u64 = 64 << 20;

/// 64 MiB with data in three places; the map turns them around and has holes of its own.
fn sparse() -> (std::fs::File, GuestRam) {
    let file = memfd(FILE);
    for (at, len) in [(0, 3 * PAGE), ((16 << 20) + PAGE, PAGE), (40 << 20, 2 << 20)] {
        file.write_all_at(&vec![0x5a; len as usize], at).unwrap();
    }
    let ram = ram(&[&file], "0:20M:0, 4G:24M:40M");
    (file, ram)
}

fn extents(ram: &GuestRam) -> Vec<(u64, u64)> {
    ram.extents().map(|extent| extent.map(|Extent { start, len }| (start.get(), len)).unwrap()).collect()
}

#[test]
fn extents_follow_the_data_through_the_map() {
    let (_file, ram) = sparse();
    assert_eq!(extents(&ram), [(0, 3 * PAGE), ((16 << 20) + PAGE, PAGE), (4 << 30, 2 << 20)]);
    let inside = ram.next_extent(Gpa::new(PAGE + 5)).unwrap().unwrap();
    assert_eq!((inside.start.get(), inside.len), (PAGE + 5, 2 * PAGE - 5), "clipped to where the question starts");
    let hole = ram.next_extent(Gpa::new(1 << 30)).unwrap().unwrap();
    assert_eq!(hole.start.get(), 4 << 30, "from a hole of the map to the next data");
    assert_eq!(ram.next_extent(Gpa::new(5 << 30)), Ok(None));
    let all = filled(4 * PAGE, pattern);
    let clipped = common::ram(&[&all], "0:4K:4K, 4K:4K:3K".replace("3K", "12K").as_str());
    assert_eq!(extents(&clipped), [(0, PAGE), (PAGE, PAGE)], "clipped to segments");
}

#[test]
fn a_pass_over_extents_leaves_the_file_as_it_was() {
    let (file, ram) = sparse();
    let before = allocated(&file);
    let mut page = [0; PAGE as usize];
    for (start, len) in extents(&ram) {
        for at in (start..start + len).step_by(PAGE as usize) {
            ram.read(Gpa::new(at), &mut page).unwrap();
            assert_eq!(page, [0x5a; PAGE as usize]);
        }
    }
    assert_eq!(allocated(&file), before);
    // And that is no accident: a read of a hole through the mapping allocates it.
    ram.read(Gpa::new(8 << 20), &mut page).unwrap();
    assert_eq!(page, [0; PAGE as usize]);
    assert!(allocated(&file) > before, "reading a hole was expected to allocate");
}

#[test]
fn populating_maps_the_data_and_fills_no_hole() {
    for how in [Populate::Read, Populate::HugePages] {
        let (file, ram) = sparse();
        let before = allocated(&file);
        assert_eq!(ram.populate(how).unwrap(), (2 << 20) + 4 * PAGE, "{how:?}");
        assert_eq!(allocated(&file), before, "{how:?}");
        assert_eq!(resident(&ram), allocated(&file), "every page of data is mapped in: {how:?}");
    }
    let (file, ram) = sparse();
    assert_eq!((ram.populate(Populate::None).unwrap(), resident(&ram)), (0, 0));
    drop(file);
}

/// Bytes of the mapping that this process has in its page tables. Advice splits a mapping into several for the kernel.
fn resident(ram: &GuestRam) -> u64 {
    let first = ram.window(Gpa::new(0), 1).unwrap().as_ptr().addr() as u64;
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut ours, mut bytes) = (false, 0);
    for line in smaps.lines() {
        if let Some((start, _)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')) {
            let start = u64::from_str_radix(start, 16).unwrap();
            ours = (first..first + FILE).contains(&start);
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| ours) {
            bytes += 1024 * rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
    }
    bytes
}

#[test]
fn a_probe_tells_frozen_ram_from_changing_ram() {
    let (file, ram) = sparse();
    let before = allocated(&file);
    let probe = ChangeProbe::new(&ram, usize::MAX).unwrap();
    assert_eq!(probe.pages(), 3 + 1 + 512);
    assert_eq!(probe.compare(&ram), Ok(Change::Frozen { pages: 516 }));
    file.write_all_at(&[1], (41 << 20) + 9).unwrap();
    assert_eq!(probe.compare(&ram), Ok(Change::Changing { pages: 516, changed: 1 }));
    let few = ChangeProbe::new(&ram, 100).unwrap();
    assert!((80..=100).contains(&few.pages()), "{}", few.pages());
    assert_eq!(ChangeProbe::new(&ram, 0).unwrap().pages(), 0);
    assert_eq!(allocated(&file), before, "looking allocates nothing");
}

#[test]
fn a_file_that_grows_after_opening_keeps_its_holes() {
    let file = memfd(16 << 20);
    file.write_all_at(&[1; 4096], 0).unwrap();
    let ram = ram(&[&file], "0:16M:0");
    // As many blocks as the part that was opened is long, all of them behind it.
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&vec![1; 20 << 20], 32 << 20).unwrap();
    assert_eq!(ram.next_extent(Gpa::new(0)).unwrap(), Some(Extent { start: Gpa::new(0), len: PAGE }));
    assert_eq!(ram.page_kind(Gpa::new(8 << 20)), PageKind::Hole);
}

#[test]
fn a_file_that_becomes_sparse_after_opening_has_holes_from_then_on() {
    let file = filled(1 << 20, pattern);
    let ram = ram(&[&file], "0:1M:0");
    let whole = Some(Extent { start: Gpa::new(0), len: 1 << 20 });
    assert_eq!((ram.next_extent(Gpa::new(0)).unwrap(), ram.page_kind(Gpa::new(0x8000))), (whole, PageKind::Data));
    // As a balloon, or virtio-mem, gives memory back.
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0x8000, 0x4000).unwrap();
    let before = allocated(&file);
    assert_eq!(ram.next_extent(Gpa::new(0)).unwrap(), Some(Extent { start: Gpa::new(0), len: 0x8000 }));
    assert_eq!((ram.page_kind(Gpa::new(0x8000)), ram.page_kind(Gpa::new(0xc000))), (PageKind::Hole, PageKind::Data));
    assert_eq!(allocated(&file), before);
}

/// A guest's tables that lead into RAM that was never touched: all of it reads as empty tables, and an enumeration
/// leaves the file as it was. One walk to one address may fill the page of a table that it reads.
#[test]
fn an_enumeration_of_tables_in_holes_fills_none() {
    let file = memfd(64 << 20);
    let mut root = vec![0_u8; 4096];
    for n in 0..256_u64 {
        let at = usize::try_from(n * 8).unwrap();
        root[at..at + 8].copy_from_slice(&((0x10_0000 + n * 4096) | 7).to_le_bytes());
    }
    file.write_all_at(&root, 0x1000).unwrap();
    let ram = ram(&[&file], "0:64M:0");
    let before = allocated(&file);
    let walker = PageWalker::new(&ram, AddressSpace::new(Cr3::new(0x1000)));
    for stop in [false, true] {
        let cursor = LeafCursor::new(Gva::new(0), Gva::new(1 << 47));
        let mut cursor = if stop { cursor.stopping_at_tables() } else { cursor };
        assert_eq!(walker.next_leaf(&mut cursor, &mut Budget::unlimited()), LeafStep::Done);
        assert_eq!(allocated(&file), before, "a hole was filled");
    }
}

#[test]
fn a_walk_learns_of_a_new_hole_soon_and_a_question_at_once() {
    let file = filled(8 * PAGE, pattern);
    let ram = ram(&[&file], "0:32K:0");
    let page = Gpa::new(2 * PAGE);
    assert!(!ram.fills_hole(page));
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 2 * PAGE, PAGE).unwrap();
    assert_eq!((ram.page_kind(page), ram.page_kind(Gpa::new(0))), (PageKind::Hole, PageKind::Data));
    let answers: Vec<bool> = (0..100).map(|_| ram.fills_hole(page)).collect();
    let first = answers.iter().position(|answer| *answer).expect("the hole shows");
    assert!(first <= 64, "the hole showed after {first} questions");
    assert!(answers[first..].iter().all(|answer| *answer), "what is known is not forgotten");
    assert!(!ram.fills_hole(Gpa::new(0)), "a file with holes is asked about each page");
    assert!(!ram.fills_hole(Gpa::new(64 * PAGE)), "what is no RAM is no hole");
    // A file that has holes from the start is never taken for one that has none.
    let (_file, ram) = sparse();
    assert!(ram.fills_hole(Gpa::new(8 << 20)) && !ram.fills_hole(Gpa::new(0)) && ram.fills_hole(Gpa::new(8 << 20)));
}
