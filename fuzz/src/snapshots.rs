//! Every read of a region while its producer, its kernel and a liar write between any two loads.

use arbitrary::{Arbitrary, Result, Unstructured};
use vgpu_perception::region::{FrameDesc, FrameInfo, FrameScratch, FrameSink, Pulse, Sample};
use vgpu_perception::structure::check_desc;
use vgpu_perception::{NextUse, PhysRead, Region, abi};
use vgpu_perception_producer::{FrameMeta, pattern};
use vgpu_perception_testkit::{Counting, Hooked, Mutating, ReadEvent};

use crate::guest::{Lie, Small, rest};

/// What happens before a load.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Event {
    Nothing,
    Publish,
    Half,
    Cursor(u8),
    Beat,
    Restart,
    Lie(Lie),
}

/// Keeps the rows that a frame is read for.
struct Rows {
    step: u32,
    bytes: Vec<u8>,
}

impl FrameSink for Rows {
    type Refusal = core::convert::Infallible;

    fn row_step(&self) -> u32 {
        self.step
    }

    fn begin(&mut self, _: &FrameDesc) -> core::result::Result<(), Self::Refusal> {
        self.bytes.clear();
        Ok(())
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        assert_eq!(u64::from(first) * u64::from(desc.stride), self.bytes.len() as u64, "rows come in order");
        assert!(!rows.is_empty() && rows.len().is_multiple_of(desc.stride as usize), "whole rows");
        self.bytes.extend_from_slice(rows);
    }

    fn end(&mut self, _: Option<&FrameInfo>) {}
}

/// See [`crate`].
pub fn snapshots(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut small = Small::build(u)?;
    let honest = u.arbitrary::<bool>()?;
    let seed = u.arbitrary::<u64>()?;
    let reads: [u8; 12] = u.arbitrary()?;
    let mut events: Vec<Event> = rest(u, 400)?;
    if honest {
        events.retain(|event| !matches!(event, Event::Lie(_)));
    }
    let mut region = Region::new(small.space(), small.base);
    let ram = small.guest.ram.clone();
    let mut events = events.into_iter();
    let script = |_: ReadEvent| {
        let producer = &mut small.producer;
        let meta = FrameMeta { width: 16, height: 16, timestamp_ns: producer.frame_id() };
        match events.next().unwrap_or(Event::Nothing) {
            Event::Nothing => {}
            Event::Publish => {
                let id = producer.frame_id() + 1;
                let mut row = [0; 64];
                let _ = producer.publish_rows(&meta, &mut row, |y, row| pattern::fill_row(id, 16, 16, y, row));
            }
            Event::Half => {
                if let Ok(slot) = producer.begin_publish(&meta) {
                    slot.bytes(0, &[0xaa; 512]);
                }
            }
            Event::Cursor(step) => producer.set_cursor(&pattern::cursor(step.into(), 16, 16)),
            Event::Beat => producer.beat(),
            Event::Restart => producer.new_run_epoch(),
            Event::Lie(lie) => lie.tell(&ram),
        }
    };
    let racing = Counting::new(Hooked::new(&ram, script));
    read_all(&racing, &mut region, &reads, honest);
    // And once more where no answer is like the one before.
    let mut region = Region::new(small.space(), small.base);
    read_all(&Counting::new(Mutating::new(&small.guest.ram, seed, 1 + seed % 7)), &mut region, &reads, false);
    Ok(())
}

fn read_all<M: PhysRead>(ram: &Counting<M>, region: &mut Region, reads: &[u8], honest: bool) {
    let mut dst = vec![0; 1 << 16];
    let mut scratch = FrameScratch::new();
    let mut pulse = Pulse { heartbeat: 0, run_epoch: 1 };
    for read in reads {
        let before = ram.counts();
        match read % 6 {
            1 => {
                let mut rows = Rows { step: u32::from(read / 6) % 9 + 1, bytes: Vec::new() };
                let sample = region.stream_frame(ram, &mut scratch, &mut dst[..512], &mut rows);
                if let Ok(Sample::Fresh(info)) = sample
                    && honest
                {
                    let (step, mut row) = (rows.step, [0; 64]);
                    assert_eq!(rows.bytes.len(), (step / 2..16).step_by(step as usize).count() * 64);
                    for (y, bytes) in (step / 2..).step_by(step as usize).zip(rows.bytes.chunks(64)) {
                        pattern::fill_row(info.desc.frame_id, 16, 16, y, &mut row);
                        assert!(bytes == row, "row {y} of {info:?}");
                    }
                }
            }
            0 => {
                let last = region.last_frame_id();
                if let Ok(Sample::Fresh(info)) = region.sample_frame(ram, &mut scratch, &mut dst, NextUse::Unknown) {
                    let desc = abi::Desc {
                        width: info.desc.width.into(),
                        height: info.desc.height.into(),
                        stride: info.desc.stride.into(),
                        format: info.desc.format.0.into(),
                        frame_id: info.desc.frame_id.into(),
                        timestamp_ns: info.desc.timestamp_ns.into(),
                    };
                    assert_eq!(check_desc(&desc), Ok(info.bytes as u64), "a descriptor that cannot be was given");
                    assert!(info.bytes <= dst.len() && info.desc.frame_id > last);
                    if honest {
                        let whole = pattern::check(info.desc.frame_id, 16, 16, &dst[..info.bytes]);
                        assert!(whole.is_ok(), "{whole:?} in {info:?}");
                    }
                }
            }
            2 => {
                if let Ok(Sample::Fresh(snapshot)) = region.read_cursor(ram) {
                    assert!(snapshot.seq % 2 == 0, "a snapshot under an odd number");
                }
            }
            3 => {
                let _ = region.read_geometry(ram);
            }
            4 => {
                let _ = region.read_status(ram);
            }
            _ => {
                if let Ok(Sample::Fresh(now)) = region.read_pulse(ram) {
                    pulse = now;
                }
                let _ = region.confirm_alive(ram, pulse);
            }
        }
        let loads = ram.counts().accesses() - before.accesses();
        // 8 tries of a frame of 64 KiB: the walks, the entries twice, the pages.
        assert!(loads <= 2 * 8 * (16 + 16 * 8 + 40), "{loads} loads for one read");
        if honest && *read > 250 {
            region.forget_frames();
        }
    }
}
