//! Whole frames: limits, peers, ours; four layouts, two sizes, cold and warm, with and without a consumer.

use memflow::mem::{MemoryView, VirtualDma};
use memflow::types::Address;
use vgpu_perception::region::FrameScratch;
use vgpu_perception::{NextUse, Region};
use vm_memory::VolatileMemory;

use crate::image::{Image, Layout, Ring};
use crate::measure::{Goals, Medians, Variant, interleave, print_ms};
use crate::raw::{consume, memcpy_pieces, memflow_translator, offset_translate, stream, streamed};

const PAGE: usize = 4096;

const CONTIGUOUS: &str = "limit: memcpy, contiguous";
const PER_PAGE: &str = "limit: memcpy per page, known pointers";
const STREAM: &str = "limit: read only, contiguous";
const STREAMED: &str = "limit: streamed copy, contiguous";
const VM_MEMORY: &str = "vm-memory read_slice per page, known pages";
const X86_64: &str = "x86_64 translate_addr per page + memcpy";
const MEMFLOW: &str = "memflow VirtualDma, no cache";
const VISIT: &str = "ours: visit_frame, nothing copied";
const HANDOFF: &str = "ours: sample_frame, Handoff";
const READ_SOON: &str = "ours: sample_frame, ReadSoon";
const RUNS_CONSUME: &str = "limit: memcpy per run + consumer's read";
const OURS_CONSUME: &str = "ours: sample_frame, ReadSoon + consumer's read";

/// Takes the frame of a slot through the library: descriptor, seqlock and translations checked.
fn sample(image: &Image, region: &Region, scratch: &mut FrameScratch, dst: &mut [u8], next_use: NextUse) {
    let mut region = *region;
    let taken = region.sample_frame(image.ram, scratch, dst, next_use).expect("the frame is there");
    assert!(taken.fresh().is_some(), "the frame is fresh");
}

/// The pages of each slot as host pointers, and joined where they touch.
fn pointers(image: &Image, ring: &Ring) -> Vec<Vec<*const u8>> {
    ring.slots.iter().map(|slot| slot.pages.iter().map(|page| image.host.at(*page)).collect()).collect()
}

/// Physical runs of a slot: first byte and length.
fn runs(pages: &[u64], bytes: usize) -> Vec<(u64, usize)> {
    let mut runs: Vec<(u64, usize)> = Vec::new();
    let mut left = bytes;
    for page in pages {
        let take = left.min(PAGE);
        if take == 0 {
            break;
        }
        match runs.last_mut() {
            Some((start, len)) if *start + *len as u64 == *page => *len += take,
            _ => runs.push((*page, take)),
        }
        left -= take;
    }
    runs
}

