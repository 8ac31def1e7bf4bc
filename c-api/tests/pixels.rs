//! Frames that are taken while they are written, checked pixel by pixel, by a C program.

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;

use common::{Dir, LiveGuest, command, program, run, shared_library};
use vgpu_perception::abi;
use vgpu_perception_testkit::linux::LinuxOptions;
use vgpu_perception_testkit::{Placement, RegionImage};

const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;

/// Writes into the region as its producer does: an odd number, the frame, an even number.
struct Writer<'g> {
    guest: &'g LiveGuest,
    file: File,
}

impl Writer<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        for page in bytes.chunks(4096) {
            let gpa = self.guest.linux.region.gpa(at).unwrap().get();
            let segment = self.guest.segments.iter().find(|segment| gpa.wrapping_sub(segment.gpa.get()) < segment.len);
            let segment = segment.unwrap();
            self.file.write_all_at(page, segment.offset + (gpa - segment.gpa.get())).unwrap();
            at += page.len() as u64;
        }
    }

    fn publish(&self, frame_id: u64, seq: &mut [u32; 3]) {
        let slot = (frame_id - 1) % 3;
        let seq = &mut seq[usize::try_from(slot).unwrap()];
        *seq += 1;
        self.write(4 + 4 * slot, &seq.to_le_bytes());
        let desc = [u64::from(WIDTH) | u64::from(HEIGHT) << 32, u64::from(WIDTH) * 4, frame_id, frame_id];
        let desc: Vec<u8> = desc.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(0x20 + 32 * slot, &desc);
        let key = (frame_id as u32).wrapping_mul(2_654_435_761);
        let pixels: Vec<u8> = (0..WIDTH * HEIGHT).flat_map(|index| (key ^ index).to_le_bytes()).collect();
        self.write(abi::slot_offset(u32::try_from(slot).unwrap()).unwrap(), &pixels);
        *seq += 1;
        self.write(4 + 4 * slot, &seq.to_le_bytes());
        self.write(0x10, &frame_id.to_le_bytes());
        self.write(0, &u32::try_from(slot).unwrap().to_le_bytes());
    }
}

#[test]
fn frames_are_whole_and_the_check_notices_those_that_are_not() {
    let dir = Dir::new("pixels");
    shared_library(&dir);
    let program = program(&dir, "tests/c/pixels.c");
    let image = RegionImage { width: WIDTH, height: HEIGHT, ..RegionImage::default() };
    let options = LinuxOptions {
        ram: 1280 << 20,
        processes: 4,
        placement: Placement::Fragments64K,
        image,
        ..LinuxOptions::default()
    };
    let guest = LiveGuest::new(&dir, options);
    let writer = Writer { guest: &guest, file: OpenOptions::new().write(true).open(&guest.path).unwrap() };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Even, and above what the guest began with.
            let mut seq = [100; 3];
            let mut frame_id = 6;
            while !stop.load(Ordering::Relaxed) {
                writer.publish(frame_id, &mut seq);
                frame_id += 1;
            }
        });
        let counts = |mode: &str| {
            let mut args = guest.test_args();
            args.insert(0, mode.to_owned());
            let text = String::from_utf8(run(&mut command(&program, args)).stdout).unwrap();
            let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
            println!("figure: {mode}: {}", text.trim());
            (numbers[0], numbers[1])
        };
        let (whole, mixed) = counts("sample");
        assert!(whole > 10 && mixed == 0, "{whole} whole, {mixed} mixed");
        let (_, mixed) = counts("naive");
        assert!(mixed > 0, "the check notices nothing");
        stop.store(true, Ordering::Relaxed);
    });
}
