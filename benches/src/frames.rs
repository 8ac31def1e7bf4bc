//! Whole frames: limits, peers, every bare copy method, ours; four layouts, two sizes, three states of the caches, with
//! and without a consumer.
//!
//! *Cold*: every line of the frame was flushed from all caches just before, by a mapping that nobody reads through: the
//! translations of its pages are as cold as if nobody had flushed anything. *Just written*: another core has written
//! every word of it just before, as a guest's does. *Warm*: this core has just read it. The yardstick of a column is
//! the best bare method of that column, in the same run: `read_runs` with known runs and a fixed method, which
//! translates nothing and checks nothing. Which one that is shows in one half of the samples; what it takes, in the
//! other half.

use core::cell::RefCell;
use std::sync::mpsc;
use std::time::Instant;

use memflow::mem::{MemoryView, VirtualDma};
use memflow::types::Address;
use vgpu_perception::region::FrameScratch;
use vgpu_perception::{CopyHint, CopyMethod, CopyPolicy, Gpa, NextUse, PhysRead, PhysRun, Region};
use vgpu_perception_mapped::{GuestRam, Populate, copy_methods};
use vm_memory::VolatileMemory;

use crate::image::{Image, Layout, Ring};
use crate::measure::{Buffer, Goals, Medians, Timed, Untimed, interleave_timed, print_ms};
use crate::raw::{consume, flush_pages, memcpy_pieces, memflow_translator, offset_translate, stream};
use crate::writer::Writer;

const PAGE: usize = 4096;
/// Runs that the library hands to a backend at once.
const AT_ONCE: usize = 512;

const PER_PAGE: &str = "memcpy per page, known pointers";
const PER_PAGE_AGAIN: &str = "memcpy per page, again (the noise)";
const CONTIGUOUS: &str = "memcpy, contiguous frame";
const STREAM: &str = "read only, contiguous frame";
const VM_MEMORY: &str = "vm-memory read_slice per page, known pages";
const X86_64: &str = "x86_64 translate_addr per page + memcpy";
const MEMFLOW: &str = "memflow VirtualDma, no cache";
const VISIT: &str = "ours: visit_frame, nothing copied";
const HANDOFF: &str = "ours: sample_frame, Handoff";
const READ_SOON: &str = "ours: sample_frame, ReadSoon";
const BEST: &str = "best bare method";
const FIRST_PLAIN: &str = "memcpy per page, first 100 frames";
const FIRST_HANDOFF: &str = "ours: Handoff, first 100 frames";
const FIRST_READ_SOON: &str = "ours: ReadSoon, first 100 frames";

/// Where the frame is when it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Cold,
    Written,
    Warm,
}

impl State {
    const ALL: [Self; 3] = [Self::Cold, Self::Written, Self::Warm];

    const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Written => "just written",
            Self::Warm => "warm",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Written => "written",
            Self::Warm => "warm",
        }
    }
}

/// Takes the frame of a slot through the library: descriptor, seqlock and translations checked.
fn sample(ram: &GuestRam, region: &Region, scratch: &mut FrameScratch, dst: &mut [u8], next_use: NextUse) {
    let mut region = *region;
    let taken = region.sample_frame(ram, scratch, dst, next_use).expect("the frame is there");
    assert!(taken.fresh().is_some(), "the frame is fresh");
}

/// The pages of each slot as host pointers.
fn pointers(image: &Image, ring: &Ring) -> Vec<Vec<*const u8>> {
    ring.slots.iter().map(|slot| slot.pages.iter().map(|page| image.host.at(*page)).collect()).collect()
}

/// The runs of a slot, pages joined where they touch.
fn runs(pages: &[u64], bytes: usize) -> Vec<PhysRun> {
    let mut runs: Vec<PhysRun> = Vec::new();
    let mut left = bytes;
    for page in pages {
        let take = left.min(PAGE) as u64;
        match runs.last_mut() {
            _ if take == 0 => break,
            Some(run) if run.gpa.get() + run.len == *page => run.len += take,
            _ => runs.push(PhysRun { gpa: Gpa::new(*page), len: take }),
        }
        left -= take as usize;
    }
    runs
}

