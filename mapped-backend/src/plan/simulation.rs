//! A record's choices against methods whose times are made up: what it spends, and what it settles on.
//!
//! Nothing here depends on how fast the machine is: the times are numbers.

use std::collections::BTreeMap;

use vgpu_perception_testkit::Rng;

use super::Method;
use super::record::{Record, Wanted};

/// Sixteenths of a picosecond a byte of each method, and of reading what it copied.
#[derive(Clone, Debug)]
struct Machine {
    copy: Vec<u64>,
    read: Vec<u64>,
    /// Percent by which a sample is off, either way.
    noise: u64,
    /// Percent that a copy takes more where another method copied last.
    switch: u64,
    /// Percent that each method takes less where only a part of a frame is copied by it.
    part: Vec<u64>,
    /// Percent that stores into the caches take more to a place that was last stored to past them; a tenth less with
    /// each copy.
    fades: f64,
    /// The method that copied last to each part of 64 KiB of the buffer, and how often ones that store like it did.
    last: BTreeMap<u64, (usize, i32)>,
}

impl Machine {
    fn new(copy: Vec<u64>, read: Vec<u64>, noise: u64) -> Self {
        let part = vec![0; copy.len()];
        Self { copy, read, noise, switch: 0, part, fades: 0.0, last: BTreeMap::new() }
    }

    /// What a copy of `bytes` to `at` takes for a byte, and what it leaves behind.
    fn copies(&mut self, method: usize, at: u64, bytes: u64) -> u64 {
        let (mut parts, mut switched, mut fading) = (0, 0, 0.0);
        for part in at >> 16..(at + bytes).div_ceil(1 << 16) {
            parts += 1;
            let (last, times) = self.last.get(&part).copied().unwrap_or((usize::MAX, 0));
            let times = if last != usize::MAX && stores_past(last) == stores_past(method) { times + 1 } else { 0 };
            switched += u64::from(last != method);
            if !stores_past(method) {
                fading += self.fades * 0.9_f64.powi(times);
            }
            self.last.insert(part, (method, times));
        }
        let rate = self.copy[method] as f64;
        (rate + rate * ((self.switch * switched) as f64 + fading) / (100 * parts) as f64) as u64
    }

    fn draw(rng: &mut Rng, methods: usize, noise: u64) -> Self {
        let mut some = |low, span| (0..methods).map(|_| low + rng.below(span)).collect();
        Self::new(some(600, 1800), some(100, 700), noise)
    }

    /// What a byte costs a caller that reads the copy, or does not.
    fn whole(&self, method: usize, reads: bool) -> u64 {
        self.copy[method] + if reads { self.read[method] } else { 0 }
    }

    fn best(&self, reads: bool) -> u64 {
        (0..self.copy.len()).map(|method| self.whole(method, reads)).min().unwrap()
    }
}

/// Copies a frame in calls of `call` bytes as the backend does. Gives what it took beyond the best method, in bytes of
/// that.
fn copy_frame(record: &Record, machine: &mut Machine, rng: &mut Rng, frame: u64, call: u64, reads: bool) -> f64 {
    copy_frame_to(BUFFER, record, machine, rng, frame, call, reads)
}

/// The methods that store past the caches: every other one.
const STREAMS: u16 = 0xaaaa;

fn stores_past(method: usize) -> bool {
    STREAMS >> method & 1 == 1
}

/// Where the buffer lies.
const BUFFER: u64 = 0x7f00_0012_3000;

