//! Translations, snapshots and polls: what costs nanoseconds.

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::time::Instant;

use memflow::mem::{MemoryView, VirtualDma, VirtualTranslate};
use memflow::types::Address;
use vgpu_perception::abi::producer;
use vgpu_perception::region::{FrameScratch, Sample, Skip};
use vgpu_perception::{AddressSpace, Cr3, Gva, NextUse, PageWalker};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_producer::RegionWrite;

use crate::builder::{Pages, below};
use crate::image::{Image, Layout, Ring};
use crate::measure::{Goals, Medians, Variant, interleave, median, print_ns};
use crate::raw::{flush, memflow_translator, offset_translate};
use crate::writer::Writer;

const OURS: &str = "ours";
const TOGETHER: &str = "ours, side by side";
const X86_64: &str = "x86_64 translate_addr";
const MEMFLOW: &str = "memflow virt_to_phys";
const BATCH: usize = 4096;

/// Divides every median by the operations of one call.
fn per_operation(medians: &Medians, operations: usize) -> Medians {
    let mut each = Medians::new();
    for (name, median) in medians.rows() {
        each.push(name, median / operations as f64);
    }
    each
}

/// The translations of one list of addresses; each depends on the one before it where `dependent` is set.
fn chase<const DEPENDENT: bool>(list: &[(usize, u64)], mut translate: impl FnMut(usize, u64) -> u64) {
    let (mut sum, mut carry) = (0_u64, 0);
    for (root, gva) in list {
        let gpa = translate(*root, gva + carry);
        // Nothing is added to the next address, but only the result says so.
        carry = if DEPENDENT { gpa & 1 } else { 0 };
        sum = sum.wrapping_add(gpa);
    }
    black_box(sum);
}

fn translations<const DEPENDENT: bool>(image: &Image, list: &[(usize, u64)], roots: &[u64], rounds: usize) -> Medians {
    let walkers: Vec<_> =
        roots.iter().map(|root| PageWalker::new(image.ram, AddressSpace::new(Cr3::new(*root)))).collect();
    let tables: Vec<_> = roots.iter().map(|root| image.host.offset_table(*root)).collect();
    let mut peers: Vec<_> = roots
        .iter()
        .map(|root| {
            let arch = memflow::architecture::x86::x64::ARCH;
            VirtualDma::new(image.host.connector(), arch, memflow_translator(*root))
        })
        .collect();
    let ours = |walker: &PageWalker<&GuestRam>, gva| walker.translate(Gva::new(gva)).map_or(0, |found| found.gpa.get());
    let spaces: Vec<_> = walkers.iter().map(|walker| *walker.space()).collect();
    let together = || {
        let mut sum = 0_u64;
        let walks = list.iter().map(|(root, gva)| (&spaces[*root], Gva::new(*gva)));
        walkers[0].translate_together(walks, |found| {
            sum = sum.wrapping_add(found.map_or(0, |found| found.gpa.get()));
        });
        black_box(sum);
    };
    let mut variants: Vec<Variant<'_>> = vec![
        (
            OURS,
            Box::new(|_| match walkers.as_slice() {
                [walker] => chase::<DEPENDENT>(list, |_, gva| ours(walker, gva)),
                many => chase::<DEPENDENT>(list, |root, gva| ours(&many[root], gva)),
            }),
        ),
        (
            X86_64,
            Box::new(|_| match tables.as_slice() {
                [table] => chase::<DEPENDENT>(list, |_, gva| offset_translate(table, gva)),
                many => chase::<DEPENDENT>(list, |root, gva| offset_translate(&many[root], gva)),
            }),
        ),
        (
            MEMFLOW,
            Box::new(|_| {
                chase::<DEPENDENT>(list, |root, gva| {
                    peers[root].virt_to_phys(Address::from(gva)).map_or(0, |found| found.address().to_umem())
                });
            }),
        ),
    ];
    if !DEPENDENT {
        // Where each address is known only when the one before it is translated, nothing can be side by side.
        variants.insert(1, (TOGETHER, Box::new(|_| together())));
    }
    per_operation(&interleave(rounds, 3, variants), list.len())
}

