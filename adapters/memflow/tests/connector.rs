//! Discovery and snapshots through connectors that memflow brings along.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use memflow::connector::{CloneFile, FileIoMemory};
use memflow::mem::MemoryMap;
use memflow::types::{Address, umem};
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection};
use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::{CopyHint, Gpa, NextUse, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_memflow::Memflow;
use vgpu_perception_testkit::candidates;
use vgpu_perception_testkit::linux::{LinuxOptions, StandardLinux, standard_linux};

struct Guest {
    linux: StandardLinux,
    path: PathBuf,
}

impl Guest {
    fn new(name: &str) -> Self {
        let linux = standard_linux(LinuxOptions::default());
        let path = std::env::temp_dir().join(format!("vgpu-memflow-{name}-{}", std::process::id()));
        linux.guest.ram.to_file(&path).unwrap();
        Self { linux, path }
    }

    /// Reads the RAM file, split around the hole below 4 GiB.
    fn connector(&self) -> FileIoMemory<CloneFile> {
        let mut map = MemoryMap::new();
        for segment in self.linux.guest.ram.file_segments() {
            let at = |number: u64| Address::from(number);
            map.push_remap(at(segment.gpa.get()), segment.len as umem, at(segment.offset));
        }
        FileIoMemory::with_mem_map(CloneFile::from(File::open(&self.path).unwrap()), map).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_region_is_found_and_read_through_a_file_connector() {
    let guest = Guest::new("file");
    let (linux, region) = (&guest.linux, &guest.linux.region);
    let ram = Memflow::new(guest.connector(), linux.guest.ram.segments()).unwrap();
    let found = candidates(&ram, KernelHalf::new(linux.kernel.init.space()));
    let places: BTreeSet<_> = found.iter().map(|one| (one.process.space.root.table(), one.base)).collect();
    let expected = [&linux.region, &linux.forged].map(|region| (region.space.root, region.base));
    assert_eq!(places, expected.into());
    let real = found.iter().find(|one| one.process.space.root.table() == region.space.root).unwrap();
    let mut handle = real.region();
    let mut frame = vec![0; 64 * 48 * 4];
    let sample = handle.sample_frame(&ram, &mut FrameScratch::new(), &mut frame, NextUse::ReadSoon).unwrap();
    assert!(matches!(sample, Sample::Fresh(info) if info.desc.frame_id == region.image.frames), "{sample:?}");
    assert_eq!(frame, region.image.pixels(region.image.frames));
    assert_eq!(handle.read_geometry(&ram).unwrap().fresh().unwrap().dpi, 96);
    drop(ram.into_connector());
}

#[test]
fn holes_are_errors_even_where_nobody_said_where_they_are() {
    let guest = Guest::new("holes");
    let ram = &guest.linux.guest.ram;
    let flat = Memflow::flat(guest.connector());
    let told = Memflow::new(guest.connector(), ram.segments()).unwrap();
    let hole = Gpa::new(0xd000_0000);
    for memory in [&flat, &told] {
        let error = memory.load_u64(hole).unwrap_err();
        assert_eq!((error.gpa, error.kind), (hole, PhysErrorKind::Gap));
        let mut dst = [1; 16];
        let error = memory.read(Gpa::new(0xc000_0000 - 8), &mut dst).unwrap_err();
        assert_eq!((error.gpa, error.kind), (Gpa::new(0xc000_0000), PhysErrorKind::Gap));
        assert!(memory.load_words(Gpa::new(0xc000_0000 - 8), &mut [0; 2]).is_err());
        assert_eq!(memory.load_u64(Gpa::new(12)).unwrap_err().kind, PhysErrorKind::Misaligned);
    }
    let page = guest.linux.region.gpa(0).unwrap();
    let (mut ours, mut theirs) = ([0; 64], [0; 64]);
    told.load_words(page, &mut ours).unwrap();
    ram.load_words(page, &mut theirs).unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(told.load_u32(page.wrapping_add(4)), ram.load_u32(page.wrapping_add(4)));
    let run = |gpa, len| PhysRun { gpa, len };
    let hint = CopyHint::new(24, NextUse::Unknown);
    let mut bytes = [0; 24];
    told.read_runs(&[run(page, 16), run(page.wrapping_add(0x100), 8)], &mut bytes, hint).unwrap();
    assert_eq!(bytes[..16], ram.bytes(page, 16));
    assert_eq!(bytes[16..], ram.bytes(page.wrapping_add(0x100), 8));
    assert!(told.read_runs(&[run(page, 16), run(hole, 8)], &mut bytes, hint).is_err());
    let short = told.read_runs(&[run(page, 16)], &mut bytes, hint).unwrap_err();
    assert_eq!(short.kind, PhysErrorKind::BadLength);
}

#[test]
fn roots_are_found_with_nothing_known() {
    let guest = Guest::new("roots");
    // What is data is known here, so that the pass does not read gigabytes of zeros a word at a time.
    let mut extents: Vec<vgpu_perception::Extent> = Vec::new();
    for page in guest.linux.guest.ram.present_pages() {
        match extents.last_mut() {
            Some(last) if last.end() == page => last.len += 4096,
            _ => extents.push(vgpu_perception::Extent { start: page, len: 4096 }),
        }
    }
    let ram = Memflow::new(guest.connector(), extents).unwrap();
    let mut roots = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let found = candidates(&ram, RootElection::new(None, &mut roots));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn extents_ascend() {
    let guest = Guest::new("extents");
    let extent = |start, len| vgpu_perception::Extent { start: Gpa::new(start), len };
    for bad in [vec![extent(0, 0)], vec![extent(4096, 4096), extent(0, 4096)], vec![extent(u64::MAX, 2)]] {
        assert!(Memflow::new(guest.connector(), bad).is_err());
    }
}
