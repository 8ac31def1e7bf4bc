//! Memory of another process, read as a guest's RAM.

mod common;

use common::{PAGE, Private, Vmm, child, memory_of, pattern, pattern_bytes, say, told_to_go_on};
use core::sync::atomic::Ordering;
use vgpu_perception::{CopyHint, Extent, Gpa, NextUse, PageKind, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_process::{OpenError, Piece, Process, ProcessOptions, ProcessRam};

const RAM: u64 = 64 << 20;
/// What of it is written: address and length.
const WRITTEN: [(u64, u64); 3] = [(0, 3 * PAGE), (16 << 20, 300 * PAGE), (40 << 20, PAGE)];

fn vmm() {
    let memory = Private::new(RAM);
    for (start, len) in WRITTEN {
        memory.fill(start, len);
    }
    say(&[memory.addr()]);
    while told_to_go_on() {}
}

fn start(name: &str) -> (Vmm, u64) {
    let mut vmm = Vmm::start(name);
    let addr = vmm.hear()[0];
    (vmm, addr)
}

/// The memory with a gap in the middle, and its upper half at 4 GiB.
fn split(addr: u64) -> [Piece; 2] {
    [
        Piece { gpa: Gpa::new(4 << 30), len: RAM / 2, host_addr: addr + RAM / 2 },
        Piece { gpa: Gpa::new(0), len: RAM / 2, host_addr: addr },
    ]
}

#[test]
fn bytes_words_lines_and_runs_are_those_of_the_process() {
    child(vmm);
    let (vmm, addr) = start("bytes_words_lines_and_runs_are_those_of_the_process");
    let ram = vmm.ram(&split(addr));
    assert_eq!((ram.end().get(), ram.pieces().len()), ((4 << 30) + RAM / 2, 2));
    let upper = (4 << 30) + (8 << 20);
    for (gpa, at) in [(0, 0), (0x1ff8, 0x1ff8), ((16 << 20) + 0x5008, (16 << 20) + 0x5008), (upper + 8, (40 << 20) + 8)]
    {
        assert_eq!(ram.load_u64(Gpa::new(gpa)), Ok(pattern(at)), "{gpa:#x}");
        assert_eq!(ram.load_u32(Gpa::new(gpa + 4)), Ok((pattern(at) >> 32) as u32), "{gpa:#x}");
        assert_eq!(ram.load_u64(Gpa::new(gpa + 4)).unwrap_err().kind, PhysErrorKind::Misaligned);
    }
    let mut table = [0; 512];
    ram.load_words(Gpa::new((16 << 20) + PAGE), &mut table).unwrap();
    assert!((0..512).all(|n| table[n as usize] == pattern((16 << 20) + PAGE + n * 8)));
    let mut bytes = vec![0xaa; 5 * 4096];
    ram.read(Gpa::new((16 << 20) + 5), &mut bytes).unwrap();
    assert!(bytes == pattern_bytes((16 << 20) + 5, bytes.len()));

    // More lines than one call takes, with a page that was never written and a gap among them.
    let page = |n: u64| Gpa::new((16 << 20) + n % 300 * PAGE + n % 63 * 64);
    let mut at: Vec<Gpa> = (0..1500).map(page).collect();
    at[700] = Gpa::new(20 << 20);
    at[1400] = Gpa::new(RAM / 2);
    let mut lines = vec![[7; 8]; at.len()];
    assert_eq!(ram.load_lines(&at, &mut lines), Ok(1400));
    for (n, (gpa, line)) in at.iter().zip(&lines).take(1400).enumerate() {
        let expected = core::array::from_fn(|word| if n == 700 { 0 } else { pattern(gpa.get() + word as u64 * 8) });
        assert_eq!(*line, expected, "line {n}");
    }
    assert_eq!(ram.load_lines(&at[1401..], &mut lines), Ok(99));
    assert_eq!(ram.load_lines(&[], &mut lines), Ok(0));

    // Runs in any order, over pages that were never written, joined to one buffer.
    let runs: Vec<PhysRun> = (0..1200)
        .map(|n| PhysRun { gpa: Gpa::new((16 << 20) + (n * 7) % 299 * PAGE + 8), len: PAGE - 16 })
        .chain([PhysRun { gpa: Gpa::new((16 << 20) - PAGE), len: 3 * PAGE }])
        .collect();
    let len: u64 = runs.iter().map(|run| run.len).sum();
    let mut frame = vec![0xaa; len as usize];
    ram.read_runs(&runs, &mut frame, CopyHint::new(len, NextUse::Unknown)).unwrap();
    let mut rest = frame.as_slice();
    for run in &runs[..1200] {
        let (part, after) = rest.split_at(run.len as usize);
        assert!(part == pattern_bytes(run.gpa.get(), part.len()));
        rest = after;
    }
    assert!(rest[..4096].iter().all(|byte| *byte == 0) && rest[4096..] == pattern_bytes(16 << 20, 8192));
    let hint = CopyHint::new(len, NextUse::Unknown);
    for wrong in [frame.len() - 1, frame.len() + 1] {
        let error = ram.read_runs(&runs, &mut vec![0; wrong], hint).unwrap_err();
        assert_eq!(error.kind, PhysErrorKind::BadLength);
    }
}

#[test]
fn gaps_are_errors_and_name_their_first_byte() {
    child(vmm);
    let (vmm, addr) = start("gaps_are_errors_and_name_their_first_byte");
    let ram = vmm.ram(&split(addr));
    let error = ram.read(Gpa::new(RAM / 2 - 8), &mut [0; 16]).unwrap_err();
    assert_eq!((error.gpa.get(), error.kind), (RAM / 2, PhysErrorKind::Gap));
    for gpa in [RAM / 2, (4 << 30) - 8, (4 << 30) + RAM / 2, u64::MAX - 7] {
        assert_eq!(ram.load_u64(Gpa::new(gpa)).unwrap_err().kind, PhysErrorKind::Gap, "{gpa:#x}");
        assert_eq!(ram.page_kind(Gpa::new(gpa & !0xfff)), PageKind::Gap);
    }
}

fn extents(ram: &ProcessRam) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for extent in ram.extents() {
        let Extent { start, len } = extent.unwrap();
        match found.last_mut() {
            Some((at, bytes)) if *at + *bytes == start.get() => *bytes += len,
            _ => found.push((start.get(), len)),
        }
    }
    found
}