fn translate(image: &Image, goals: &mut Goals, rounds: usize) {
    let ring = image.ring(Layout::Scattered, false);
    let span = ring.bytes as u64;
    let mut seed = 7;
    let sequential: Vec<_> = (0..BATCH).map(|nth| (0, ring.slots[0].gva + (nth as u64 * 4096) % span)).collect();
    let one: Vec<_> = (0..BATCH)
        .map(|_| {
            let slot = below(&mut seed, ring.slots.len() as u64) as usize;
            (0, ring.slots[slot].gva + (below(&mut seed, span) & !7))
        })
        .collect();
    let mut columns = vec![
        ("sequential", translations::<false>(image, &sequential, &[image.root], rounds)),
        ("random", translations::<false>(image, &one, &[image.root], rounds)),
        ("random, dependent", translations::<true>(image, &one, &[image.root], rounds)),
    ];
    if image.adversarial.len() > 1 {
        let roots = &image.adversarial[1..];
        let far: Vec<_> = (0..BATCH * 4)
            .map(|_| (below(&mut seed, 64) as usize, 0x10_0000_0000 + (below(&mut seed, 256 << 20) & !7)))
            .collect();
        columns.push(("64 processes", translations::<false>(image, &far, roots, rounds)));
        columns.push(("64, dependent", translations::<true>(image, &far, roots, rounds)));
    }
    let shown: Vec<_> = columns.iter().map(|(name, medians)| (*name, medians)).collect();
    print_ns("One translation", X86_64, &shown);
    println!();
    for (name, medians) in &columns {
        if name.starts_with("64") {
            if !name.ends_with("dependent") {
                let ratio = medians.of(TOGETHER) / medians.of(X86_64);
                goals.at_most(&format!("translation, {name}, side by side / x86_64"), ratio, 1.0);
            }
            continue;
        }
        goals.at_most(&format!("translation, {name} / x86_64"), medians.of(OURS) / medians.of(X86_64), 1.0);
        goals.at_most(&format!("translation, {name} / memflow"), medians.of(OURS) / medians.of(MEMFLOW), 0.04);
    }
}

const FLOOR: &str = "floor: seqlock, 128 B, known pointer";
const WALK: &str = "full walk, then 128 B";
const MEMFLOW_READ: &str = "memflow read_raw_into 128 B, no cache";
const CURSOR: &str = "ours: read_cursor";
const GEOMETRY: &str = "ours: read_geometry";
const STATUS: &str = "ours: read_status";
const POLL: &str = "ours: sample_frame, nothing new";

/// The operations on one region, each a closure that does it `times` times.
fn snapshots<'v>(image: &'v Image, ring: &'v Ring, times: usize) -> Vec<Variant<'v>> {
    let slot = &ring.slots[0];
    let (ram, producer_page) = (image.ram, slot.producer);
    let line = producer_page + producer::CURSOR;
    let host = image.host;
    let walker = PageWalker::new(ram, *slot.region.space());
    let base = slot.region.base();
    // A seqlock around 128 bytes that are copied out, at a place that nobody checks.
    let copy = move |at: u64| {
        let mut words = [0_u64; 16];
        let before = host.half(at);
        for (index, word) in (0_u64..).zip(&mut words) {
            *word = host.word(at + index * 8);
        }
        (before == host.half(at)).then_some(words)
    };
    let mut memflow =
        VirtualDma::new(host.connector(), memflow::architecture::x86::x64::ARCH, memflow_translator(image.root));
    let mut polled = slot.region;
    let mut scratch = FrameScratch::new();
    let mut dst = vec![0; ring.bytes];
    let taken = polled.sample_frame(ram, &mut scratch, &mut dst, NextUse::Unknown);
    assert!(matches!(taken, Ok(Sample::Fresh(_))), "the frame is there");
    let again = polled.sample_frame(ram, &mut scratch, &mut dst, NextUse::Unknown);
    assert!(matches!(again, Ok(Sample::Skip(Skip::Unchanged { .. }))), "nothing is new");
    let (mut cursor, mut geometry, mut status) = (slot.region, slot.region, slot.region);
    let repeat = move |mut once: Box<dyn FnMut() + 'v>| -> Box<dyn FnMut(usize) + 'v> {
        Box::new(move |_| {
            for _ in 0..times {
                once();
            }
        })
    };
    vec![
        (
            FLOOR,
            repeat(Box::new(move || {
                black_box(copy(black_box(line)));
            })),
        ),
        (
            WALK,
            repeat(Box::new(move || {
                let found = walker.translate(black_box(base)).expect("the region is there");
                black_box(copy(found.gpa.get() + producer::CURSOR));
            })),
        ),
        (
            MEMFLOW_READ,
            repeat(Box::new(move || {
                let mut bytes = [0; 128];
                let at = Address::from(base.get() + producer::CURSOR);
                memflow.read_raw_into(at, &mut bytes).expect("the region is there");
                black_box(bytes);
            })),
        ),
        (
            CURSOR,
            repeat(Box::new(move || {
                black_box(&cursor.read_cursor(black_box(ram)));
            })),
        ),
        (
            GEOMETRY,
            repeat(Box::new(move || {
                black_box(&geometry.read_geometry(black_box(ram)));
            })),
        ),
        (
            STATUS,
            repeat(Box::new(move || {
                black_box(&status.read_status(black_box(ram)));
            })),
        ),
        (
            POLL,
            repeat(Box::new(move || {
                black_box(&polled.sample_frame(black_box(ram), &mut scratch, &mut dst, NextUse::Unknown));
            })),
        ),
    ]
}

