//! A writer that never stops: what a copy by the kernel still keeps whole.

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use common::{InPrivate, Private, Vmm, child, memory_of, say, told_to_go_on};
use vgpu_perception::process::roots::KernelHalf;
use vgpu_perception::region::{CursorSnapshot, FrameScratch, Liveness, Sample};
use vgpu_perception::{AddressSpace, Cr3, Gpa, NextUse, PhysRead};
use vgpu_perception_process::Piece;
use vgpu_perception_producer::{CursorState, FrameMeta, pattern};
use vgpu_perception_testkit::region::RegionImage;
use vgpu_perception_testkit::{LinuxOptions, Ring, candidates, standard_linux};

const RAM: u64 = 2 << 30;
const SIDE: u32 = 320;

/// For some seconds, and on a busy machine until enough was seen, within a minute.
fn goes_on(begun: Instant, seconds: u64, enough: bool) -> bool {
    let limit = if enough { seconds } else { 60 };
    begun.elapsed() < Duration::from_secs(limit)
}

/// A VMM that writes two words for ever, with all their bytes at once.
fn vmm_of_words() {
    let memory = Private::new(1 << 20);
    memory.fill(0, 1 << 20);
    memory.word(0x1000).store(0, Ordering::Relaxed);
    say(&[memory.addr()]);
    let gone = Arc::new(AtomicBool::new(false));
    let watch = Arc::clone(&gone);
    std::thread::spawn(move || {
        while told_to_go_on() {}
        watch.store(true, Ordering::Relaxed);
    });
    let mut n = 0_u64;
    while !gone.load(Ordering::Relaxed) {
        // Eight bytes that are the same, so that a mixture of two stores shows.
        memory.word(0x1000).store(n % 256 * 0x0101_0101_0101_0101, Ordering::Relaxed);
        n += 1;
        // As fast as copies are, so that many of them meet a store, and not so fast that each does.
        for _ in 0..n % 4096 {
            core::hint::spin_loop();
        }
    }
}

#[test]
fn words_are_whole_however_fast_they_change() {
    child(vmm_of_words);
    let mut vmm = Vmm::start("words_are_whole_however_fast_they_change");
    let host_addr = vmm.hear()[0];
    let ram = vmm.ram(&[Piece { gpa: Gpa::new(0), len: 1 << 20, host_addr }]);
    let (mut different, mut last) = (0, 0);
    let whole = |bytes: &[u8]| bytes.iter().all(|byte| *byte == bytes[0]);
    let begun = Instant::now();
    while goes_on(begun, 2, different > 100) {
        let word = ram.load_u64(Gpa::new(0x1000)).unwrap();
        assert!(whole(&word.to_le_bytes()), "{word:#x}");
        assert!(whole(&ram.load_u32(Gpa::new(0x1004)).unwrap().to_le_bytes()));
        different += u64::from(word != last);
        last = word;
    }
    assert!(different > 100, "the writer ran: {different} different words");
}

/// A VMM with a guest whose producer publishes as fast as it can.
fn vmm_of_a_producer() {
    let image = RegionImage { width: SIDE, height: SIDE, frames: 1, ..RegionImage::default() };
    let linux =
        standard_linux(LinuxOptions { ram: RAM, processes: 6, ring: Ring::All, image, ..LinuxOptions::default() });
    let memory = Private::new(RAM);
    memory.load(&linux.guest.ram);
    let space = linux.processes[linux.producer].space;
    let gone = Arc::new(AtomicBool::new(false));
    let watch = Arc::clone(&gone);
    let (began, begun) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = began.send(());
        while told_to_go_on() {}
        watch.store(true, Ordering::Relaxed);
    });
    // A thread touches its stack when it begins: that is no page of the guest's.
    begun.recv().unwrap();
    let mut producer = image.write(InPrivate { memory: &memory, region: &linux.region });
    let (mut pixels, mut row, mut step) = (Vec::new(), vec![0; SIDE as usize * 4], 0);
    while !gone.load(Ordering::Relaxed) {
        let meta = FrameMeta { width: SIDE, height: SIDE, timestamp_ns: 0 };
        pixels.clear();
        for y in 0..SIDE {
            pattern::fill_row(image.frames + 1 + u64::from(step), SIDE, SIDE, y, &mut row);
            pixels.extend_from_slice(&row);
        }
        producer.publish(&meta, &pixels).unwrap();
        step += 1;
        producer.set_cursor(&pattern::cursor(step, SIDE, SIDE));
        producer.beat();
        // Every slot was written: from here on the guest touches no page for the first time.
        if step == 6 {
            say(&[memory.addr(), space.root.get(), linux.region.base.get()]);
        }
    }
}

#[test]
fn frames_and_cursors_are_whole_however_fast_they_change() {
    child(vmm_of_a_producer);
    let mut vmm = Vmm::start("frames_and_cursors_are_whole_however_fast_they_change");
    let told = vmm.hear();
    let before = memory_of(vmm.pid(), told[0]);
    let ram = vmm.ram(&[Piece { gpa: Gpa::new(0), len: RAM, host_addr: told[0] }]);
    // The whole of attaching: the kernel half, all processes, the scan, and the proof of life.
    let root = AddressSpace::new(Cr3::new(told[1]));
    let found = candidates(&ram, KernelHalf::new(root));
    let live =
        found.iter().find(|candidate| candidate.process.space.root == root.root && candidate.base.get() == told[2]);
    let mut region = live.expect("the producer is found").region();
    std::thread::sleep(Duration::from_millis(100));
    let mut alive = false;
    for _ in 0..100 {
        alive |= region
            .confirm_alive(&ram, live.unwrap().found.pulse)
            .is_ok_and(|liveness| matches!(liveness, Liveness::Alive(_)));
    }
    assert!(alive);
    let (mut frames, mut cursors) = (0, 0);
    let mut scratch = FrameScratch::new();
    let mut pixels = vec![0; (SIDE * SIDE * 4) as usize];
    let begun = Instant::now();
    while goes_on(begun, 3, frames > 5 && cursors > 50) {
        if let Sample::Fresh(frame) = region.sample_frame(&ram, &mut scratch, &mut pixels, NextUse::Unknown).unwrap() {
            assert_eq!(pattern::check(frame.desc.frame_id, SIDE, SIDE, &pixels), Ok(()));
            frames += 1;
        }
        if let Sample::Fresh(cursor) = region.read_cursor(&ram).unwrap() {
            // Two were written with the image; all parts follow from the step.
            if let Some(step) = (cursor.seq / 2).checked_sub(2).filter(|step| *step > 0) {
                assert!(same(&cursor, &pattern::cursor(step, SIDE, SIDE)), "{cursor:?}");
                cursors += 1;
            }
        }
    }
    println!("{frames} frames, {cursors} cursors");
    assert!(frames > 5 && cursors > 50, "{frames} frames and {cursors} cursors");
    // A page table for a page that was never there would show; the guest's own pages do not change.
    assert_eq!(memory_of(vmm.pid(), told[0]).1, before.1, "page tables");
}

fn same(seen: &CursorSnapshot, written: &CursorState) -> bool {
    (seen.visible, seen.x, seen.y, seen.glyph_w, seen.glyph_h)
        == (written.visible, written.x, written.y, written.glyph_w, written.glyph_h)
}