#[test]
fn what_was_never_written_is_skipped_and_never_touched() {
    child(vmm);
    let (vmm, addr) = start("what_was_never_written_is_skipped_and_never_touched");
    let before = memory_of(vmm.pid(), addr);
    let ram = vmm.ram(&split(addr));
    assert_eq!(extents(&ram), [(0, 3 * PAGE), (16 << 20, 300 * PAGE), ((4 << 30) + (8 << 20), PAGE)]);
    let inside = ram.next_extent(Gpa::new((16 << 20) + 5)).unwrap().unwrap();
    let end = (16 << 20) + 300 * PAGE;
    assert_eq!(inside.start, Gpa::new((16 << 20) + 5));
    assert!(inside.end().get() > inside.start.get() && inside.end().get() <= end, "{inside:?}: part of what is there");
    let mut all = vec![1; RAM as usize / 2];
    ram.read(Gpa::new(0), &mut all).unwrap();
    assert!(all[..4096] == pattern_bytes(0, 4096) && all[3 * 4096..16 << 20].iter().all(|byte| *byte == 0));
    for page in (0..RAM / 2).step_by(PAGE as usize) {
        let written = WRITTEN.iter().any(|(start, len)| (*start..start + len).contains(&page));
        let kind = if written { PageKind::Data } else { PageKind::Hole };
        assert_eq!(ram.page_kind(Gpa::new(page)), kind, "{page:#x}");
        assert_eq!(ram.load_u64(Gpa::new(page)), Ok(if written { pattern(page) } else { 0 }));
        let mut line = [[1; 8]];
        assert_eq!(ram.load_lines(&[Gpa::new(page)], &mut line), Ok(1));
        assert_eq!(line[0][0], if written { pattern(page) } else { 0 });
    }
    ram.revalidate().unwrap();
    assert_eq!(memory_of(vmm.pid(), addr), before, "pages that are present, and page tables");
}

