//! Bare shared memory: a writer at full speed, and a reader that compares all it gets. No emulator in between.
//!
//! The region's pages are scattered over a RAM file; the writer has them stitched together, the reader goes through
//! page tables, as ever.

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::region::Sample;
use vgpu_perception::{Gva, PhysRead, abi};
use vgpu_perception_guest_tests::Result;
use vgpu_perception_guest_tests::attach::Region;
use vgpu_perception_mapped::{GuestRam, SegmentMap};
use vgpu_perception_producer::mapped::{MappedRegion, Piece};
use vgpu_perception_producer::{FrameMeta, Producer, pattern};
use vgpu_perception_testkit::{GuestBuilder, Placement, Ram, flags};

use super::watch::Watcher;
use super::{Length, asked, ensure};

const SIZE: (u32, u32) = (640, 360);
/// Cursor snapshots, unless `VGPU_SOAK_CURSORS` says otherwise.
const CURSORS: u64 = 1_000_000_000;
/// Whole frames, unless `VGPU_SOAK_FRAMES` says otherwise.
const FRAMES: u64 = 100_000;
const RAM: u64 = 256 << 20;
const BASE: Gva = Gva::new(0x7f00_1234_5000);

/// The RAM file, gone at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Cursors first, while frames are rare; then frames.
pub(crate) fn run(length: Length) -> Result<()> {
    let part = if length == Length::Short { 100 } else { 1 };
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let scratch = Scratch(parent.join(format!("vgpu-soak-{}", std::process::id())));

    let mut guest = GuestBuilder::new(Ram::flat(RAM), 1);
    let space = guest.new_space();
    let pages = guest.map_new(space, BASE, abi::REGION_BYTES, Placement::Scattered, flags::USER_RW);
    guest.ram.to_file(&scratch.0)?;
    let pieces: Vec<_> = pages.iter().map(|page| Piece { offset: page.gpa.get(), len: page.size.bytes() }).collect();
    let file = File::options().read(true).write(true).open(&scratch.0)?;
    let mut producer = Producer::new(MappedRegion::stitched(&file, &pieces)?);
    let ram = GuestRam::open(&scratch.0, SegmentMap::flat(RAM)?)?;
    let mut region: Region = Region::new(space.space().with_resolver(GuestPaging::Hardware), BASE);

    soak_cursors(&ram, &mut region, &mut producer, asked("VGPU_SOAK_CURSORS", CURSORS / part))?;
    soak_frames(&ram, &mut region, &mut producer, asked("VGPU_SOAK_FRAMES", FRAMES / part))
}

/// Writes with `step` until the reader has ended.
fn against<T: Send>(
    producer: &mut Producer<MappedRegion>,
    mut step: impl FnMut(&mut Producer<MappedRegion>) + Send,
    read: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                step(producer);
            }
        });
        let result = read();
        over.store(true, Ordering::Relaxed);
        result
    })
}

fn soak_cursors(
    ram: &impl PhysRead,
    region: &mut Region,
    producer: &mut Producer<MappedRegion>,
    count: u64,
) -> Result<()> {
    let mut watcher = Watcher::new(SIZE.0, SIZE.1);
    let move_it = |producer: &mut Producer<MappedRegion>| {
        let step = (producer.cursor_seq() / 2).wrapping_add(1);
        producer.set_cursor(&pattern::cursor(step, SIZE.0, SIZE.1));
        // Bursts without a pause, and pauses in which a read can just end: every phase of the two meets.
        for _ in 0..step.wrapping_mul(0x9e37_79b1) >> 29 {
            core::hint::spin_loop();
        }
    };
    move_it(producer);
    let first = producer.cursor_seq();
    let begun = Instant::now();
    let mut changes = 0_u64;
    against(producer, move_it, || -> Result<()> {
        let mut last = 0;
        // Snapshots of a writer that stands still prove nothing: go on until enough of them were new.
        while watcher.tally.cursors < count || changes < count / 1000 {
            if watcher.tally.cursors.is_multiple_of(4096) {
                // On a busy machine the writer may be waiting for this very processor.
                thread::yield_now();
            }
            if let Some(snapshot) = watcher.cursor(ram, region)? {
                changes += u64::from(snapshot.seq != last);
                last = snapshot.seq;
            }
        }
        Ok(())
    })?;
    let written = producer.cursor_seq().wrapping_sub(first) / 2;
    let (seconds, tally) = (begun.elapsed().as_secs_f64(), watcher.tally);
    println!(
        "figure: soak: {} cursors in {seconds:.1} s, none torn; {changes} were others than the one before, {} met the \
         writer at every try; it wrote {written}",
        tally.cursors, tally.skips
    );
    Ok(())
}

fn soak_frames(
    ram: &impl PhysRead,
    region: &mut Region,
    producer: &mut Producer<MappedRegion>,
    count: u64,
) -> Result<()> {
    let mut watcher = Watcher::new(SIZE.0, SIZE.1);
    let mut row = vec![0; (SIZE.0 * abi::BYTES_PER_PIXEL) as usize];
    let paint = move |producer: &mut Producer<MappedRegion>| {
        let frame_id = producer.frame_id() + 1;
        let meta = FrameMeta { width: SIZE.0, height: SIZE.1, timestamp_ns: frame_id };
        let fill = |y, row: &mut [u8]| pattern::fill_row(frame_id, SIZE.0, SIZE.1, y, row);
        if let Err(error) = producer.publish_rows(&meta, &mut row, fill) {
            unreachable!("{error}");
        }
    };
    let begun = Instant::now();
    against(producer, paint, || -> Result<()> {
        while watcher.tally.frames < count {
            let sample = watcher.frame(ram, region)?;
            if !matches!(sample, Sample::Fresh(_)) {
                // On a busy machine the writer may be waiting for this very processor.
                thread::yield_now();
            }
            if let Sample::Fresh(info) = sample {
                ensure!(
                    info.desc.timestamp_ns == info.desc.frame_id,
                    "torn: the descriptor of another frame: {info:?}"
                );
            }
        }
        Ok(())
    })?;
    let tally = watcher.tally;
    println!(
        "figure: soak: {} frames of {} x {} in {:.1} s, every pixel right; {} were missed, {} polls gave none",
        tally.frames,
        SIZE.0,
        SIZE.1,
        begun.elapsed().as_secs_f64(),
        tally.missed,
        tally.skips
    );
    Ok(())
}