/// All variants see the same bytes.
fn verify(image: &Image, ring: &Ring) {
    let mut scratch = FrameScratch::new();
    let (mut right, mut ours) = (vec![0; ring.bytes], vec![1; ring.bytes]);
    for (slot, pieces) in ring.slots.iter().zip(pointers(image, ring)) {
        memcpy_pieces(&pieces, PAGE, &mut right);
        for next_use in [NextUse::Handoff, NextUse::ReadSoon] {
            sample(image, &slot.region, &mut scratch, &mut ours, next_use);
            assert!(right == ours, "our bytes are the guest's");
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

/// One column: all variants over one ring. `warm` reads the first slot again and again.
fn column(image: &Image, ring: &Ring, contiguous: &Ring, rounds: usize, warm: bool) -> Medians {
    let count = if warm { 1 } else { ring.slots.len() };
    let bytes = ring.bytes;
    let pieces = pointers(image, ring);
    let whole = pointers(image, contiguous);
    let table = image.host.offset_table(image.root);
    let region = image.host.region();
    let mut memflow =
        VirtualDma::new(image.host.connector(), memflow::architecture::x86::x64::ARCH, memflow_translator(image.root));
    // One destination for all, so that no variant has a warmer one.
    // It begins at a page, as a buffer that is mapped or shared does: stores past the caches are whole lines.
    let mut buffer = vec![0_u8; bytes + PAGE];
    let skip = buffer.as_ptr().align_offset(PAGE);
    let dst = core::cell::RefCell::new(&mut buffer[skip..skip + bytes]);
    let scratch = core::cell::RefCell::new(FrameScratch::new());
    let ours = |next_use: NextUse, consumed: bool| {
        let (dst, scratch) = (&dst, &scratch);
        move |nth: usize| {
            let mut dst = dst.borrow_mut();
            sample(image, &ring.slots[nth % count].region, &mut scratch.borrow_mut(), &mut dst, next_use);
            if consumed {
                core::hint::black_box(consume(&dst[..]));
            }
        }
    };
    let variants: Vec<Variant<'_>> = vec![
        (CONTIGUOUS, Box::new(|nth| memcpy_pieces(&whole[nth % count][..1], bytes, &mut dst.borrow_mut()))),
        (
            STREAM,
            Box::new(|nth| {
                core::hint::black_box(stream(whole[nth % count][0], bytes));
            }),
        ),
        (STREAMED, Box::new(|nth| streamed(whole[nth % count][0], &mut dst.borrow_mut()))),
        (PER_PAGE, Box::new(|nth| memcpy_pieces(&pieces[nth % count], PAGE, &mut dst.borrow_mut()))),
        (
            VM_MEMORY,
            Box::new(|nth| {
                let slot = &ring.slots[nth % count];
                for (page, to) in slot.pages.iter().zip(dst.borrow_mut().chunks_mut(PAGE)) {
                    let from = region.as_volatile_slice();
                    let from = from.subslice(*page as usize, to.len()).expect("a page");
                    from.copy_to(to);
                }
            }),
        ),
        (
            X86_64,
            Box::new(|nth| {
                let slot = &ring.slots[nth % count];
                for (skip, to) in (0..).step_by(PAGE).zip(dst.borrow_mut().chunks_mut(PAGE)) {
                    let page = offset_translate(&table, slot.gva + skip);
                    memcpy_pieces(&[image.host.at(page)], PAGE, to);
                }
            }),
        ),
        (
            MEMFLOW,
            Box::new(|nth| {
                let at = Address::from(ring.slots[nth % count].gva);
                memflow.read_raw_into(at, &mut dst.borrow_mut()).expect("memflow reads the frame");
            }),
        ),
        (
            VISIT,
            Box::new(|nth| {
                let mut region = ring.slots[nth % count].region;
                let taken = region.visit_frame(image.ram, &mut scratch.borrow_mut(), |stretch| {
                    core::hint::black_box(stretch.runs());
                    Ok(())
                });
                assert!(taken.expect("the frame is there").fresh().is_some(), "the frame is fresh");
            }),
        ),
        (HANDOFF, Box::new(ours(NextUse::Handoff, false))),
        (READ_SOON, Box::new(ours(NextUse::ReadSoon, false))),
        (
            RUNS_CONSUME,
            Box::new(|nth| {
                let mut dst = dst.borrow_mut();
                let mut rest = &mut dst[..];
                for (start, len) in runs(&ring.slots[nth % count].pages, bytes) {
                    let (to, tail) = rest.split_at_mut(len);
                    memcpy_pieces(&[image.host.at(start)], len, to);
                    rest = tail;
                }
                core::hint::black_box(consume(&dst[..]));
            }),
        ),
        (OURS_CONSUME, Box::new(ours(NextUse::ReadSoon, true))),
    ];
    interleave(rounds, 2, variants)
}

/// Measures and prints everything about frames.
pub(crate) fn run(image: &Image, goals: &mut Goals, quick: bool) {
    let rounds = if quick { 6 } else { 60 };
    for (large, title) in [(false, "1080p"), (true, "4K")] {
        for warm in [false, true] {
            if warm && large {
                continue;
            }
            let contiguous = image.ring(Layout::Contiguous, large);
            let mut columns = Vec::new();
            for layout in Layout::ALL {
                let ring = image.ring(layout, large);
                if !warm {
                    verify(image, ring);
                }
                columns.push((
                    layout.name(),
                    column(image, ring, contiguous, if large { rounds / 2 } else { rounds }, warm),
                ));
            }
            let state = if warm { "warm" } else { "cold" };
            let shown: Vec<_> = columns.iter().map(|(name, medians)| (*name, medians)).collect();
            print_ms(&format!("{title} frame, {state}"), CONTIGUOUS, &shown);
            println!();
            if !warm {
                judge(goals, title, large, &columns);
            }
        }
    }
}

fn judge(goals: &mut Goals, title: &str, large: bool, columns: &[(&str, Medians)]) {
    let [(_, scattered), (_, fragments), (_, contiguous), (_, pages)] = columns else { return };
    let best = |medians: &Medians| medians.of(HANDOFF);
    goals.at_most(&format!("{title} scattered / memcpy per page"), best(scattered) / scattered.of(PER_PAGE), 0.55);
    goals.at_most(&format!("{title} scattered / memflow"), best(scattered) / scattered.of(MEMFLOW), 0.50);
    let bound = if large { 0.60 } else { 0.80 };
    goals.at_most(&format!("{title} contiguous / memcpy"), best(contiguous) / contiguous.of(CONTIGUOUS), bound);
    goals.at_most(&format!("{title} 2M pages / memcpy"), best(pages) / pages.of(CONTIGUOUS), bound);
    goals.at_most(
        &format!("{title} 64K fragments / memcpy contiguous"),
        best(fragments) / fragments.of(CONTIGUOUS),
        1.10,
    );
    for (layout, medians, bound) in [("scattered", scattered, 0.65), ("contiguous", contiguous, 0.90)] {
        let ratio = medians.of(OURS_CONSUME) / medians.of(RUNS_CONSUME);
        goals.at_most(&format!("{title} {layout} copy + read / memcpy of runs + read"), ratio, bound);
    }
}
