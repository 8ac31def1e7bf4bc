//! Ranges as runs: what the entries of a range decide together they would decide one by one, and what was resolved is
//! known again until any of it changes.

use vgpu_perception::paging::{Level, PageWalker, Pte, Rights};
use vgpu_perception::{Gva, PhysRun, RunList, WalkError};
use vgpu_perception_testkit::{GuestBuilder, Placement, Ram, Space, flags};

/// More than a leaf table, and begun in the middle of one.
const PAGES: u64 = 700;
const START: Gva = Gva::new(0x4000_0000 + 300 * 4096);
/// The first and the last, those where a block of entries or a table ends, and some between.
const CHOSEN: [u64; 12] = [0, 1, 63, 64, 65, 128, 200, 211, 212, 213, 640, PAGES - 1];

type Runs = RunList<1024>;

fn guest(placement: Placement) -> (GuestBuilder, Space) {
    let mut guest = GuestBuilder::new(Ram::flat(32 << 20), 3);
    let space = guest.new_space();
    guest.map_new(space, START, PAGES * 4096, placement, flags::USER_RW);
    (guest, space)
}

fn page(nth: u64) -> Gva {
    START.wrapping_add(nth * 4096)
}

#[test]
fn what_was_resolved_is_known_again_until_any_page_of_it_changes() {
    for placement in [Placement::Scattered, Placement::Contiguous] {
        let (guest, space) = guest(placement);
        let walker = PageWalker::new(&guest.ram, space.space()).needing(Rights::USER);
        let mut runs = Runs::new();
        // Not whole pages: the last one counts for a part of it.
        for len in [PAGES * 4096, PAGES * 4096 - 100, 4096 * 65, 10] {
            assert_eq!(walker.runs(START, len, &mut runs), Ok(len));
            assert!(walker.still_in(START, len, &runs), "{placement:?} {len}");
            assert!(!walker.still_in(START, len + 1, &runs), "more than the runs hold");
            assert!(!walker.still_in(START, len - 1, &runs), "less than the runs hold");
        }
        let len = PAGES * 4096;
        assert_eq!(walker.runs(START, len, &mut runs), Ok(len));
        for nth in CHOSEN {
            let entry = guest.entry(space, Level::Pt, page(nth)).unwrap();
            for (changed, same) in [
                (entry ^ Pte::ACCESSED ^ Pte::DIRTY, true),
                (entry & !Pte::WRITABLE, true),
                (entry ^ 0x1000, false),
                (entry & !Pte::PRESENT, false),
                (entry & !Pte::USER, false),
                (0, false),
            ] {
                guest.set_entry(space, Level::Pt, page(nth), changed);
                assert_eq!(walker.still_in(START, len, &runs), same, "{placement:?}: page {nth} as {changed:#x}");
            }
            guest.set_entry(space, Level::Pt, page(nth), entry);
        }
        assert!(walker.still_in(START, len, &runs));
        let fewer = &runs[..runs.len() - 1];
        assert!(!walker.still_in(START, len, fewer), "a run is missing");
    }
}

#[test]
fn a_range_ends_before_the_first_page_that_a_walk_refuses() {
    for placement in [Placement::Scattered, Placement::Contiguous] {
        let (guest, space) = guest(placement);
        let walker = PageWalker::new(&guest.ram, space.space().with_phys_bits(40)).needing(Rights::USER_WRITE);
        let mut runs = Runs::new();
        for nth in CHOSEN {
            let entry = guest.entry(space, Level::Pt, page(nth)).unwrap();
            for refused in [entry & !Pte::PRESENT, entry & !Pte::USER, entry & !Pte::WRITABLE, entry | 1 << 45, 0] {
                guest.set_entry(space, Level::Pt, page(nth), refused);
                let error = walker.translate(page(nth)).unwrap_err();
                let got = walker.runs(START, PAGES * 4096, &mut runs);
                let right: Result<u64, WalkError> = if nth == 0 { Err(error) } else { Ok(nth * 4096) };
                assert_eq!(got, right, "page {nth} as {refused:#x}");
                assert_eq!(walker.runs(page(nth), 4096, &mut runs), Err(error));
            }
            guest.set_entry(space, Level::Pt, page(nth), entry);
        }
        assert_eq!(walker.runs(START, PAGES * 4096, &mut runs), Ok(PAGES * 4096));
    }
}

#[test]
fn a_block_that_looks_like_one_run_at_its_ends_is_listed_as_it_is() {
    let (guest, space) = guest(Placement::Contiguous);
    let walker = PageWalker::new(&guest.ram, space.space());
    // Whatever the capacity of the list: in order, each page where a translation of its own finds it, up to where the
    // list ends.
    let look = |runs: &[PhysRun], covered: u64| {
        let pages = runs.iter().flat_map(|run| (0..run.len / 4096).map(|nth| run.gpa.wrapping_add(nth * 4096)));
        let mut count = 0;
        for (nth, gpa) in (0..).zip(pages) {
            assert_eq!(gpa, walker.translate(page(nth)).unwrap().gpa, "page {nth} of {PAGES}");
            count += 1;
        }
        assert_eq!(count * 4096, covered);
        assert!(walker.still_in(START, covered, runs));
        covered == PAGES * 4096
    };
    macro_rules! as_it_is {
        ($list:ident) => {{
            let covered = walker.runs(START, PAGES * 4096, &mut $list).unwrap();
            look(&$list, covered)
        }};
    }
    let mut many = Runs::new();
    let mut two = RunList::<2>::new();
    assert!(as_it_is!(many) && many.len() == 1);
    assert!(as_it_is!(two));
    for (one, other) in [(2, 3), (70, 100), (65, 126), (0, 699), (300, 301)] {
        let [first, second] = [one, other].map(|nth| guest.entry(space, Level::Pt, page(nth)).unwrap());
        guest.set_entry(space, Level::Pt, page(one), second);
        guest.set_entry(space, Level::Pt, page(other), first);
        assert!(as_it_is!(many), "{one} and {other}");
        assert!(!as_it_is!(two), "{one} and {other} take more than two runs");
        guest.set_entry(space, Level::Pt, page(one), first);
        guest.set_entry(space, Level::Pt, page(other), second);
    }
}
