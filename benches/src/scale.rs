//! Many guests: polls and thumbnails, by one thread and by two.

use core::hint::black_box;
use std::time::Instant;

use vgpu_perception::NextUse;
use vgpu_perception::region::{FrameScratch, Region};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_sinks::Thumbnail;

use crate::image::SmallGuest;
use crate::measure::{Goals, median};

/// Pixels of each guest's frame: a quarter of a 720p one in both directions.
const SIZE: (u32, u32) = (320, 180);
const COUNTS: [usize; 4] = [1, 8, 64, 512];

/// What a thread keeps for all of its guests.
struct Worker {
    scratch: FrameScratch,
    dst: Vec<u8>,
    thumbnail: Thumbnail,
}

impl Worker {
    fn new() -> Self {
        let dst = vec![0; (SIZE.0 * SIZE.1 * 4) as usize];
        Self { scratch: FrameScratch::new(), dst, thumbnail: Thumbnail::new(4).expect("a factor") }
    }

    /// A cursor, and a frame that is not new.
    fn poll(&mut self, guest: &mut SmallGuest) {
        let _ = black_box(guest.region.read_cursor(&guest.ram));
        let _ = black_box(guest.region.sample_frame(&guest.ram, &mut self.scratch, &mut self.dst, NextUse::Unknown));
    }

    /// A thumbnail of the frame, as if it were new.
    fn thumbnail(&mut self, guest: &mut SmallGuest) {
        guest.region.forget_frames();
        let block = self.dst.get_mut(..64 << 10).expect("a block");
        let taken = guest.region.stream_frame(&guest.ram, &mut self.scratch, block, &mut self.thumbnail);
        assert!(taken.is_ok_and(|sample| sample.fresh().is_some()), "the frame is there");
        black_box(self.thumbnail.picture());
    }
}

type Work = fn(&mut Worker, &mut SmallGuest);

/// Nanoseconds for each guest, where every thread goes over its part of the guests `rounds` times.
fn each(guests: &mut [SmallGuest], threads: usize, rounds: usize, work: Work) -> f64 {
    let part = guests.len().div_ceil(threads);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for guests in guests.chunks_mut(part) {
            scope.spawn(move || {
                let mut worker = Worker::new();
                for _ in 0..rounds {
                    guests.iter_mut().for_each(|guest| work(&mut worker, guest));
                }
            });
        }
    });
    start.elapsed().as_nanos() as f64 / (guests.len() * rounds) as f64
}

/// Measures and prints what many guests cost.
pub(crate) fn run(goals: &mut Goals, quick: bool) {
    let samples = if quick { 3 } else { 9 };
    let mut guests: Vec<SmallGuest> = (0..512).map(|nth| SmallGuest::build(nth, SIZE.0, SIZE.1)).collect();
    let mut worker = Worker::new();
    for guest in &mut guests {
        let taken = guest.region.sample_frame(&guest.ram, &mut worker.scratch, &mut worker.dst, NextUse::Unknown);
        assert!(taken.is_ok_and(|sample| sample.fresh().is_some()), "the frame is there");
    }
    for (what, work, repeat) in [
        ("poll: a cursor, and a frame that is not new", Worker::poll as Work, 400_000),
        ("thumbnail: 320x180 to 80x45", Worker::thumbnail as Work, 2_000),
    ] {
        println!("\n## Many guests, ns a guest and {what}\n");
        println!("| guests | one thread | two threads | speed-up |\n| --- | --- | --- | --- |");
        let mut first = f64::NAN;
        for count in COUNTS {
            let guests = &mut guests[..count];
            let rounds = (repeat / count).max(2);
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..samples {
                for (threads, times) in (1..).zip(&mut times) {
                    if count >= threads {
                        times.push(each(guests, threads, rounds, work));
                    }
                }
            }
            let [one, two] = times.map(|mut times| median(&mut times));
            println!("| {count} | {one:.1} | {two:.1} | {:.2} |", one / two);
            if first.is_nan() {
                first = one;
            }
            if count > 1 {
                goals.at_most(&format!("{what}, {count} guests: one thread / two, inverse"), two / one, 1.0 / 1.9);
                goals.at_most(&format!("{what}, {count} guests / one guest"), one / first, 1.5);
            }
        }
        println!(
            "guests at 30 a second and thread, at the last count: {:.0}",
            1e9 / 30.0 / each(&mut guests, 1, 3, work)
        );
    }
    println!(
        "\nbytes a guest: Region {}, GuestRam {} and {} for what its copies were measured to take; bytes a thread: \
         FrameScratch {}",
        size_of::<Region>(),
        size_of::<GuestRam>(),
        GuestRam::MEASURED_BYTES,
        size_of::<FrameScratch>()
    );
}
