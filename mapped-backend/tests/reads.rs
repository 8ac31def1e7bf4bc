//! What a read of mapped guest RAM gives: words, bytes, holes, edges, and a writer that does not wait.

mod common;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use common::{PAGE, filled, memfd, pattern, ram};
use memmap2::MmapRaw;
use vgpu_perception::{CopyHint, Gpa, NextUse, PhysError, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_testkit::Rng;

fn gpa(raw: u64) -> Gpa {
    Gpa::new(raw)
}

fn error<T>(at: u64, kind: PhysErrorKind) -> Result<T, PhysError> {
    Err(PhysError::new(gpa(at), kind))
}

/// Two files, four segments; the third and the fourth touch, holes around the others.
fn scattered() -> GuestRam {
    let one = filled(8 * PAGE, pattern);
    let two = filled(4 * PAGE, |at| pattern(at + 100 * PAGE));
    ram(&[&one, &two], "0:8K:4K, 64K:4K:0, 1M:8K:16K:0, 0x102000:16K:0:1")
}

/// The byte that belongs at `at` in [`scattered`].
fn truth(at: u64) -> Option<u8> {
    match at {
        0..0x2000 => Some(pattern(at + 0x1000)),
        0x1_0000..0x1_1000 => Some(pattern(at - 0x1_0000)),
        0x10_0000..0x10_2000 => Some(pattern(at - 0x10_0000 + 0x4000)),
        0x10_2000..0x10_6000 => Some(pattern(at - 0x10_2000 + 100 * PAGE)),
        _ => None,
    }
}

#[test]
fn words_are_little_endian_and_aligned() {
    let ram = scattered();
    for at in (0..0x10_6010).step_by(4) {
        let bytes: Option<Vec<u8>> = (at..at + 4).map(truth).collect();
        match bytes {
            Some(bytes) => assert_eq!(ram.load_u32(gpa(at)), Ok(u32::from_le_bytes(bytes.try_into().unwrap()))),
            None => assert_eq!(ram.load_u32(gpa(at)), error(at, PhysErrorKind::Gap)),
        }
        if at % 8 == 0 {
            let bytes: Option<Vec<u8>> = (at..at + 8).map(truth).collect();
            match bytes {
                Some(bytes) => assert_eq!(ram.load_u64(gpa(at)), Ok(u64::from_le_bytes(bytes.try_into().unwrap()))),
                None => assert_eq!(ram.load_u64(gpa(at)), error(at, PhysErrorKind::Gap)),
            }
        }
    }
    assert_eq!(ram.load_u32(gpa(2)), error(2, PhysErrorKind::Misaligned));
    assert_eq!(ram.load_u64(gpa(4)), error(4, PhysErrorKind::Misaligned));
    assert_eq!(ram.load_words(gpa(12), &mut [0]), error(12, PhysErrorKind::Misaligned));
    assert_eq!(ram.load_u64(gpa(u64::MAX - 7)), error(u64::MAX - 7, PhysErrorKind::Gap));
}

#[test]
fn words_cross_from_one_segment_to_its_neighbour() {
    let ram = scattered();
    let mut words = [0; 16];
    ram.load_words(gpa(0x10_1fc0), &mut words).unwrap();
    for (index, word) in words.into_iter().enumerate() {
        assert_eq!(Ok(word), ram.load_u64(gpa(0x10_1fc0 + 8 * index as u64)));
    }
    assert_eq!(ram.load_words(gpa(0x1fc0), &mut words), error(0x2000, PhysErrorKind::Gap));
    assert_eq!(ram.load_words(gpa(0x1fc0), &mut []), Ok(()));
}

#[test]
fn columns_are_what_single_words_are_or_their_first_error() {
    let ram = scattered();
    assert_eq!(ram.ram_end(), gpa(0x10_6000));
    let mut numbers = Rng::new(3);
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..20_000 {
        let base = [0, 0x1_0000, 0x10_0000, 0x10_2000, u64::MAX - 0x1fff][numbers.below(5) as usize];
        let stride = [8, 0x400, PAGE, 0, 12, u64::MAX - 7][numbers.below(6) as usize];
        let low = base.wrapping_add(numbers.below(0x400) * 8);
        let high = [low, low.wrapping_add(120), low.wrapping_add(numbers.below(0x1004))][numbers.below(3) as usize];
        let at = if numbers.below(2) == 0 { [low, high] } else { [high, low] };
        let mut words = vec![[0; 2]; numbers.below(9) as usize];
        let mut right = Ok(Vec::new());
        let mut here = at;
        for _ in 0..words.len() {
            let row = ram.load_u64(gpa(here[0])).and_then(|one| Ok([one, ram.load_u64(gpa(here[1]))?]));
            match (&mut right, row) {
                (Ok(rows), Ok(row)) => rows.push(row),
                (Ok(_), Err(error)) => right = Err(error),
                (Err(_), _) => {}
            }
            here = here.map(|at| at.wrapping_add(stride));
        }
        match (ram.load_columns(at.map(gpa), stride, &mut words), right) {
            (Ok(()), Ok(right)) => {
                assert_eq!(words, right, "{at:x?}, {stride:#x} apart");
                whole += 1;
            }
            (result, right) => {
                assert_eq!(result, right.map(drop), "{at:x?}, {stride:#x} apart");
                broken += 1;
            }
        }
    }
    assert!(whole > 2000 && broken > 2000, "{whole} whole, {broken} broken");
}

#[test]
fn any_range_is_read_whole_or_names_its_first_hole() {
    let ram = scattered();
    let mut numbers = Rng::new(1);
    for _ in 0..20_000 {
        let base = [0, 0x1_0000, 0x10_0000, 0x10_2000][numbers.below(4) as usize];
        let at = base + numbers.below(0x2000);
        let len = if numbers.below(2) == 0 { numbers.below(200) } else { numbers.below(0x5000) };
        let mut dst = vec![0xa5; len as usize];
        match (at..at + len).find(|at| truth(*at).is_none()) {
            Some(bad) => assert_eq!(ram.read(gpa(at), &mut dst), error(bad, PhysErrorKind::Gap)),
            None => {
                ram.read(gpa(at), &mut dst).unwrap();
                let right: Vec<u8> = (at..at + len).filter_map(truth).collect();
                assert_eq!(dst, right, "{len} bytes at {at:#x}");
            }
        }
    }
    assert_eq!(ram.read(gpa(0x5000), &mut []), Ok(()), "no bytes are in no hole");
    assert_eq!(ram.read(gpa(u64::MAX), &mut [0; 2]), error(u64::MAX, PhysErrorKind::Gap));
}

/// What every hint can say of a transfer, from one that fits a cache to one that fits none.
const HINTS: [CopyHint; 5] = [
    CopyHint::new(0, NextUse::Unknown),
    CopyHint::new(8 << 20, NextUse::ReadSoon),
    CopyHint::new(8 << 20, NextUse::Handoff),
    CopyHint::new(1 << 40, NextUse::ReadSoon),
    CopyHint::new(u64::MAX, NextUse::Unknown),
];

#[test]
fn runs_are_read_in_order_whatever_the_hint() {
    let one = filled(256 * PAGE, pattern);
    let two = filled(64 * PAGE, |at| pattern(at + 1000 * PAGE));
    let ram = ram(&[&one, &two], "0:512K:0, 512K:256K:0:1, 4G:512K:512K");
    let truth = |at: u64| match at {
        0..0x8_0000 => pattern(at),
        0x8_0000..0xc_0000 => pattern(at - 0x8_0000 + 1000 * PAGE),
        _ => pattern(at - (4 << 30) + 0x8_0000),
    };
    let mut rng = Rng::new(3);
    let mut shapes: Vec<Vec<PhysRun>> = vec![vec![], vec![PhysRun { gpa: gpa(5), len: 0 }]];
    for round in 0..60 {
        // Single bytes, pages, fragments, and more runs than are gathered at once; some cross from segment to segment.
        let longest = [70, PAGE, 17 * PAGE, 0x6_0000][round % 4];
        let runs = [40, 700, 30, 6][round % 4];
        let mut run = || {
            let len = if round % 8 < 4 { longest } else { rng.below(longest) };
            let start = if rng.one_in(2) { 4 << 30 } else { 0 };
            let end = if start == 0 { 0xc_0000 } else { 0x8_0000 };
            let mut at = start + rng.below(end - len);
            if rng.one_in(2) {
                at &= !(PAGE - 1);
            }
            PhysRun { gpa: gpa(at), len }
        };
        shapes.push((0..runs).map(|_| run()).collect());
    }
    for runs in shapes {
        let right: Vec<u8> = runs.iter().flat_map(|run| run.gpa.get()..run.gpa.get() + run.len).map(truth).collect();
        for hint in HINTS {
            let mut dst = vec![0xa5; right.len()];
            ram.read_runs(&runs, &mut dst, hint).unwrap();
            assert!(dst == right, "{} runs, {} bytes, {hint:?}", runs.len(), right.len());
        }
    }
}

#[test]
fn runs_that_cannot_be_read_are_refused() {
    let file = filled(64 * PAGE, pattern);
    let ram = ram(&[&file], "0:256K:0");
    for pages in [2, 60] {
        let len = pages * PAGE;
        let good = PhysRun { gpa: gpa(0), len };
        for hint in HINTS {
            let mut dst = vec![0; 2 * len as usize];
            let two = [good, PhysRun { gpa: gpa(PAGE), len }];
            assert_eq!(ram.read_runs(&two, &mut dst, hint), Ok(()));
            assert_eq!(ram.read_runs(&[good], &mut dst, hint), error(0, PhysErrorKind::BadLength), "too few runs");
            let three = [good, good, PhysRun { gpa: gpa(3 * PAGE), len }];
            let long = ram.read_runs(&three, &mut dst, hint);
            assert_eq!(long, error(3 * PAGE, PhysErrorKind::BadLength), "the run that does not fit");
            let endless = [PhysRun { gpa: gpa(PAGE), len: u64::MAX }];
            assert_eq!(ram.read_runs(&endless, &mut dst, hint), error(PAGE, PhysErrorKind::BadLength));
            let past = [good, PhysRun { gpa: gpa(63 * PAGE), len }];
            assert_eq!(ram.read_runs(&past, &mut dst, hint), error(64 * PAGE, PhysErrorKind::Gap));
        }
    }
}

#[test]
fn a_segment_may_end_where_addresses_end() {
    let file = filled(PAGE, pattern);
    let ram = ram(&[&file], "0xffffffffff000:4K:0");
    let end = 1_u64 << 52;
    let mut dst = [0; 16];
    ram.read(gpa(end - 16), &mut dst).unwrap();
    assert_eq!(dst[15], pattern(PAGE - 1));
    let mut past = [0; 32];
    assert_eq!(ram.read(gpa(end - 16), &mut past), error(end, PhysErrorKind::Gap));
    assert_eq!(ram.next_extent(gpa(end - 1)).unwrap().unwrap().len, 1);
}

#[test]
fn two_loads_are_two_loads_of_the_file() {
    let file = filled(PAGE, |_| 0);
    let ram = ram(&[&file], "0:4K:0");
    for value in 1..100_u64 {
        file.write_all_at(&value.to_le_bytes(), 64).unwrap();
        assert_eq!(ram.load_u64(gpa(64)), Ok(value));
    }
}

#[test]
fn a_window_is_an_address_inside_one_segment() {
    let ram = scattered();
    let window = ram.window(gpa(0x1ff0), 16).unwrap();
    assert_eq!((window.len(), window.as_ptr().addr() % 4096), (16, 0xff0));
    assert!(ram.window(gpa(0x1ff0), 17).is_none(), "past the segment");
    assert!(ram.window(gpa(0x10_1ff0), 32).is_none(), "neighbours in the guest, not in the host");
    assert!(ram.window(gpa(0x5000), 1).is_none());
}

#[test]
fn volatile_access_is_typed_and_checked() {
    let file = filled(PAGE, |_| 0);
    let ram = ram(&[&file], "0:4K:0");
    assert_eq!(ram.volatile_read::<u64>(gpa(8)), Ok(0));
    file.write_all_at(&7_u64.to_ne_bytes(), 8).unwrap();
    assert_eq!(ram.volatile_read::<u64>(gpa(8)), Ok(7));
    assert_eq!(ram.volatile_read::<u64>(gpa(4)).unwrap_err().kind, PhysErrorKind::Misaligned);
    assert_eq!(ram.volatile_read::<u64>(gpa(PAGE)).unwrap_err().kind, PhysErrorKind::Gap);
    assert_eq!(
        ram.volatile_read::<[u8; 16]>(gpa(PAGE - 8)).unwrap_err(),
        PhysError::new(gpa(PAGE), PhysErrorKind::Gap)
    );
}

#[test]
fn prefetch_takes_any_address() {
    let ram = scattered();
    for at in [0, 0x1fff, 0x2000, 0x5000, u64::MAX] {
        ram.prefetch(gpa(at));
    }
}

/// A word that is only ever one of `n * 0x0101…`: a torn one shows.
fn even(word: u64) -> bool {
    word == (word & 0xff) * 0x0101_0101_0101_0101
}

#[test]
fn a_racing_writer_never_shows_half_a_word() {
    let file = memfd(4 * PAGE);
    file.write_all_at(&[0; 4 * PAGE as usize], 0).unwrap();
    let ram = ram(&[&file], "0:16K:0");
    let theirs = MmapRaw::map_raw(&file).unwrap();
    let words = theirs.len() / 8;
    let base = theirs.as_mut_ptr().expose_provenance();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                value = (value + 1) & 0xff;
                for word in 0..words {
                    let at = core::ptr::with_exposed_provenance_mut::<u64>(base + 8 * word);
                    // SAFETY: inside the writable mapping, aligned, and only ever accessed as whole words by this
                    // process.
                    let shared = unsafe { AtomicU64::from_ptr(at) };
                    shared.store(value * 0x0101_0101_0101_0101, Ordering::Relaxed);
                }
            }
        });
        let mut line = [0; 16];
        let mut seen = BTreeSet::new();
        let mut rounds = 0;
        // Until the writer was seen at work; a writer that never runs would be a test that proves nothing.
        while rounds < 20_000 || seen.len() < 3 {
            let at = gpa(8 * (rounds % (words as u64 - 16)));
            let word = ram.load_u64(at).unwrap();
            assert!(even(word), "{word:#x}");
            let half = ram.load_u32(at).unwrap();
            assert!(even(u64::from(half) << 32 | u64::from(half)), "{half:#x}");
            ram.load_words(at, &mut line).unwrap();
            assert!(line.into_iter().all(even), "{line:x?}");
            seen.insert(word);
            rounds += 1;
        }
        let mut frame = vec![0; 4 * PAGE as usize];
        for _ in 0..200 {
            ram.read(gpa(0), &mut frame).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&ram);
}

/// What is given at once is what a load gives; where it is not given, nothing is said.
#[test]
fn a_word_at_once_is_the_word_or_nothing() {
    let file = filled(6 * PAGE, pattern);
    let ram = ram(&[&file], "0:8K:0, 64K:8K:8K, 1M:8K:16K");
    for (start, at_once) in [(0, true), (64 << 10, true), (1 << 20, false)] {
        for at in (start..start + 2 * PAGE).step_by(8).map(Gpa::new) {
            assert_eq!(ram.load_at_once(at), ram.load_u64(at).ok().filter(|_| at_once), "{at}");
        }
    }
    for nowhere in [4, 2 * PAGE, (64 << 10) - 8, (64 << 10) + 2 * PAGE, u64::MAX - 7] {
        assert_eq!(ram.load_at_once(Gpa::new(nowhere)), None, "{nowhere:#x}");
    }
}