/// Copies known runs with a fixed method, as many at once as the library would.
fn bare(ram: &GuestRam, runs: &[PhysRun], dst: &mut [u8], method: CopyMethod) {
    let hint = CopyHint::new(dst.len() as u64, NextUse::Handoff).with_policy(CopyPolicy::Fixed(method));
    let mut rest = dst;
    for part in runs.chunks(AT_ONCE) {
        let len: u64 = part.iter().map(|run| run.len).sum();
        let (to, after) = rest.split_at_mut(len as usize);
        ram.read_runs(part, to, hint).expect("the runs are RAM");
        rest = after;
    }
}

/// All variants see the same bytes.
fn verify(image: &Image, ram: &GuestRam, ring: &Ring) {
    let mut scratch = FrameScratch::new();
    let (mut right, mut ours) = (vec![0; ring.bytes], vec![1; ring.bytes]);
    for (slot, pieces) in ring.slots.iter().zip(pointers(image, ring)) {
        memcpy_pieces(&pieces, PAGE, &mut right);
        for next_use in [NextUse::Handoff, NextUse::ReadSoon] {
            sample(ram, &slot.region, &mut scratch, &mut ours, next_use);
            assert!(right == ours, "our bytes are the guest's");
        }
        for (method, name) in copy_methods() {
            ours.fill(1);
            bare(ram, &runs(&slot.pages, ring.bytes), &mut ours, method);
            assert!(right == ours, "the bytes of {name} are the guest's");
        }
        let mut peer = VirtualDma::new(
            image.host.connector(),
            memflow::architecture::x86::x64::ARCH,
            memflow_translator(image.root),
        );
        peer.read_raw_into(Address::from(slot.gva), &mut ours).expect("memflow reads the frame");
        assert!(right == ours, "memflow's bytes are the guest's");
    }
}

/// Writes every word of the pages that it is sent, on another core where there is one: what a guest does with a frame.
fn guest_core<'s>(scope: &'s std::thread::Scope<'s, '_>, writer: &'s Writer) -> impl FnMut(Vec<u64>) + use<'s> {
    let (orders, received) = mpsc::channel::<Vec<u64>>();
    let (done, written) = mpsc::channel();
    scope.spawn(move || {
        for pages in received {
            for page in pages {
                for word in (page..page + PAGE as u64).step_by(8) {
                    writer.store_u64(word, writer.load_u64(word));
                }
            }
            if done.send(()).is_err() {
                return;
            }
        }
    });
    move |pages| {
        orders.send(pages).expect("the writer runs");
        written.recv().expect("the writer writes");
    }
}

