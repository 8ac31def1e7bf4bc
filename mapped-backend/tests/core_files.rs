//! Dumps of a guest's memory: found where their headers say, refused with a reason where they are something else.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use common::{PAGE, fd, memfd, pattern};
use vgpu_perception::{Extent, Gpa, PageKind, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_mapped::{CoreError, CoreFile, CoreFormat, CoreLayout};

/// A stretch of RAM: its address and its length.
type Ram = (u64, u64);

/// What byte `gpa` of the guest is.
fn guest_byte(gpa: u64) -> u8 {
    pattern(gpa)
}

fn put(file: &File, at: u64, bytes: &[u8]) {
    file.write_all_at(bytes, at).unwrap();
}

fn put_ram(file: &File, at: u64, (gpa, len): Ram) {
    let bytes: Vec<u8> = (gpa..gpa + len).map(guest_byte).collect();
    put(file, at, &bytes);
}

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    gpa: u64,
    len: u64,
}

impl Segment {
    fn bytes(&self) -> Vec<u8> {
        let Self { kind, offset, gpa, len } = *self;
        let mut header = kind.to_le_bytes().to_vec();
        header.extend(0_u32.to_le_bytes());
        for field in [offset, 0, gpa, len, len, 0] {
            header.extend(field.to_le_bytes());
        }
        header
    }
}

/// The header of an ELF core; the program headers follow it.
fn elf_header(count: u16, section_header: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([4_u16.to_le_bytes(), 62_u16.to_le_bytes()].as_flattened());
    header.extend(1_u32.to_le_bytes());
    for field in [0, 64, section_header] {
        header.extend(u64::to_le_bytes(field));
    }
    header.extend(0_u32.to_le_bytes());
    for field in [64, 56, count, 64, u16::from(section_header != 0), 0] {
        header.extend(u16::to_le_bytes(field));
    }
    assert_eq!(header.len(), 64);
    header
}

fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for field in [name.len(), value.len()] {
        note.extend(u32::try_from(field).unwrap().to_le_bytes());
    }
    note.extend(kind.to_le_bytes());
    for part in [name, value] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// A note of a processor as QEMU writes it.
fn qemu_note(cr3: u64, cr4: u64) -> Vec<u8> {
    let mut state = vec![0; 440];
    state[..8].copy_from_slice(&[1, 0, 0, 0, 0xb8, 1, 0, 0]);
    state[416..424].copy_from_slice(&cr3.to_le_bytes());
    state[424..432].copy_from_slice(&cr4.to_le_bytes());
    note(b"QEMU\0", 0, &state)
}

/// An ELF core of `rams`, one behind the other from `first` on.
fn elf(notes: &[u8], rams: &[Ram], first: u64) -> File {
    let file = memfd(first);
    let count = u16::try_from(rams.len() + 1).unwrap();
    let mut head = elf_header(count, 0);
    let notes_at = 64 + 56 * u64::from(count);
    head.extend(Segment { kind: 4, offset: notes_at, gpa: 0, len: notes.len() as u64 }.bytes());
    let mut at = first;
    for (gpa, len) in rams {
        head.extend(Segment { kind: 1, offset: at, gpa: *gpa, len: *len }.bytes());
        put_ram(&file, at, (*gpa, *len));
        at += len;
    }
    head.extend(notes);
    assert!(head.len() as u64 <= first);
    put(&file, 0, &head);
    file
}

fn lime(rams: &[Ram]) -> File {
    let file = memfd(0);
    let mut at = 0;
    for (gpa, len) in rams {
        let mut header = b"EMiL".to_vec();
        header.extend(1_u32.to_le_bytes());
        for field in [*gpa, gpa + len - 1, 0] {
            header.extend(field.to_le_bytes());
        }
        put(&file, at, &header);
        put_ram(&file, at + 32, (*gpa, *len));
        at += 32 + len;
    }
    file
}

fn open(file: &File) -> Result<CoreFile, CoreError> {
    CoreFile::from_fd(fd(file), "dump")
}

fn check_ram(core: &CoreFile, rams: &[Ram]) {
    let ram = core.ram();
    for (gpa, len) in rams {
        let mut bytes = vec![0; usize::try_from(*len).unwrap()];
        ram.read(Gpa::new(*gpa), &mut bytes).unwrap();
        assert!(bytes.iter().zip(*gpa..).all(|(byte, at)| *byte == guest_byte(at)), "{gpa:#x}");
        for at in [*gpa, gpa + 8, gpa + PAGE - 8, gpa + len - 8] {
            let word: [u8; 8] = core::array::from_fn(|n| guest_byte(at + n as u64));
            assert_eq!(ram.load_u64(Gpa::new(at)), Ok(u64::from_le_bytes(word)), "{at:#x}");
            assert_eq!(ram.load_u32(Gpa::new(at + 4)).unwrap().to_le_bytes(), word[4..], "{at:#x}");
        }
        let run = PhysRun { gpa: Gpa::new(*gpa), len: *len };
        let mut again = vec![0; bytes.len()];
        let hint = vgpu_perception::CopyHint::new(*len, vgpu_perception::NextUse::Unknown);
        ram.read_runs(&[run], &mut again, hint).unwrap();
        assert!(again == bytes, "{gpa:#x}");
        assert_eq!(ram.page_kind(Gpa::new(*gpa)), PageKind::Data);
        assert_eq!(ram.load_u64(Gpa::new(gpa + len)).unwrap_err().kind, PhysErrorKind::Gap, "{gpa:#x}");
    }
}

