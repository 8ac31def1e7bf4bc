//! Discovery and snapshots through `GuestMemoryMmap`, across a hole.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use vgpu_perception::process::roots::KernelHalf;
use vgpu_perception::region::{FrameScratch, Liveness, Sample};
use vgpu_perception::scan::Candidate;
use vgpu_perception::{Gpa, NextUse, PhysErrorKind, PhysRead};
use vgpu_perception_testkit::linux::{LinuxOptions, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Field, Ram, candidates};
use vgpu_perception_vm_memory::VmMemory;
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

type Memory = GuestMemoryMmap<()>;

fn ranges(ram: &Ram) -> Vec<(GuestAddress, usize)> {
    ram.segments().iter().map(|extent| (GuestAddress(extent.start.get()), extent.len as usize)).collect()
}

/// Copies a synthetic guest into memory that a hypervisor would have made.
fn fill(memory: &Memory, ram: &Ram) {
    for gpa in ram.present_pages() {
        memory.write_slice(&ram.bytes(gpa, 4096), GuestAddress(gpa.get())).unwrap();
    }
}

fn source(linux: &StandardLinux) -> KernelHalf {
    KernelHalf::new(linux.kernel.init.space())
}

#[test]
fn a_live_region_is_found_and_read_across_a_hole() {
    let linux = standard_linux(LinuxOptions::default());
    let (ram, region) = (&linux.guest.ram, &linux.region);
    assert_eq!(ram.segments().len(), 2, "RAM on both sides of a hole");
    let memory = Memory::from_ranges(&ranges(ram)).unwrap();
    fill(&memory, ram);
    // As an embedder has it that knows only a `GuestMemory`.
    let adapter = VmMemory::of(&memory).unwrap();
    let found = candidates(&adapter, source(&linux));
    assert_eq!(found.len(), 2, "the producer's and the forged one: {found:?}");
    let place = |candidate: &&Candidate<_>| candidate.process.space.root.table() == region.space.root;
    let real = *found.iter().find(place).unwrap();
    assert_eq!(real.base, region.base);

    let mut handle = real.region();
    let before = handle.read_pulse(&adapter).unwrap().fresh().unwrap();
    assert!(matches!(handle.confirm_alive(&adapter, before), Ok(Liveness::Stale(_))));
    let heartbeat = GuestAddress(region.gpa(Field::HEARTBEAT.offset).unwrap().get());
    memory.store(before.heartbeat + 1, heartbeat, core::sync::atomic::Ordering::Release).unwrap();
    assert!(matches!(handle.confirm_alive(&adapter, before), Ok(Liveness::Alive(_))));

    let mut frame = vec![0; 64 * 48 * 4];
    let sample = handle.sample_frame(&adapter, &mut FrameScratch::new(), &mut frame, NextUse::ReadSoon).unwrap();
    let Sample::Fresh(info) = sample else { panic!("{sample:?}") };
    assert_eq!(info.desc.frame_id, region.image.frames);
    assert_eq!(frame, region.image.pixels(region.image.frames));
    let cursor = handle.read_cursor(&adapter).unwrap().fresh().unwrap();
    assert_eq!((cursor.x, cursor.y), (17, -5));
}

#[test]
fn holes_are_errors_and_neighbours_are_one() {
    let page = 4096_u64;
    let memory = Memory::from_ranges(&[
        (GuestAddress(0), 2 * page as usize),
        (GuestAddress(2 * page), page as usize),
        (GuestAddress(8 * page), page as usize),
    ])
    .unwrap();
    let ram = VmMemory::new(&memory);
    let bytes: Vec<u8> = (0..64).collect();
    memory.write_slice(&bytes, GuestAddress(2 * page - 32)).unwrap();
    for skew in 0..9 {
        let mut copy = vec![0; 64 - 2 * skew];
        ram.read(Gpa::new(2 * page - 32 + skew as u64), &mut copy).unwrap();
        assert_eq!(copy, bytes[skew..64 - skew], "{skew}");
    }
    let mut words = [0; 8];
    ram.load_words(Gpa::new(2 * page - 32), &mut words).unwrap();
    assert_eq!(words[4].to_le_bytes(), bytes[32..40]);
    assert_eq!(ram.load_u32(Gpa::new(2 * page)).unwrap().to_le_bytes(), bytes[32..36]);

    let kind =
        |result: Result<(), _>| result.map_err(|error: vgpu_perception::PhysError| (error.gpa.get(), error.kind));
    assert_eq!(kind(ram.read(Gpa::new(3 * page - 8), &mut [0; 16])), Err((3 * page, PhysErrorKind::Gap)));
    assert_eq!(kind(ram.read(Gpa::new(5 * page), &mut [0; 16])), Err((5 * page, PhysErrorKind::Gap)));
    assert_eq!(kind(ram.read(Gpa::new(u64::MAX - 3), &mut [0; 16])), Err((u64::MAX - 3, PhysErrorKind::Gap)));
    assert_eq!(kind(ram.load_words(Gpa::new(9 * page - 8), &mut words)), Err((9 * page, PhysErrorKind::Gap)));
    assert_eq!(kind(ram.load_u64(Gpa::new(4)).map(|_| ())), Err((4, PhysErrorKind::Misaligned)));
    assert_eq!(kind(ram.load_u32(Gpa::new(2)).map(|_| ())), Err((2, PhysErrorKind::Misaligned)));
    assert!(ram.read(Gpa::new(5 * page), &mut []).is_ok());

    let extent = |from: u64| ram.next_extent(Gpa::new(from)).unwrap().map(|found| (found.start.get(), found.len));
    assert_eq!(extent(page + 1), Some((page + 1, page - 1)));
    assert_eq!(extent(3 * page), Some((8 * page, page)));
    assert_eq!(extent(9 * page), None);
}

#[test]
fn holes_of_a_file_stay_holes() {
    let linux = standard_linux(LinuxOptions::default());
    let path = std::env::temp_dir().join(format!("vgpu-vm-memory-{}", std::process::id()));
    let segments = linux.guest.ram.to_file(&path).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let ranges: Vec<_> = segments
        .iter()
        .map(|segment| {
            let at = FileOffset::new(file.try_clone().unwrap(), segment.offset);
            (GuestAddress(segment.gpa.get()), segment.len as usize, Some(at))
        })
        .collect();
    let memory = Memory::from_ranges_with_files(&ranges).unwrap();
    let ram = VmMemory::new(&memory);
    let before = file.metadata().unwrap().blocks();
    assert_eq!(
        ram.extents().map(|extent| extent.unwrap().len).sum::<u64>(),
        linux.guest.ram.present_pages().count() as u64 * 4096
    );
    assert_eq!(candidates(&ram, source(&linux)).len(), 2);
    assert_eq!(file.metadata().unwrap().blocks(), before, "a scan allocates nothing");
    std::fs::remove_file(&path).unwrap();
}