/// One column: all variants over one ring, as copies and as copies that are read.
fn column(image: &Image, ring: &Ring, contiguous: &Ring, rounds: usize, state: State, choices: bool) -> [Medians; 2] {
    let count = if state == State::Warm { 1 } else { ring.slots.len() };
    let bytes = ring.bytes;
    // A mapping of its own: what is learned of this column is learned in this column.
    let ram = GuestRam::open_flat(image.path()).expect("the RAM file maps");
    ram.populate(Populate::Read).expect("the RAM file populates");
    let ram = &ram;
    if state == State::Cold {
        // Through another mapping: what is learned of buffers that others write to is of no use.
        verify(image, &GuestRam::open_flat(image.path()).expect("the RAM file maps"), ring);
    }
    let pieces = pointers(image, ring);
    let whole = pointers(image, contiguous);
    let all: Vec<Vec<PhysRun>> = ring.slots.iter().map(|slot| runs(&slot.pages, bytes)).collect();
    let table = image.host.offset_table(image.root);
    let region = image.host.region();
    let memflow = RefCell::new(VirtualDma::new(
        image.host.connector(),
        memflow::architecture::x86::x64::ARCH,
        memflow_translator(image.root),
    ));
    // One destination for all: two of them lie differently in the caches, and the same copy to either differs by up to
    // a sixth, for as long as they are there. What another variant left of it is gone once a variant has settled.
    let shared = RefCell::new(Buffer::new(bytes));
    let buffer = || &shared;
    let scratch = RefCell::new(FrameScratch::new());
    // Times a copy into the destination, and what a consumer that reads it all sees.
    fn timed<'v>(buffer: &'v RefCell<Buffer>, mut copy: impl FnMut(usize, &mut [u8]) + 'v) -> Timed<'v> {
        Box::new(move |nth| {
            let mut buffer = buffer.borrow_mut();
            let dst = buffer.bytes();
            let start = Instant::now();
            copy(nth, dst);
            let copied = start.elapsed().as_nanos() as f64;
            core::hint::black_box(consume(dst));
            [copied, start.elapsed().as_nanos() as f64]
        })
    }
    let ours = |next_use| {
        let scratch = &scratch;
        timed(buffer(), move |nth, dst| {
            sample(ram, &ring.slots[nth % count].region, &mut scratch.borrow_mut(), dst, next_use);
        })
    };
    let per_page = || timed(buffer(), |nth, dst| memcpy_pieces(&pieces[nth % count], PAGE, dst));
    let mut variants: Vec<(&'static str, Timed<'_>)> = vec![
        (PER_PAGE, per_page()),
        (PER_PAGE_AGAIN, per_page()),
        (CONTIGUOUS, timed(buffer(), |nth, dst| memcpy_pieces(&whole[nth % count][..1], bytes, dst))),
        (
            STREAM,
            timed(buffer(), |nth, _| {
                core::hint::black_box(stream(whole[nth % count][0], bytes));
            }),
        ),
        (
            VM_MEMORY,
            timed(buffer(), |nth, dst| {
                for (page, to) in ring.slots[nth % count].pages.iter().zip(dst.chunks_mut(PAGE)) {
                    let from = region.as_volatile_slice();
                    from.subslice(*page as usize, to.len()).expect("a page").copy_to(to);
                }
            }),
        ),
        (
            X86_64,
            timed(buffer(), |nth, dst| {
                for (skip, to) in (0..).step_by(PAGE).zip(dst.chunks_mut(PAGE)) {
                    let page = offset_translate(&table, ring.slots[nth % count].gva + skip);
                    memcpy_pieces(&[image.host.at(page)], PAGE, to);
                }
            }),
        ),
        (
            MEMFLOW,
            timed(buffer(), |nth, dst| {
                let at = Address::from(ring.slots[nth % count].gva);
                memflow.borrow_mut().read_raw_into(at, dst).expect("memflow reads the frame");
            }),
        ),
        (
            VISIT,
            timed(buffer(), |nth, _| {
                let mut region = ring.slots[nth % count].region;
                let taken = region.visit_frame(ram, &mut scratch.borrow_mut(), |stretch| {
                    core::hint::black_box(stretch.runs());
                    Ok(())
                });
                assert!(taken.expect("the frame is there").fresh().is_some(), "the frame is fresh");
            }),
        ),
        (HANDOFF, ours(NextUse::Handoff)),
        (READ_SOON, ours(NextUse::ReadSoon)),
    ];
    for (method, name) in copy_methods() {
        let all = &all;
        variants.push((name, timed(buffer(), move |nth, dst| bare(ram, &all[nth % count], dst, method))));
    }
    std::thread::scope(|scope| {
        let mut write = guest_core(scope, &image.writer);
        let mut prepare = |nth: usize| {
            let slot = nth % count;
            match state {
                State::Cold => {
                    flush_pages(&image.writer, &ring.slots[slot].pages);
                    flush_pages(&image.writer, &contiguous.slots[slot].pages);
                }
                State::Written => {
                    write(ring.slots[slot].pages.clone());
                    write(contiguous.slots[slot].pages.clone());
                }
                State::Warm => {}
            }
        };
        // What is published is the state that a reader is in after its first frames, and what the first ones take.
        let mut first = Vec::new();
        for (row, name, frames) in
            [(FIRST_PLAIN, PER_PAGE, FIRST), (FIRST_HANDOFF, HANDOFF, SETTLING), (FIRST_READ_SOON, READ_SOON, SETTLING)]
        {
            let Some((_, copy)) = variants.iter_mut().find(|(variant, _)| *variant == name) else { continue };
            let mut sums = [0.0; 2];
            for nth in 0..frames {
                prepare(nth);
                let took = copy(nth);
                for (sum, took) in sums.iter_mut().zip(took).filter(|_| nth < FIRST) {
                    *sum += took / FIRST as f64;
                }
            }
            first.push((row, sums));
        }
        let mut both = interleave_timed(rounds, Untimed::UntilSettled, IN_A_ROW, variants, &mut prepare);
        if choices {
            print!("{}", ram.calibration());
        }
        for (nth, medians) in both.iter_mut().enumerate() {
            for (row, sums) in &first {
                medians.push(row, sums[nth]);
            }
            let names: Vec<&str> = copy_methods().map(|(_, name)| name).collect();
            let best = medians.best_of(&names);
            medians.push(BEST, best);
        }
        both
    })
}

