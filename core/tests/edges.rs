//! Edges: the ends of the address space, where a run begins, a line that is being written.

mod common;

use common::{These, scan, words};
use vgpu_perception::abi::producer;
use vgpu_perception::paging::{LeafCursor, LeafStep, PageWalker};
use vgpu_perception::scan::{FoundBy, probe};
use vgpu_perception::{Budget, Gpa, Gva, PagingMode, PhysRead, WalkError, WalkErrorKind};
use vgpu_perception_testkit::{GuestBuilder, Placement, Ram, Region, RegionImage, Ring, flags, naive};

#[test]
fn the_last_bytes_of_the_address_space_can_be_read_and_none_after_them() {
    let mut guest = GuestBuilder::new(Ram::flat(16 << 20), 1);
    let space = guest.new_space();
    let top = Gva::new(0xffff_ffff_ffff_f000);
    let pages = guest.map_new(space, top, 4096, Placement::Scattered, flags::P | flags::W);
    guest.ram.write_u64(pages[0].gpa.wrapping_add(0xff8), 0x1122_3344_5566_7788);
    let walker = PageWalker::new(&guest.ram, space.space());
    let mut bytes = [0; 8];
    assert_eq!(walker.read(Gva::new(0xffff_ffff_ffff_fff8), &mut bytes), Ok(()));
    assert_eq!(u64::from_le_bytes(bytes), 0x1122_3344_5566_7788);
    let past = walker.read(Gva::new(0xffff_ffff_ffff_fff8), &mut [0; 9]);
    assert!(matches!(past, Err(WalkError { kind: WalkErrorKind::NonCanonical, .. })), "{past:?}");
}

#[test]
fn an_enumeration_leaps_over_what_is_not_canonical_and_reaches_the_last_page() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let mut guest = GuestBuilder::new(Ram::flat(16 << 20), 1).with_mode(mode);
        let space = guest.new_space();
        let user_end = mode.user_end().get();
        let places = [0x40_0000, user_end - 4096, user_end.wrapping_neg(), 0xffff_ffff_8000_0000, u64::MAX - 4095];
        for place in places {
            guest.map_new(space, Gva::new(place), 4096, Placement::Scattered, flags::USER_RW);
        }
        let walker = PageWalker::new(&guest.ram, space.space());
        for start in [0, 0x40_0000, user_end - 4096, user_end, user_end + (3 << 30), user_end.wrapping_neg()] {
            for end in [user_end, user_end + 4096, user_end.wrapping_neg() + 4096, u64::MAX] {
                let mut cursor = LeafCursor::new(Gva::new(start), Gva::new(end));
                let mut found = Vec::new();
                for _ in 0..100 {
                    match walker.next_leaf(&mut cursor, &mut Budget::unlimited()) {
                        LeafStep::Leaf(leaf) => found.push(leaf.gva.get()),
                        LeafStep::Done => break,
                        step => panic!("{step:?}"),
                    }
                }
                let expected: Vec<u64> = places.into_iter().filter(|at| *at >= start && *at < end).collect();
                assert_eq!(found, expected, "{mode:?} {start:#x}..{end:#x}");
                assert!(!cursor.is_truncated());
                let naive = naive::leaves(&guest.ram, space.naive(), start, end, usize::MAX);
                assert_eq!(found, naive.iter().map(|leaf| leaf.gva).collect::<Vec<_>>());
            }
        }
    }
}

/// Every 48th span of a stretch is looked into, so a region may begin in the last pages of one.
#[test]
fn a_whole_region_is_found_by_its_run_wherever_its_stretch_begins() {
    let stretch = 0x7000_0000_0000_u64;
    for spans_before in (0..=3).chain(44..=49).chain(93..=97) {
        for skip in [0, 0x10_0000, 0x1f_f000] {
            let mut guest = GuestBuilder::new(Ram::flat(256 << 20), 2);
            let space = guest.new_space();
            // One page in each span before the region: the stretch of spans is unbroken, the run is not.
            for n in 0..spans_before {
                guest.map_new(space, Gva::new(stretch + n * (2 << 20)), 4096, Placement::Scattered, flags::USER_RW);
            }
            let base = Gva::new(stretch + spans_before * (2 << 20) + skip);
            Region::place(&mut guest, space, base, RegionImage::default(), Placement::Scattered, Ring::All);
            let (found, _) = scan(&guest.ram, These::new(vec![space.space()]), 100_000, 4, words(256 << 20));
            let found: Vec<_> = found.iter().map(|found| (found.base, found.by)).collect();
            assert_eq!(found, [(base, FoundBy::RunStart)], "{spans_before} + {skip:#x}");
        }
    }
}

/// A guest that is paused in the middle of its first write of a line stays a guest with a region.
#[test]
fn a_line_that_is_being_written_refuses_nothing() {
    let mut guest = GuestBuilder::new(Ram::flat(256 << 20), 2);
    let space = guest.new_space();
    let base = Gva::new(0x7000_0000_0000);
    Region::place(&mut guest, space, base, RegionImage::default(), Placement::Scattered, Ring::All);
    let page = PageWalker::new(&guest.ram, space.space()).translate(base).unwrap().gpa;
    let control = PageWalker::new(&guest.ram, space.space()).translate(base.wrapping_add(0x1000)).unwrap().gpa;
    let found = |seq_at: Gpa, at: Gpa, value: u32| {
        let before = (guest.ram.load_u32(seq_at).unwrap(), guest.ram.load_u32(at).unwrap());
        guest.ram.write_u32(at, value);
        let mut answers = Vec::new();
        for seq in [before.0 & !1, before.0 | 1] {
            guest.ram.write_u32(seq_at, seq);
            answers.push(probe(&guest.ram, &space.space(), base).is_ok());
        }
        guest.ram.write_u32(seq_at, before.0);
        guest.ram.write_u32(at, before.1);
        answers
    };
    let at = |offset: u64| page.wrapping_add(offset);
    // dpi, cursor_visible, desired_state: impossible under an even number, exempt under an odd one.
    assert_eq!(found(at(producer::GEOM_SEQ), at(0xdc), 100_000), [false, true]);
    assert_eq!(found(at(producer::CURSOR_SEQ), at(0x84), 7), [false, true]);
    assert_eq!(found(control, control.wrapping_add(4), 9), [false, true]);
    // The lifecycle's line has no sequence number: it is never exempt.
    assert_eq!(found(at(producer::GEOM_SEQ), at(0x114), 9), [false, false]);
    assert!(probe(&guest.ram, &space.space(), base).is_ok());
}