const RAMS: [Ram; 3] = [(0, 0xa0000), (0x10_0000, 3 << 20), (4 << 30, 2 << 20)];

#[test]
fn an_elf_core_is_read_at_any_offset_that_is_a_multiple_of_8() {
    for first in [0x480, 0x1000, 0x1008, 0x7f8] {
        let notes = [qemu_note(0x1234_5000, 0x6f0), qemu_note(0x2_0000, 0x16f0)].concat();
        let core = open(&elf(&notes, &RAMS, first.max(0x800))).unwrap();
        assert_eq!(core.format(), CoreFormat::Elf);
        check_ram(&core, &RAMS);
        let registers: Vec<(u64, u64)> = core.registers().iter().map(|cpu| (cpu.cr3, cpu.cr4)).collect();
        assert_eq!(registers, [(0x1234_5000, 0x6f0), (0x2_0000, 0x16f0)]);
    }
    check_ram(&open(&elf(&[], &RAMS, 0x480)).unwrap(), &RAMS);
}

#[test]
fn passes_find_whole_pages_of_a_dump_with_holes() {
    // Pages that lie in two pages of the file, the first of which is a hole in places.
    let file = elf(&[], &[(0, 64 << 12)], 0x480);
    let core = open(&file).unwrap();
    assert_eq!(core.ram().next_extent(Gpa::new(0)), Ok(Some(Extent { start: Gpa::new(0), len: 64 << 12 })));
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        16 << 12,
        16 << 12,
    )
    .unwrap();
    // The hole is pages 16..32 of the file: guest pages 15 and 31 have a part in it and a part outside.
    let first = core.ram().next_extent(Gpa::new(0)).unwrap().unwrap();
    assert_eq!((first.start, first.end()), (Gpa::new(0), Gpa::new(16 << 12)));
    let second = core.ram().next_extent(first.end()).unwrap().unwrap();
    assert_eq!((second.start, second.end()), (Gpa::new(31 << 12), Gpa::new(64 << 12)));
    for (page, kind) in [(15, PageKind::Data), (16, PageKind::Hole), (30, PageKind::Hole), (31, PageKind::Data)] {
        assert_eq!(core.ram().page_kind(Gpa::new(page << 12)), kind, "page {page}");
    }
}

#[test]
fn a_lime_dump_is_read() {
    let core = open(&lime(&RAMS)).unwrap();
    assert_eq!((core.format(), core.registers().len()), (CoreFormat::Lime, 0));
    check_ram(&core, &RAMS);
    // A range that is no whole pages counts as far as it has whole ones.
    let core = open(&lime(&[(0x800, 0x2800)])).unwrap();
    let segment = core.ram().map().segments()[0];
    assert_eq!((segment.gpa.get(), segment.len, segment.offset), (0x1000, 0x2000, 32 + 0x800));
}

#[test]
fn segments_that_name_the_same_pages_are_one() {
    // As `dump-guest-memory -p` writes them: by virtual address, the same bytes several times.
    let file = memfd(0x1000);
    put_ram(&file, 0x1000, (0, 0x8000));
    let segments = [(0x1000, 0, 0x4000), (0x3000, 0x2000, 0x6000), (0x1000, 0, 0x1000)];
    let mut head = elf_header(3, 0);
    for (offset, gpa, len) in segments {
        head.extend(Segment { kind: 1, offset, gpa, len }.bytes());
    }
    put(&file, 0, &head);
    let core = open(&file).unwrap();
    assert_eq!(core.ram().map().segments().len(), 1);
    check_ram(&core, &[(0, 0x8000)]);
}

#[test]
fn more_headers_than_16_bits_can_count() {
    let file = memfd(0x1000);
    let mut head = elf_header(0xffff, 0x800);
    head.extend(Segment { kind: 1, offset: 0x1000, gpa: 0x1000, len: 0x2000 }.bytes());
    put(&file, 0, &head);
    let mut section = vec![0; 64];
    section[44] = 1;
    put(&file, 0x800, &section);
    put_ram(&file, 0x1000, (0x1000, 0x2000));
    check_ram(&open(&file).unwrap(), &[(0x1000, 0x2000)]);
}