fn copy_frame_to(
    buffer: u64,
    record: &Record,
    machine: &mut Machine,
    rng: &mut Rng,
    frame: u64,
    call: u64,
    reads: bool,
) -> f64 {
    let usable = (1_u16 << machine.copy.len()) - 1;
    let best = machine.best(reads) as f64;
    let mut excess = 0.0;
    // What was copied on trial is read when the frame is complete.
    let mut unread = Vec::new();
    let mut contest = None;
    let mut left = frame;
    while left > 0 {
        let mut in_call = call.min(left);
        left -= in_call;
        while in_call > 0 {
            let at = buffer + frame - left - in_call;
            let wanted = Wanted { usable, streams: STREAMS, left: in_call, frame, reads, at };
            let step = record.next(wanted);
            contest = step.is_contest.then_some(usize::from(step.method));
            let bytes = in_call.min(step.limit);
            let method = usize::from(step.method);
            assert!(method < machine.copy.len(), "a method that exists");
            let nanoseconds = |rate: u64| rate * bytes / 16_000;
            let mut rate = machine.copies(method, at, bytes);
            if step.is_trial || step.is_primer {
                rate -= rate * machine.part[method] / 100;
            }
            let noise = machine.noise;
            let off = |rate: u64, rng: &mut Rng| rate * (100 - noise + rng.below(2 * noise + 1)) / 100;
            let copied = nanoseconds(off(rate, rng));
            let again = if (step.is_trial || step.is_primer) && reads { machine.read[method] } else { 0 };
            let whole = rate + if reads { machine.read[method] } else { 0 };
            excess += bytes as f64 * ((whole + again) as f64 - best) / best;
            let read = if again == 0 { 0 } else { nanoseconds(off(again, rng)) };
            if step.is_trial && reads {
                record.pass(bytes);
                unread.push((wanted, step, bytes, copied, read));
            } else {
                record.learn(wanted, step, bytes, copied, read);
            }
            in_call -= bytes;
        }
    }
    for (wanted, step, bytes, copied, read) in unread {
        record.measured(wanted, step, bytes, copied, read);
    }
    let wanted = Wanted { usable, streams: STREAMS, left: 0, frame, reads, at: 0 };
    let read = if reads && record.is_in_contest() { wanted.read_in_contest() } else { 0 };
    let rate = contest.map_or(0, |method| machine.read[method]);
    excess += read as f64 * rate as f64 / best;
    record.frame_done(wanted, frame, read, rate * read / 16_000);
    excess
}

/// Machines that are drawn.
const ROUNDS: usize = 80;

const SHAPES: [(u64, u64); 5] =
    [(8_294_400, 2 << 20), (8_294_400, 8_294_400), (33_177_600, 2 << 20), (33_177_600, 33_177_600), (1 << 20, 1 << 20)];

#[test]
fn a_hundred_frames_cost_five_percent_and_later_ones_one() {
    let mut rng = Rng::new(3);
    for _ in 0..ROUNDS {
        for (frame, call) in SHAPES {
            for reads in [false, true] {
                let methods = 2 + rng.below(Method::ALL.len() as u64 - 3) as usize;
                let mut machine = Machine::draw(&mut rng, methods, 0);
                let record = Record::new(rng.below(methods as u64) as u8);
                let mut run = |frames: usize| {
                    let total: f64 =
                        (0..frames).map(|_| copy_frame(&record, &mut machine, &mut rng, frame, call, reads)).sum();
                    total / (frames as u64 * frame) as f64
                };
                let (opening, later) = (run(100), run(1000));
                assert!(opening <= 0.05, "{opening} in frames of {frame} in {call}, read {reads}: {machine:?}");
                assert!(later <= 0.01, "{later} in frames of {frame} in {call}, read {reads}: {machine:?}");
            }
        }
    }
}

#[test]
fn what_is_chosen_under_noise_is_close_to_the_best() {
    let mut rng = Rng::new(5);
    for _ in 0..ROUNDS {
        let (frame, call) = SHAPES[rng.below(5) as usize];
        let mut machine = Machine::draw(&mut rng, 12, 8);
        let record = Record::new(0);
        for _ in 0..300 {
            copy_frame(&record, &mut machine, &mut rng, frame, call, false);
        }
        let total: f64 = (0..300).map(|_| copy_frame(&record, &mut machine, &mut rng, frame, call, false)).sum();
        let excess = total / (300 * frame) as f64;
        assert!(excess <= 0.06, "{excess} with samples that are off by 8 %: {machine:?}");
    }
}