/// Frames that are timed in a row, once a variant has settled: whoever copies frames copies one after the other, and
/// how the caches treat a buffer depends on how often it came back. (On an Intel Xeon a 4K copy into the caches takes
/// 36 frames to reach half of what the first one took, after something else has used the caches.)
const IN_A_ROW: usize = 8;
/// Frames whose mean is shown: those in which the choice is made.
const FIRST: usize = 100;
/// Frames that ours has taken before its medians are: ten to twenty seconds of a screen.
const SETTLING: usize = 500;

/// Measures and prints everything about frames.
pub(crate) fn run(image: &Image, goals: &mut Goals, quick: bool, has: &dyn Fn(&str) -> bool) {
    let rounds = if quick { 2 } else { 6 };
    let any_state = State::ALL.into_iter().any(|state| has(state.word()));
    let any_size = has("1080p") || has("4K");
    for (large, title) in [(false, "1080p"), (true, "4K")] {
        for state in State::ALL {
            if (any_state && !has(state.word())) || (any_size && !has(title)) {
                continue;
            }
            let contiguous = image.ring(Layout::Contiguous, large);
            let rounds = match (large, state) {
                (true, _) => rounds / 2,
                // Warm ones are so short that as many would be over before what else the machine does has changed.
                (false, State::Warm) => rounds * 4,
                (false, _) => rounds,
            };
            let columns = Layout::ALL.map(|layout| {
                (layout.name(), column(image, image.ring(layout, large), contiguous, rounds, state, has("--choices")))
            });
            for (nth, what) in [(0, ""), (1, ", then read by its consumer")] {
                let shown: Vec<_> = columns.iter().map(|(name, medians)| (*name, &medians[nth])).collect();
                print_ms(&format!("{title} frame, {}{what}", state.name()), PER_PAGE, &shown);
            }
            println!();
            for (layout, [copied, read]) in &columns {
                judge(goals, &format!("{title} {layout}, {}", state.name()), copied, read);
            }
            if state == State::Cold {
                let (_, [scattered, _]) = &columns[0];
                let ours = scattered.of(HANDOFF);
                goals.at_most(&format!("{title} scattered / memcpy per page"), ours / scattered.of(PER_PAGE), 0.62);
                goals.at_most(&format!("{title} scattered / memflow"), ours / scattered.of(MEMFLOW), 0.60);
            }
        }
    }
}

/// What holds for every layout, state and size.
fn judge(goals: &mut Goals, what: &str, copied: &Medians, read: &Medians) {
    for (what, medians, ours) in
        [(format!("{what}, Handoff"), copied, HANDOFF), (format!("{what}, ReadSoon + read"), read, READ_SOON)]
    {
        let (ours, plain) = (medians.of(ours), medians.of(PER_PAGE));
        // The run's noise: one measurement of the same thing and another.
        let again = medians.of(PER_PAGE_AGAIN);
        let noise = (plain / again).max(again / plain);
        goals.at_most(&format!("{what} / best bare"), ours / medians.of(BEST), 1.08);
        goals.at_most(&format!("{what} / memcpy per page"), ours / plain, noise.max(1.05));
    }
}