#[test]
fn a_dump_that_was_cut_off_says_where_it_should_end() {
    let file = elf(&[], &RAMS, 0x480);
    let len = file.metadata().unwrap().len();
    file.set_len(len - 1).unwrap();
    match open(&file).unwrap_err() {
        CoreError::Truncated { needs, len: now } => assert_eq!((needs, now), (len, len - 1)),
        other => panic!("{other}"),
    }
    let file = lime(&RAMS);
    let len = file.metadata().unwrap().len();
    file.set_len(len - 4096).unwrap();
    assert!(matches!(open(&file), Err(CoreError::Truncated { .. })));
    file.set_len(len).unwrap();
    put(&file, len, b"EMiL");
    assert!(matches!(open(&file), Err(CoreError::Truncated { .. })));
}

#[test]
fn the_core_of_a_process_is_refused() {
    let notes = note(b"CORE\0", 3, &[0; 136]);
    assert!(matches!(open(&elf(&notes, &[(0, 0x1000)], 0x480)), Err(CoreError::OfAProcess)));
    // QEMU writes the status of threads as a process's core has it, and its own notes beside.
    let notes = [note(b"CORE\0", 1, &[0; 336]), qemu_note(0x1000, 0)].concat();
    assert!(open(&elf(&notes, &[(0, 0x1000)], 0x800)).is_ok());
}

#[test]
fn what_cannot_be_read_in_place_is_named_with_what_to_do() {
    for (start, name, remedy) in [
        (&b"KDUMP   "[..], "kdump-compressed", "without -z"),
        (b"makedumpfile", "flattened", "dump-guest-memory"),
        (b"QEVM\0\0\0\x03", "savevm", "dump-guest-memory"),
        (b"LibvirtQemudSave", "virsh save", "--memory-only"),
        (b"\x1f\x8b\x08\0", "gzip", "unpack"),
        (b"\xfd7zXZ\0", "xz", "unpack"),
        (b"AVML\x02\0\0\0", "AVML", "avml-convert"),
        (b"PAGEDU64", "crash dump of Windows", "ELF core"),
        (b"\xd2\xbe\xd2\xbe", "VMware", "ELF core"),
        (b"\x7fVirtualBox SavedState V2.0", "VirtualBox", "ELF core"),
    ] {
        let file = memfd(8192);
        put(&file, 0, start);
        let told = open(&file).unwrap_err().to_string();
        assert!(told.contains(name) && told.contains(remedy), "{start:?}: {told}");
    }
    let file = memfd(8192);
    put(&file, 0, b"nothing of that");
    assert!(matches!(open(&file), Err(CoreError::Unknown)));
}

#[test]
fn headers_that_cannot_be_are_refused_with_the_value() {
    let damaged = |at: usize, bytes: &[u8]| {
        let file = elf(&[], &[(0x1000, 0x3000)], 0x480);
        put(&file, at as u64, bytes);
        open(&file).unwrap_err()
    };
    assert!(matches!(damaged(4, &[1]), CoreError::NotACore { .. }), "32 bits");
    assert!(matches!(damaged(5, &[2]), CoreError::NotACore { .. }), "big-endian");
    assert!(matches!(damaged(16, &[2]), CoreError::NotACore { .. }), "a program");
    assert!(matches!(damaged(18, &[183]), CoreError::NotACore { .. }), "AArch64");
    assert!(matches!(damaged(32, &[0xff; 8]), CoreError::Bad { .. }), "program headers beyond 2^64");
    assert!(matches!(damaged(54, &[55]), CoreError::Bad { value: 55, .. }), "their size");
    let load = 64 + 56;
    assert!(matches!(damaged(load + 8, &0x484_u64.to_le_bytes()), CoreError::Bad { value: 0x484, .. }), "offset");
    assert!(matches!(damaged(load + 8, &u64::MAX.to_le_bytes()), CoreError::Bad { .. }), "past 2^64");
    assert!(matches!(damaged(load + 32, &(1_u64 << 40).to_le_bytes()), CoreError::Truncated { .. }), "its length");
    assert!(matches!(damaged(load + 24, &(1_u64 << 60).to_le_bytes()), CoreError::Map(_)), "its address");
    assert!(matches!(damaged(load, &[0; 4]), CoreError::Bad { value: 0, .. }), "no memory");
    let file = lime(&[(0x1000, 0x1000), (0x4000, 0x1000)]);
    put(&file, 32 + 0x1000 + 4, &[2]);
    assert!(matches!(open(&file), Err(CoreError::Bad { value: 2, .. })));
    put(&file, 32 + 0x1000, b"EMiX");
    assert!(matches!(open(&file), Err(CoreError::Bad { .. })));
    let file = lime(&[(0x1000, 0x1000)]);
    put(&file, 16, &0xfff_u64.to_le_bytes());
    assert!(matches!(open(&file), Err(CoreError::Bad { value: 0xfff, .. })));
}

#[test]
fn headers_are_read_from_memory_as_from_a_file() {
    let file = lime(&RAMS[..1]);
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let layout = CoreLayout::read(bytes.as_slice(), bytes.len() as u64).unwrap();
    assert_eq!((layout.format, layout.map.ram_bytes()), (CoreFormat::Lime, 0xa0000));
}