#[test]
fn a_method_that_becomes_the_best_is_found() {
    let mut rng = Rng::new(9);
    for reads in [false, true] {
        let mut machine = Machine::new(vec![1000, 1200, 1300, 1900], vec![300; 4], 2);
        let record = Record::new(1);
        let mut run = |machine: &mut Machine, frames: usize| {
            for _ in 0..frames {
                copy_frame(&record, machine, &mut rng, 8_294_400, 2 << 20, reads);
            }
            record.chosen().0
        };
        assert_eq!(run(&mut machine, 100), 0);
        // Another method wins by a little, then by much; then the frames lie in a cache, where plain copies are best.
        machine.copy[2] = 900;
        assert_eq!(run(&mut machine, 2000), 2);
        machine.copy = vec![300, 200, 400, 100];
        assert_eq!(run(&mut machine, 8000), 3);
    }
}

#[test]
fn rates_that_are_given_back_are_used_from_the_first_frame() {
    let mut machine = Machine::new(vec![1500, 700, 1300], vec![300; 3], 0);
    let mut rng = Rng::new(9);
    let record = Record::new(0);
    for _ in 0..100 {
        copy_frame(&record, &mut machine, &mut rng, 8_294_400, 2 << 20, false);
    }
    let again = Record::new(0);
    again.restore(&record.rates());
    assert_eq!(again.chosen(), record.chosen());
    assert_eq!(again.chosen().0, 1);
    let excess = copy_frame(&again, &mut machine, &mut rng, 8_294_400, 2 << 20, false);
    assert_eq!(excess, 0.0, "no round of trials");
}

#[test]
fn a_method_that_is_slow_only_after_another_one_is_found_where_the_buffer_comes_back() {
    // The second method is the fastest where it is in use, and the slowest between copies by others.
    for (comes_back, best) in [(true, 1), (false, 2)] {
        let mut machine = Machine::new(vec![1000, 700, 900], vec![300; 3], 2);
        let mut rng = Rng::new(21);
        let record = Record::new(0);
        let (frame, call) = SHAPES[0];
        for nth in 0..100 {
            if comes_back {
                machine.switch = 70;
                copy_frame(&record, &mut machine, &mut rng, frame, call, false);
            } else {
                // A buffer that nobody has touched: stores past the caches gain nothing there.
                machine.copy[1] = 1190;
                copy_frame_to(BUFFER + nth * (64 << 20), &record, &mut machine, &mut rng, frame, call, false);
            }
        }
        assert_eq!(record.chosen().0, best, "comes back: {comes_back}, {:?}", record.rates());
    }
}

#[test]
fn a_kind_that_is_faster_only_in_whole_frames_is_found() {
    for (frame, call) in SHAPES {
        for reads in [false, true] {
            let mut machine = Machine::new(vec![1300, 1000, 1250, 1050, 1350, 1900], vec![300; 6], 2);
            machine.part = vec![30, 0, 30, 0, 30, 0];
            let mut rng = Rng::new(4);
            let record = Record::new(0);
            for _ in 0..100 {
                copy_frame(&record, &mut machine, &mut rng, frame, call, reads);
            }
            let chosen = record.chosen().0;
            assert_eq!(chosen & 1, 1, "frames of {frame} in {call}, read {reads}: {chosen} {:?}", record.rates());
        }
    }
}