/// The lines that a snapshot touches: the four entries on the way to the page, and the page's own.
fn lines(image: &Image, ring: &Ring) -> Vec<*const u8> {
    let slot = &ring.slots[0];
    let (base, mut table) = (slot.region.base().get(), image.root);
    let mut lines = Vec::new();
    for shift in [39, 30, 21, 12] {
        let at = table + ((base >> shift) & 511) * 8;
        lines.push(image.host.at(at));
        table = image.host.word(at) & 0x000f_ffff_ffff_f000;
    }
    lines.extend((0..6).map(|line| image.host.at(slot.producer + line * 64)));
    lines
}

/// Each operation alone, its lines thrown out of the caches before; the cost of reading the clock taken off.
fn cold(image: &Image, ring: &Ring, samples: usize) -> Medians {
    let lines = lines(image, ring);
    let mut variants = snapshots(image, ring, 1);
    variants.push(("", Box::new(|_| {})));
    let mut times = vec![Vec::with_capacity(samples); variants.len()];
    for nth in 0..samples {
        for ((_, once), times) in variants.iter_mut().zip(&mut times) {
            // The code and the caller's own data are warm.
            once(nth);
            flush(&lines);
            let start = Instant::now();
            once(nth);
            times.push(start.elapsed().as_nanos() as f64);
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let clock = medians.last().copied().unwrap_or(0.0);
    let mut all = Medians::new();
    for ((name, _), median) in variants.iter().zip(&medians).filter(|((name, _), _)| !name.is_empty()) {
        all.push(name, median - clock);
    }
    all
}

/// Moves the cursor about once in `pause` until told to stop.
fn write_cursor(writer: &Writer, page: u64, pause: Duration, stop: &AtomicBool) {
    let mut moving = Mover::new(Pages { writer, page, control: page });
    while !stop.load(Ordering::Relaxed) {
        moving.step();
        let next = Instant::now() + pause;
        while Instant::now() < next {
            core::hint::spin_loop();
        }
    }
}

/// A writer of one line of a region that exists.
struct Mover<'w> {
    pages: Pages<'w>,
    seq: u32,
}

impl<'w> Mover<'w> {
    fn new(pages: Pages<'w>) -> Self {
        let seq = pages.writer.load_u64(pages.page + producer::CURSOR) as u32;
        Self { pages, seq }
    }

    fn step(&mut self) {
        self.pages.store_u32(producer::CURSOR_SEQ, self.seq.wrapping_add(1));
        self.pages.fence_release();
        self.pages.store_u64(producer::CURSOR + 8, u64::from(self.seq));
        self.seq = self.seq.wrapping_add(2);
        self.pages.store_release_u32(producer::CURSOR_SEQ, self.seq);
    }
}

fn snapshot(image: &Image, goals: &mut Goals, rounds: usize) {
    let ring = image.ring(Layout::Scattered, false);
    let hot = || per_operation(&interleave(rounds, 3, snapshots(image, ring, 1000)), 1000);
    let quiet = hot();
    let stop = AtomicBool::new(false);
    let live = std::thread::scope(|scope| {
        let (writer, page, stop) = (&image.writer, ring.slots[0].producer, &stop);
        scope.spawn(move || write_cursor(writer, page, Duration::from_micros(1), stop));
        let live = hot();
        stop.store(true, Ordering::Relaxed);
        live
    });
    let cold = cold(image, ring, 200 * rounds);
    print_ns("One snapshot", FLOOR, &[("hot", &quiet), ("live writer, 1 us", &live), ("lines flushed", &cold)]);
    println!();
    goals.at_most("cursor, hot / floor", quiet.of(CURSOR) / quiet.of(FLOOR), 1.4);
    goals.at_most("geometry, hot / floor", quiet.of(GEOMETRY) / quiet.of(FLOOR), 1.4);
    goals.at_most("cursor, cold / full walk", cold.of(CURSOR) / cold.of(WALK), 0.40);
    goals.at_most("geometry, cold / full walk", cold.of(GEOMETRY) / cold.of(WALK), 0.40);
    goals.at_most("unchanged poll / cursor", quiet.of(POLL) / quiet.of(CURSOR), 1.4);
}

/// Measures and prints everything that is small.
pub(crate) fn run(image: &Image, goals: &mut Goals, quick: bool) {
    let rounds = if quick { 10 } else { 60 };
    translate(image, goals, rounds);
    snapshot(image, goals, rounds);
}
