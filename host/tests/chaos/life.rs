//! The life of a producer: a thread that publishes as fast as it can, until it is killed between any two stores.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::thread::{JoinHandle, sleep, spawn};

use vgpu_perception_producer::{FrameMeta, Producer, RegionWrite, Start, pattern};
use vgpu_perception_testkit::{Ram, Region, RegionImage, RegionInRam};

/// A producer that lives, or did.
pub(crate) struct Life {
    pub(crate) region: Region,
    /// Its number: its frames' size and their times say it.
    pub(crate) number: u64,
    alive: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A region whose writer can be killed: no store comes through after that, wherever it was.
struct Mortal<'r> {
    inner: RegionInRam<'r>,
    alive: &'r AtomicBool,
}

impl RegionWrite for Mortal<'_> {
    fn store_u32(&self, offset: u64, value: u32) {
        if self.alive.load(Ordering::Acquire) {
            self.inner.store_u32(offset, value);
        }
    }
    fn store_u64(&self, offset: u64, value: u64) {
        if self.alive.load(Ordering::Acquire) {
            self.inner.store_u64(offset, value);
        }
    }
}

/// The size of producer `number`'s frames: no two of 4096 in a row have the same.
pub(crate) fn size(number: u64) -> (u32, u32) {
    let part = |value: u64| 32 + u32::try_from(value % 64).expect("less than 64");
    (part(number), part(number / 64))
}

/// When producer `number` says that it took a frame.
pub(crate) const fn time(number: u64, frame_id: u64) -> u64 {
    number << 32 | frame_id
}

impl Life {
    /// What its region has to have room for.
    pub(crate) fn image() -> RegionImage {
        RegionImage { width: 95, height: 95, ..RegionImage::default() }
    }

    /// Begins to publish into `region`, whose pages are there.
    pub(crate) fn begin(ram: &Ram, region: Region, number: u64) -> Self {
        let alive = Arc::new(AtomicBool::new(true));
        let thread = {
            let (ram, region, alive) = (ram.clone(), region.clone(), Arc::clone(&alive));
            let writer = Mortal { inner: region.writer(&ram), alive: &alive };
            // Whoever sees the region sees a producer that began, as the contract has it.
            let _ = Producer::start(writer, Start::default());
            spawn(move || publish(&ram, &region, &alive, number))
        };
        Self { region, number, alive, thread: Some(thread) }
    }

    /// Kills it, in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        self.alive.store(false, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the producer's thread does not panic");
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
    }
}

fn publish(ram: &Ram, region: &Region, alive: &AtomicBool, number: u64) {
    let (width, height) = size(number);
    let mut producer = Producer::start(Mortal { inner: region.writer(ram), alive }, Start::default());
    let mut pixels = vec![0; (width * height * 4) as usize];
    for step in 1_u32.. {
        if !alive.load(Ordering::Acquire) {
            return;
        }
        let frame_id = u64::from(step);
        for (y, row) in (0..height).zip(pixels.chunks_exact_mut(width as usize * 4)) {
            pattern::fill_row(frame_id, width, height, y, row);
        }
        let meta = FrameMeta { width, height, timestamp_ns: time(number, frame_id) };
        producer.publish(&meta, &pixels).expect("the size can be");
        producer.set_cursor(&pattern::cursor(step, width, height));
        producer.beat();
        sleep(Duration::from_micros(200));
    }
}