/// A pass is told what the page map said when it came there; the next pass asks anew.
#[test]
fn what_is_written_later_is_in_the_next_pass() {
    let vmm_that_writes = || {
        let memory = Private::new(RAM);
        memory.word(0).store(1, Ordering::Relaxed);
        say(&[memory.addr()]);
        told_to_go_on();
        memory.word(1 << 20).store(1, Ordering::Relaxed);
        say(&[0]);
        while told_to_go_on() {}
    };
    child(vmm_that_writes);
    let mut vmm = Vmm::start("what_is_written_later_is_in_the_next_pass");
    let addr = vmm.hear()[0];
    let ram = vmm.ram(&split(addr));
    assert_eq!(extents(&ram), [(0, PAGE)]);
    vmm.go_on();
    vmm.hear();
    assert_eq!(extents(&ram), [(0, PAGE), (1 << 20, PAGE)]);
}

#[test]
fn what_is_written_later_is_seen_at_once() {
    let vmm_that_writes = || {
        let memory = Private::new(RAM);
        memory.word(0).store(1, Ordering::Relaxed);
        say(&[memory.addr()]);
        while told_to_go_on() {
            memory.word(8 << 20).fetch_add(5, Ordering::Relaxed);
            say(&[0]);
        }
    };
    child(vmm_that_writes);
    let (mut vmm, addr) = start("what_is_written_later_is_seen_at_once");
    let ram = vmm.ram(&split(addr));
    for expected in [0, 5, 10] {
        assert_eq!(ram.load_u64(Gpa::new(8 << 20)), Ok(expected));
        vmm.go_on();
        vmm.hear();
    }
}

#[test]
fn pieces_that_cannot_be_are_refused_with_the_piece() {
    child(vmm);
    let (vmm, addr) = start("pieces_that_cannot_be_are_refused_with_the_piece");
    let open = |pieces: &[Piece]| ProcessRam::open(vmm.pid(), pieces, ProcessOptions::new()).unwrap_err();
    let piece = |gpa, len, host_addr| Piece { gpa: Gpa::new(gpa), len, host_addr };
    assert!(matches!(open(&[]), OpenError::PieceCount { count: 0 }));
    for (odd, field) in [
        (piece(1, PAGE, addr), "guest physical address"),
        (piece(0, 0, addr), "length"),
        (piece(0, PAGE + 8, addr), "length"),
        (piece(0, PAGE, addr + 8), "address"),
        (piece((1 << 52) - PAGE, 2 * PAGE, addr), "guest physical address"),
        (piece(0, PAGE, u64::MAX - 4095), "address"),
    ] {
        match open(&[odd]) {
            OpenError::BadPiece { piece, field: told } => assert_eq!((piece, told), (odd, field)),
            other => panic!("{odd}: {other}"),
        }
    }
    let (lower, upper) = (piece(0, 2 * PAGE, addr), piece(PAGE, PAGE, addr));
    assert!(matches!(open(&[upper, lower]), OpenError::Overlap { lower: a, upper: b } if (a, b) == (lower, upper)));
    let outside = piece(0, PAGE, 0x1000);
    match open(&[outside]) {
        OpenError::NotMapped { addr, piece, .. } => assert_eq!((addr, piece), (0x1000, outside)),
        other => panic!("{other}"),
    }
    let unwritten = piece(0, PAGE, addr + (50 << 20));
    assert!(matches!(open(&[unwritten]), OpenError::Empty { .. }));
    let empty = ProcessRam::open(vmm.pid(), &[unwritten], ProcessOptions::new().allow_empty()).unwrap();
    assert_eq!(empty.next_extent(Gpa::new(0)), Ok(None));
}

#[test]
fn a_process_that_is_none_is_named() {
    assert!(matches!(Process::open(0), Err(OpenError::NoSuchProcess { pid: 0 })));
    assert!(matches!(Process::open(u32::MAX), Err(OpenError::NoSuchProcess { .. })));
    // More than Linux ever gives (`PID_MAX_LIMIT`).
    assert!(matches!(Process::open(1 << 22), Err(OpenError::NoSuchProcess { .. })));
    let thread = std::thread::spawn(|| {
        let name = std::fs::read_link("/proc/thread-self").unwrap();
        let tid = name.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Process::open(tid).map(|_| ())
    });
    assert!(matches!(thread.join().unwrap(), Err(OpenError::NotAProcess { .. })));
}