#[test]
fn what_parts_of_frames_tell_wrongly_whole_frames_put_right() {
    for (frame, call) in SHAPES {
        for reads in [false, true] {
            // Of those that store alike: in parts the first looks best, and is the third.
            let mut machine = Machine::new(vec![1000, 1900, 900, 1900, 950, 1900, 1400], vec![300; 7], 0);
            machine.part = vec![15, 0, 2, 0, 6, 0, 0];
            let mut rng = Rng::new(4);
            let record = Record::new(0);
            let mut run = |frames: usize| -> f64 {
                let excess = (0..frames).map(|_| copy_frame(&record, &mut machine, &mut rng, frame, call, reads));
                excess.sum::<f64>() / (frames as u64 * frame) as f64
            };
            let opening = run(100);
            let what = format!("frames of {frame} in {call}, read {reads}: {:?}", record.rates());
            assert_eq!(record.chosen().0, 2, "{what}");
            assert!(opening <= 0.06, "{opening}: {what}");
            let later = run(1000);
            assert!(later <= 0.01, "{later}: {what}");
        }
    }
}

/// Whether a record that begins with the second method has the first one in use after so many frames.
#[track_caller]
fn assert_finds_the_first(mut machine: Machine, frames: usize, (frame, call): (u64, u64), reads: bool) {
    let mut rng = Rng::new(4);
    let record = Record::new(1);
    for _ in 0..frames {
        copy_frame(&record, &mut machine, &mut rng, frame, call, reads);
    }
    assert_eq!(record.chosen().0, 0, "frames of {frame} in {call}, read {reads}: {:?}", record.rates());
}

#[test]
fn stores_into_caches_that_let_a_buffer_in_slowly_are_found() {
    for (frame, call) in SHAPES {
        for reads in [false, true] {
            // Past the caches what anybody sees first; into them what is best after twenty frames.
            let mut machine = Machine::new(vec![1000, 1250, 1100, 1300], vec![300; 4], 1);
            machine.fades = 60.0;
            assert_finds_the_first(machine, 1000, (frame, call), reads);
        }
    }
}

#[test]
fn a_kind_that_parts_call_much_slower_is_found_later() {
    for (frame, call) in SHAPES {
        for reads in [false, true] {
            // Parts say that the second takes 0.56 of the first, more than an opening asks about.
            let mut machine = Machine::new(vec![1000, 1250, 1900, 1900], vec![30; 4], 1);
            machine.part = vec![0, 55, 0, 0];
            assert_finds_the_first(machine, 700, (frame, call), reads);
        }
    }
}

#[test]
fn a_class_that_is_settled_has_few_contests() {
    let mut machine = Machine::new(vec![1000, 1190, 1050, 1190], vec![300; 4], 0);
    let mut rng = Rng::new(4);
    let record = Record::new(0);
    let (frame, call) = SHAPES[0];
    let mut begun = |frames: usize| {
        let mut begun = 0;
        for _ in 0..frames {
            let was_in_contest = record.is_in_contest();
            copy_frame(&record, &mut machine, &mut rng, frame, call, false);
            begun += usize::from(record.is_in_contest() && !was_in_contest);
        }
        begun
    };
    let (first, later) = (begun(1000), begun(8000));
    assert!(first >= 4, "{first} contests in 1000 frames");
    assert!((4..=24).contains(&later), "{later} contests in 8000 frames");
}

#[test]
fn contests_that_others_disturb_end_and_are_rare() {
    let mut machine = Machine::new(vec![1000, 1200, 1250, 1300], vec![300; 4], 0);
    let mut rng = Rng::new(4);
    let record = Record::new(0);
    let (frame, call) = SHAPES[0];
    let wanted = Wanted { usable: 0xf, streams: STREAMS, left: 0, frame, reads: false, at: 0 };
    for _ in 0..20 {
        copy_frame(&record, &mut machine, &mut rng, frame, call, false);
    }
    let mut begun = 0;
    for _ in 0..1000 {
        copy_frame(&record, &mut machine, &mut rng, frame, call, false);
        begun += usize::from(record.is_in_contest());
        // Frames of another thread are said to be complete, and are none that the contest copied.
        while record.is_in_contest() {
            record.frame_done(wanted, frame, 0, 0);
        }
    }
    assert!((1..=5).contains(&begun), "{begun} contests in 1000 frames");
}
