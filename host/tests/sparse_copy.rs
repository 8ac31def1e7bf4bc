//! A copy of a guest's RAM that leaves out pages of zeros (`cp --sparse=always`) is the same guest: what is a hole in
//! it reads as zeros in walks, in passes, and in frames, and no pass of a survey fills one.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{MemfdFlags, memfd_create};
use vgpu_perception::paging::Level;
use vgpu_perception::{Gva, abi};
use vgpu_perception_host::{Guest, Sample, Sighting, Survey};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};
use vgpu_perception_testkit::{FileSegment, LinuxOptions, Ram, Region, RegionImage, standard_linux};

const PAGE: usize = 4096;
const BYTES: u64 = 512 << 20;

/// All bytes of the guest written to a file, zeros too; and the copy of it that leaves out every page of zeros.
fn copies(ram: &Ram) -> [File; 2] {
    let segments = ram.file_segments();
    let len = segments.iter().map(|segment| segment.offset + segment.len).max().unwrap();
    let [mut dense, sparse] = ["dense", "sparse"].map(|name| {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        file
    });
    let zeros = vec![0; 1 << 20];
    for at in (0..len).step_by(zeros.len()) {
        dense.write_all_at(&zeros, at).unwrap();
    }
    ram.write_to(&mut dense, &segments).unwrap();
    for page in ram.present_pages() {
        let bytes = ram.bytes(page, PAGE);
        let segment = segments.iter().find(|one| page.get().wrapping_sub(one.gpa.get()) < one.len).unwrap();
        if bytes != [0; PAGE] {
            sparse.write_all_at(&bytes, segment.offset + (page.get() - segment.gpa.get())).unwrap();
        }
    }
    [dense, sparse]
}

fn allocated(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

fn attach(ram: &Ram, file: &File) -> Guest<GuestRam> {
    let part = |at: &FileSegment| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 };
    let map = SegmentMap::new(ram.file_segments().iter().map(part)).unwrap();
    let memory = GuestRam::from_fd(file.try_clone().unwrap().into(), "a copy", map).unwrap();
    let end = ram.segments().last().unwrap().end();
    Guest::over(memory, end)
}

/// What a survey says of each candidate, in its order.
fn said(survey: &Survey<GuestRam>) -> Vec<String> {
    let text = |sighting: &Sighting| {
        let one = &sighting.candidate;
        format!("{:?} {:?} {:?} {:?}", one.process, one.base, one.found, one.by)
    };
    survey.candidates().iter().map(text).collect()
}

/// The guest in both forms: the same survey, the same frames; `region` is one of those that are found.
fn compare(name: &str, ram: &Ram, region: &Region) {
    // A part of the picture is black, and the table behind it is there.
    let black = 3_usize;
    let slot = abi::slot_offset(RegionImage::slot_of(region.image.frames) as u32).unwrap();
    let at = region.gpa(slot + (black * PAGE) as u64).unwrap();
    ram.write_u8s(at, &[0; PAGE]);
    let [dense_file, sparse_file] = copies(ram);
    let (full, before) = (allocated(&dense_file), allocated(&sparse_file));
    assert!(before < full / 2, "{name}: {before} bytes of {full} are no zeros");
    let surveys = [&dense_file, &sparse_file].map(|file| attach(ram, file).survey().unwrap());
    // No pass fills a hole. A walk to one address reads the tables that lead there, and one of them may be a hole: that
    // of the fixmap, which is empty, is.
    let filled = allocated(&sparse_file) - before;
    assert!(filled <= PAGE as u64, "{name}: a survey fills {filled} bytes of holes");
    let [of_dense, of_sparse] = surveys.each_ref().map(said);
    assert!(!of_dense.is_empty(), "{name}: nothing is found");
    assert_eq!(of_dense, of_sparse, "{name}");
    let stats = surveys.each_ref().map(|survey| *survey.stats());
    let [whole, holes] = &stats;
    assert_eq!((whole.spaces, whole.candidates, whole.runs), (holes.spaces, holes.candidates, holes.runs), "{name}");
    // Pages that the processes map and that the copy has not are not read, and counted.
    assert!(holes.not_ram > whole.not_ram && holes.pages < whole.pages, "{name}: {whole:?}, {holes:?}");
    let pictures = surveys.each_ref().map(|survey| {
        let found = survey.candidates().iter().find(|one| Some(one.candidate.found.page) == region.gpa(0));
        let mut live = survey.open(found.unwrap());
        let mut picture = vec![0xaa; region.image.pixels(1).len()];
        let Sample::Fresh(frame) = live.frame(&mut picture).unwrap() else { panic!("{name}: a frame") };
        let small = (live.cursor().unwrap(), live.geometry().unwrap(), live.status().unwrap());
        (frame.desc.frame_id, picture, format!("{small:?}"))
    });
    let mut expected = region.image.pixels(pictures[0].0);
    expected[black * PAGE..(black + 1) * PAGE].fill(0);
    assert!(pictures[0].1 == expected, "{name}: the frame, with its black part");
    assert!(pictures[0] == pictures[1], "{name}: frames and lines differ");
}

#[test]
fn a_linux_guest_is_the_same() {
    let image = RegionImage { width: 256, height: 64, ..RegionImage::default() };
    let linux = standard_linux(LinuxOptions { ram: 2 << 30, image, ..LinuxOptions::default() });
    // A process whose tables are empty where its pages were: what is left of them are zeros.
    let space = linux.processes[3].space;
    let mut guest = linux.guest.clone();
    guest.make_tables(space, Level::Pt, Gva::new(0x5000_0000_0000), true);
    compare("Linux", &guest.ram, &linux.region);
}

#[test]
fn a_windows_guest_is_the_same() {
    let image = RegionImage { width: 256, height: 64, ..RegionImage::default() };
    let options = Options { ram: BYTES, image, ..Options::default() };
    let guest = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, options);
    compare("Windows", &guest.ram, &guest.truth.shared.region);
}
