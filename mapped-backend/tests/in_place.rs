//! Frames used where they lie, without a buffer of ours, while a producer writes: `writev` to a file, and a digest.

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs::File;
use std::io::{Read, Seek};
use std::thread;
use std::time::Instant;

use common::{fd, memfd};
use vgpu_perception::region::{FrameStretch, Reader, Region, Sample};
use vgpu_perception::{Gpa, PhysError, PhysErrorKind};
use vgpu_perception_mapped::{GuestRam, MappedView, Segment, SegmentMap, ViewList};
use vgpu_perception_producer::mapped::{MappedRegion, Piece};
use vgpu_perception_producer::{FrameMeta, Producer, Start, pattern};
use vgpu_perception_testkit::{LinuxOptions, Placement, Ring, StandardLinux, standard_linux};

const SIZE: (u32, u32) = (640, 360);

/// A guest whose region is wholly mapped, in a memfd, and its producer's own look at the region.
fn guest(placement: Placement) -> (StandardLinux, GuestRam, MappedRegion) {
    let mut options = LinuxOptions { placement, ring: Ring::All, ..LinuxOptions::default() };
    (options.image.width, options.image.height) = SIZE;
    let linux = standard_linux(options);
    let segments = linux.guest.ram.file_segments();
    let mut file = memfd(4096);
    linux.guest.ram.write_to(&mut file, &segments).unwrap();
    let offset = |gpa: Gpa| {
        let segment = segments.iter().find(|segment| gpa.get().wrapping_sub(segment.gpa.get()) < segment.len);
        let segment = segment.expect("the page is RAM");
        segment.offset + (gpa.get() - segment.gpa.get())
    };
    let pieces: Vec<_> =
        linux.region.pages.iter().map(|page| Piece { offset: offset(page.gpa), len: page.size.bytes() }).collect();
    let region = MappedRegion::stitched(&file, &pieces).unwrap();
    let map = segments.iter().map(|at| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 });
    let ram = GuestRam::from_fd(fd(&file), "guest memfd", SegmentMap::new(map).unwrap()).unwrap();
    (linux, ram, region)
}

/// The views of a stretch, in order.
fn views<'v>(stretch: &FrameStretch<'v, &'v GuestRam>, mut each: impl FnMut(MappedView<'v>)) -> Result<(), PhysError> {
    for (run, window) in stretch.windows() {
        let view = window.and_then(|window| stretch.memory().view(window));
        each(view.ok_or(PhysError::new(run.gpa, PhysErrorKind::Gap))?);
    }
    Ok(())
}

/// Calls `read` until it gave `enough` frames, while the producer publishes as fast as it can.
fn under_a_racing_writer(region: MappedRegion, enough: u32, mut read: impl FnMut() -> bool) {
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            let mut producer = Producer::start(&region, Start::default());
            let mut row = vec![0; SIZE.0 as usize * 4];
            for frame_id in 1.. {
                let meta = FrameMeta { width: SIZE.0, height: SIZE.1, timestamp_ns: frame_id };
                let fill = |y, row: &mut [u8]| pattern::fill_row(frame_id, SIZE.0, SIZE.1, y, row);
                assert_eq!(producer.publish_rows(&meta, &mut row, fill), Ok(frame_id));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut got = 0;
        while got < enough && Instant::now() < deadline {
            got += u32::from(read());
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(got, enough, "frames within a minute");
    });
}

#[test]
fn frames_are_written_to_a_file_where_they_lie() {
    for placement in [Placement::Scattered, Placement::Fragments64K] {
        let (linux, ram, region) = guest(placement);
        let space = linux.processes[linux.producer].space.space();
        let mut reader = Reader::new(&ram, Region::new(space, linux.region.base));
        let mut file = memfd(0);
        let (mut tries, mut void) = (0, 0);
        under_a_racing_writer(region, 60, || {
            tries += 1;
            let sample = reader.visit_frame(|stretch| {
                let failed = |_| PhysError::new(Gpa::new(0), PhysErrorKind::Backend(1));
                if stretch.offset() == 0 {
                    file.rewind().map_err(failed)?;
                }
                let mut list = ViewList::new();
                views(&stretch, |view| list.push(view))?;
                assert_eq!(list.bytes() as u64, stretch.len());
                list.write_to(&file).map(drop).map_err(failed)
            });
            let Sample::Fresh(frame) = sample.unwrap() else {
                void += 1;
                return false;
            };
            let mut pixels = vec![0; frame.bytes];
            file.rewind().unwrap();
            file.read_exact(&mut pixels).unwrap();
            pattern::check(frame.desc.frame_id, SIZE.0, SIZE.1, &pixels).unwrap();
            true
        });
        println!("{placement:?}: 60 frames right of {tries} visits, {void} void");
    }
}

#[test]
fn a_digest_of_words_in_place_is_that_of_the_frame() {
    let (linux, ram, region) = guest(Placement::Scattered);
    let space = linux.processes[linux.producer].space.space();
    let mut reader = Reader::new(&ram, Region::new(space, linux.region.base));
    let mut expected = vec![0; SIZE.0 as usize * SIZE.1 as usize * 4];
    under_a_racing_writer(region, 60, || {
        let mut sum = 0_u64;
        let sample = reader.visit_frame(|stretch| {
            if stretch.offset() == 0 {
                sum = 0;
            }
            views(&stretch, |view| sum = view.words().fold(sum, |sum, word| sum.rotate_left(5).wrapping_add(word)))
        });
        let Sample::Fresh(frame) = sample.unwrap() else { return false };
        for (y, row) in (0..SIZE.1).zip(expected.chunks_exact_mut(SIZE.0 as usize * 4)) {
            pattern::fill_row(frame.desc.frame_id, SIZE.0, SIZE.1, y, row);
        }
        let words = expected.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        assert_eq!(sum, words.fold(0_u64, |sum, word| sum.rotate_left(5).wrapping_add(word)));
        true
    });
}

#[test]
fn a_view_is_only_of_its_own_memory() {
    let (one, other) = (common::filled(8192, common::pattern), common::filled(8192, |_| 1));
    let (one, other) = (common::ram(&[&one], "0:8K:0"), common::ram(&[&other], "0:8K:0"));
    use vgpu_perception::PhysRead;
    let window = one.window(Gpa::new(4088), 16).unwrap();
    assert!(other.view(window).is_none(), "another guest's memory");
    let view = one.view(window).unwrap();
    assert_eq!((view.len(), view.word(0), view.word(2)), (16, Some(one.load_u64(Gpa::new(4088)).unwrap()), None));
    let mut bytes = [0; 32];
    assert_eq!(view.copy_to(&mut bytes), 16);
    assert_eq!(&bytes[..16], &(4088..4104).map(common::pattern).collect::<Vec<_>>()[..]);
    assert_eq!(one.view(one.window(Gpa::new(1), 9).unwrap()).unwrap().word(0), None, "not aligned");
    let mut list = ViewList::new();
    list.push(view);
    assert!(list.write_to(File::open("/dev/null").unwrap()).is_err(), "a file that is open for reading");
}
