//! Many guests: polls and thumbnails, by one thread and by two.

use core::hint::black_box;
use std::time::Instant;

use vgpu_perception::region::{FrameScratch, Region};
use vgpu_perception::{NextUse, PhysRead};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_sinks::Thumbnail;

use crate::measure::{Goals, median};
use crate::raw::flush;
use crate::small_guest::SmallGuest;

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

    /// The words that a poll reads, and no more than that.
    #[inline(never)]
    fn load(&mut self, guest: &mut SmallGuest) {
        let words = guest.polled.iter().map(|at| guest.ram.load_at_once(*at).unwrap_or_default());
        black_box(words.fold(0, u64::wrapping_add));
    }

    /// Nothing with memory: four sums, as independent as the work of a thumbnail.
    #[inline(never)]
    fn compute(&mut self, _: &mut SmallGuest) {
        let mut sums = [1_u64, 2, 3, 4];
        for nth in 0..2_000 {
            for sum in &mut sums {
                *sum = sum.wrapping_mul(3).wrapping_add(black_box(nth));
            }
        }
        black_box(sums);
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

/// How many guests ahead the lines of a poll are prefetched.
const AHEAD: usize = 4;

/// What is done with each guest.
#[derive(Clone, Copy)]
struct Task {
    name: &'static str,
    work: fn(&mut Worker, &mut SmallGuest),
    /// How many guests ahead the lines are prefetched, if they are.
    ahead: Option<usize>,
    repeat: usize,
    /// Whether its goals count.
    judged: bool,
}

const POLL: Task = Task {
    name: "poll: a cursor, and a frame that is not new",
    work: Worker::poll,
    ahead: Some(AHEAD),
    repeat: 400_000,
    judged: true,
};
const LIMIT: Task =
    Task { name: "limit: the words of a poll, loaded", work: Worker::load, ahead: None, judged: false, ..POLL };
/// Comes first: more than this machine gives a second thread that touches no memory, it gives nobody.
const COMPUTE: Task = Task {
    name: "limit: a loop that touches no memory",
    work: Worker::compute,
    ahead: None,
    repeat: 20_000,
    judged: false,
};
const TASKS: [Task; 5] = [
    COMPUTE,
    POLL,
    Task { name: "poll, not prefetched", ahead: None, judged: false, ..POLL },
    LIMIT,
    Task { name: "thumbnail: 320x180 to 80x45", work: Worker::thumbnail, ahead: None, repeat: 2_000, judged: true },
];

/// Does the task once with each guest.
fn round(worker: &mut Worker, guests: &mut [SmallGuest], task: Task) {
    for nth in 0..guests.len() {
        if let Some(ahead) = task.ahead
            && let Some(next) = guests.get(nth + ahead)
        {
            next.region.prefetch(&next.ram);
        }
        (task.work)(worker, &mut guests[nth]);
    }
}

/// Nanoseconds for each guest, where every thread goes over its part of the guests `rounds` times.
fn each(guests: &mut [SmallGuest], threads: usize, rounds: usize, task: Task) -> f64 {
    let part = guests.len().div_ceil(threads);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for guests in guests.chunks_mut(part) {
            scope.spawn(move || {
                let mut worker = Worker::new();
                for _ in 0..rounds {
                    round(&mut worker, guests, task);
                }
            });
        }
    });
    start.elapsed().as_nanos() as f64 / (guests.len() * rounds) as f64
}

/// Polls of guests whose lines are in no cache, as after much else was done: how many guests ahead to prefetch.
fn flushed(guests: &mut [SmallGuest], goals: &mut Goals, samples: usize) {
    let lines: Vec<_> = guests.iter().flat_map(SmallGuest::polled_lines).collect();
    let mut worker = Worker::new();
    println!("\n## Polls of {} guests, their lines flushed before, ns a guest\n", guests.len());
    println!("| what | not prefetched | 2 ahead | 4 ahead | 8 ahead |\n| --- | --- | --- | --- | --- |");
    for task in [POLL, LIMIT] {
        let ahead = [None, Some(2), Some(4), Some(8)];
        let mut times = ahead.map(|_| Vec::new());
        for _ in 0..samples * 3 {
            for (ahead, times) in ahead.into_iter().zip(&mut times) {
                flush(&lines);
                let start = Instant::now();
                round(&mut worker, guests, Task { ahead, ..task });
                times.push(start.elapsed().as_nanos() as f64 / guests.len() as f64);
            }
        }
        let times = times.map(|mut times| median(&mut times));
        println!("| {} | {:.1} | {:.1} | {:.1} | {:.1} |", task.name, times[0], times[1], times[2], times[3]);
        if task.name == POLL.name {
            goals.at_most("poll of flushed lines, prefetched 4 guests ahead / not", times[2] / times[0], 0.7);
        }
    }
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
    let mut speed_up = 1.9_f64;
    for task in TASKS {
        let what = task.name;
        println!("\n## Many guests, ns a guest and {what}\n");
        println!("| guests | one thread | two threads | speed-up |\n| --- | --- | --- | --- |");
        let mut first = f64::NAN;
        for count in COUNTS {
            let guests = &mut guests[..count];
            let rounds = (task.repeat / count).max(2);
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..samples {
                for (threads, times) in (1..).zip(&mut times) {
                    if count >= threads {
                        times.push(each(guests, threads, rounds, task));
                    }
                }
            }
            let [one, two] = times.map(|mut times| median(&mut times));
            println!("| {count} | {one:.1} | {two:.1} | {:.2} |", one / two);
            if first.is_nan() {
                first = one;
            }
            if task.name == COMPUTE.name && count > 1 {
                speed_up = speed_up.min(one / two);
            }
            if count > 1 && task.judged {
                goals.at_most(&format!("{what}, {count} guests: two threads / one"), two / one, 1.0 / speed_up);
                goals.at_most(&format!("{what}, {count} guests / one guest"), one / first, 1.5);
            }
        }
        println!(
            "guests at 30 a second and thread, at the last count: {:.0}",
            1e9 / 30.0 / each(&mut guests, 1, 3, task)
        );
    }
    flushed(&mut guests, goals, samples);
    println!(
        "\nbytes a guest: Region {}, GuestRam {} and {} for what its copies were measured to take; bytes a thread: \
         FrameScratch {}",
        size_of::<Region>(),
        size_of::<GuestRam>(),
        GuestRam::MEASURED_BYTES,
        size_of::<FrameScratch>()
    );
}
