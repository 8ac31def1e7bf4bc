//! The models: what the producer does in one thread while the core reads in another, and what must hold.

use loom::thread;
use vgpu_perception::abi::{CursorId, producer};
use vgpu_perception::region::{FrameScratch, Liveness, Sample, Skip};
use vgpu_perception::{NextUse, Region};
use vgpu_perception_producer::{CursorState, FrameMeta, GeometryState, Producer, Start};

use crate::model::Outcomes;
use crate::ram::{Guest, LoomRam, LoomWrite, ReaderFault, WriterFault, region};

/// Defects of a run; none for the protocol as it ships.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The reader's.
    pub reader: ReaderFault,
    /// The writer's.
    pub writer: WriterFault,
}

impl Faults {
    /// The protocol as it ships.
    pub const NONE: Self = Self { reader: ReaderFault::None, writer: WriterFault::None };
}

/// Pixels a frame has, times one row: two to a word.
const WIDTH: u32 = 2;
const WORDS: u64 = 1;

/// Loads of one try that takes a frame: 4 to walk to the page, 1 for `latest`, 2 for the slot's number, 4 for the
/// descriptor, twice 4 to walk to the slot, 1 for the pixels, 4 to look at the walk again.
const ONE_TRY: u64 = 24;

fn meta(frame: u64) -> FrameMeta {
    FrameMeta { width: WIDTH, height: 1, timestamp_ns: 1000 + frame }
}

fn pixels(frame: u64) -> [u8; 8] {
    (0x5000 + frame).to_le_bytes()
}

fn publish(producer: &mut Producer<LoomWrite>) {
    let frame = stamp(producer);
    producer.publish(&meta(frame), &pixels(frame)).expect("the frame is a small one");
}

/// What marks a frame in all of its words: its number, and its session above that.
fn stamp(producer: &Producer<LoomWrite>) -> u64 {
    u64::from(producer.run_epoch()) * 16 + producer.frame_id() + 1
}

fn parts(guest: &Guest, faults: Faults, start: Start) -> (LoomRam, Producer<LoomWrite>) {
    let (ram, write) = guest.build();
    (ram.with(faults.reader), Producer::start(write.with(faults.writer), start))
}

/// Takes a frame and checks that every word of it is of one publish, and that it is newer than the last.
fn take(ram: &LoomRam, region: &mut Region) -> Sample<u64> {
    let mut dst = [0_u8; 8];
    let before = region.last_frame_id();
    let sample = region
        .sample_frame(ram, &mut FrameScratch::new(), &mut dst, NextUse::Unknown)
        .expect("every page of the model is there");
    match sample {
        Sample::Fresh(info) => {
            let stamp = info.desc.timestamp_ns.wrapping_sub(1000);
            assert_eq!(stamp % 16, info.desc.frame_id, "the descriptor mixes two frames");
            assert_eq!(u64::from_le_bytes(dst), 0x5000 + stamp, "the pixels are not those of the descriptor's frame");
            assert!(info.desc.frame_id > before, "frame {} after {before}", info.desc.frame_id);
            Sample::Fresh(stamp)
        }
        Sample::Skip(skip) => {
            assert!(!matches!(skip, Skip::BadLatest(_) | Skip::BadDescriptor { .. }), "a skip for a lie: {skip:?}");
            Sample::Skip(skip)
        }
    }
}

fn note(outcomes: &Outcomes, sample: &Sample<u64>) {
    match sample {
        Sample::Fresh(stamp) => outcomes.note(format_args!("frame {}", stamp % 16)),
        Sample::Skip(Skip::Busy { .. }) => outcomes.note(format_args!("busy")),
        Sample::Skip(Skip::Torn { .. }) => outcomes.note(format_args!("torn")),
        Sample::Skip(other) => outcomes.note(format_args!("{other:?}")),
    }
}

/// `publishes` more frames while a reader takes one, after `before` of them; the numbers start at `seq`.
pub fn frames(outcomes: &Outcomes, faults: Faults, before: u64, publishes: u64, seq: u32) {
    let guest = Guest::new(WIDTH).frames(WORDS);
    let (ram, mut producer) = parts(&guest, faults, Start { seq, ..Start::default() });
    for _ in 0..before {
        publish(&mut producer);
    }
    let writer = thread::spawn(move || {
        for _ in 0..publishes {
            publish(&mut producer);
        }
    });
    let mut region = region();
    note(outcomes, &take(&ram, &mut region));
    assert!(ram.loads() <= ONE_TRY * 8, "tries are bounded: {} loads", ram.loads());
    if ram.loads() > ONE_TRY {
        outcomes.note(format_args!("tried again"));
    }
    writer.join().expect("the writer ends");
    // The writer pauses: progress.
    let last = before + publishes;
    match take(&ram, &mut region) {
        Sample::Fresh(stamp) => assert_eq!(stamp % 16, last, "with the writer gone, the last frame is taken"),
        Sample::Skip(skip) => assert_eq!(skip, Skip::Unchanged { frame_id: last }),
    }
}

/// The ring wraps onto the slot that is being read: the reader starts from the oldest frame, three publishes follow.
pub fn wrap(outcomes: &Outcomes, faults: Faults) {
    frames(outcomes, faults, 1, 3, 0);
}

/// A writer that stops half-way, in the slot after the latest.
pub fn half(outcomes: &Outcomes, faults: Faults) {
    let guest = Guest::new(WIDTH).frames(WORDS);
    let (ram, mut producer) = parts(&guest, faults, Start::default());
    publish(&mut producer);
    let writer = thread::spawn(move || {
        publish(&mut producer);
        let frame = stamp(&producer);
        let slot = producer.begin_publish(&meta(frame)).expect("the frame is a small one");
        slot.bytes(0, &pixels(frame));
        // Dropped: the number stays odd, `latest` elsewhere.
    });
    let mut region = region();
    note(outcomes, &take(&ram, &mut region));
    writer.join().expect("the writer ends");
    match take(&ram, &mut region) {
        Sample::Fresh(stamp) => assert_eq!(stamp % 16, 2),
        Sample::Skip(skip) => assert_eq!(skip, Skip::Unchanged { frame_id: 2 }),
    }
}

/// A session break while frames are taken: what is taken afterwards, with the handle told to begin anew, is of one
/// session.
pub fn restart(outcomes: &Outcomes, faults: Faults) {
    let guest = Guest::new(WIDTH).frames(WORDS).narrow(producer::RUN_EPOCH).wide(producer::HEARTBEAT);
    let (ram, mut producer) = parts(&guest, faults, Start::default());
    publish(&mut producer);
    let writer = thread::spawn(move || {
        producer.new_run_epoch();
        publish(&mut producer);
    });
    let mut region = region();
    let pulse = region.read_pulse(&ram).expect("the page is there");
    if let Sample::Fresh(pulse) = pulse
        && pulse.run_epoch == 2
    {
        // Whoever has seen the new session cannot take a frame of the old one.
        let sample = take(&ram, &mut region);
        if let Sample::Fresh(stamp) = sample {
            assert_eq!(stamp / 16, 2, "a frame of the old session after the new one was seen");
        }
        outcomes.note(format_args!("new session"));
    } else {
        note(outcomes, &take(&ram, &mut region));
    }
    writer.join().expect("the writer ends");
    region.forget_frames();
    assert_eq!(take(&ram, &mut region), Sample::Fresh(2 * 16 + 1));
}

/// Two readers beside one writer: each has its own handle and its own result.
pub fn two_readers(outcomes: &Outcomes, faults: Faults) {
    let guest = Guest::new(WIDTH).frames(WORDS);
    let (ram, mut producer) = parts(&guest, faults, Start::default());
    publish(&mut producer);
    let other = ram.again();
    let writer = thread::spawn(move || publish(&mut producer));
    let reader = thread::spawn(move || {
        let mut region = region();
        take(&other, &mut region)
    });
    let mut region = region();
    let one = take(&ram, &mut region);
    let two = reader.join().expect("the reader ends");
    writer.join().expect("the writer ends");
    note(outcomes, &one);
    note(outcomes, &two);
}

fn cursor_at(step: i32) -> CursorState {
    CursorState {
        visible: true,
        x: step,
        y: -step,
        hot_x: 0,
        hot_y: 0,
        glyph_w: 0,
        glyph_h: 0,
        id: CursorId(step.cast_unsigned()),
    }
}

/// The cursor moves `moves` times while it is read `reads` times; its number starts at `seq`.
pub fn cursor(outcomes: &Outcomes, faults: Faults, moves: i32, reads: u32, seq: u32) {
    let guest = Guest::new(WIDTH).narrow(producer::CURSOR_SEQ).wide(producer::CURSOR + 8).narrow(producer::CURSOR + 24);
    let (ram, mut producer) = parts(&guest, faults, Start { seq, ..Start::default() });
    producer.set_cursor(&cursor_at(1));
    let writer = thread::spawn(move || {
        for step in 2..2 + moves {
            producer.set_cursor(&cursor_at(step));
        }
    });
    let mut region = region();
    let mut last = 0;
    for _ in 0..reads {
        match region.read_cursor(&ram).expect("the page is there") {
            Sample::Fresh(snapshot) => {
                let expected = cursor_at(snapshot.x);
                assert_eq!((snapshot.y, snapshot.id), (expected.y, expected.id), "the cursor mixes two positions");
                assert_eq!(
                    snapshot.seq,
                    seq.wrapping_add(2 * snapshot.x.cast_unsigned()),
                    "the number of another position"
                );
                assert!(snapshot.x >= last, "the cursor went back");
                last = snapshot.x;
                outcomes.note(format_args!("cursor {}", snapshot.x));
            }
            Sample::Skip(Skip::Busy { .. }) => outcomes.note(format_args!("busy")),
            Sample::Skip(Skip::Torn { .. }) => outcomes.note(format_args!("torn")),
            Sample::Skip(other) => unreachable!("{other:?}"),
        }
    }
    writer.join().expect("the writer ends");
    let now = region.read_cursor(&ram).expect("the page is there").fresh().expect("nobody writes");
    assert_eq!(now.x, 1 + moves);
}

fn geometry_of(step: u32) -> GeometryState {
    GeometryState {
        virt_x: step.cast_signed(),
        virt_y: 0,
        virt_w: 100 + step,
        virt_h: 0,
        cap_x: 0,
        cap_y: 0,
        dpi: 0,
        refresh_mhz: 1000 + step,
    }
}

/// The geometry changes while it is read.
pub fn geometry(outcomes: &Outcomes, faults: Faults) {
    let line = producer::GEOMETRY;
    let guest = Guest::new(WIDTH).narrow(producer::GEOM_SEQ).narrow(line + 4).narrow(line + 12).narrow(line + 32);
    let (ram, mut producer) = parts(&guest, faults, Start::default());
    producer.set_geometry(&geometry_of(1));
    let writer = thread::spawn(move || {
        producer.set_geometry(&geometry_of(2));
        producer.set_geometry(&geometry_of(3));
    });
    let mut region = region();
    match region.read_geometry(&ram).expect("the page is there") {
        Sample::Fresh(snapshot) => {
            let expected = geometry_of(snapshot.virt_x.cast_unsigned());
            assert_eq!(
                (snapshot.virt_w, snapshot.refresh_mhz),
                (expected.virt_w, expected.refresh_mhz),
                "two geometries"
            );
            outcomes.note(format_args!("geometry {}", snapshot.virt_x));
        }
        Sample::Skip(Skip::Busy { .. }) => outcomes.note(format_args!("busy")),
        Sample::Skip(Skip::Torn { .. }) => outcomes.note(format_args!("torn")),
        Sample::Skip(other) => unreachable!("{other:?}"),
    }
    writer.join().expect("the writer ends");
}

/// Heart and status, with a session break between the two readings of the liveness proof.
pub fn liveness(outcomes: &Outcomes, faults: Faults) {
    let guest = Guest::new(WIDTH).narrow(producer::RUN_EPOCH).wide(producer::HEARTBEAT).narrow(producer::LATEST);
    let (ram, mut producer) = parts(&guest, faults, Start::default());
    let writer = thread::spawn(move || {
        producer.beat();
        producer.new_run_epoch();
    });
    let mut region = region();
    let first = region.read_pulse(&ram).expect("the page is there");
    if let Sample::Fresh(before) = first {
        match region.confirm_alive(&ram, before).expect("the page is there") {
            Liveness::Alive(now) => {
                assert!(now.heartbeat > before.heartbeat && now.run_epoch == before.run_epoch);
                // The third beat is the new session's: it proves nothing of the old one.
                assert!(!(now.heartbeat == 3 && now.run_epoch == 1), "a beat of the new session under the old epoch");
                // And the second was the old session's: a producer that ended before the third is not alive.
                assert!(now.run_epoch == 1 || now.heartbeat == 3, "a beat of the old session under the new epoch");
                outcomes.note(format_args!("alive"));
            }
            Liveness::Stale(now) => {
                assert_eq!(now, before);
                outcomes.note(format_args!("still"));
            }
            Liveness::Restarted(now) => {
                assert!(now.run_epoch == 2 && before.run_epoch == 1);
                outcomes.note(format_args!("restarted"));
            }
            Liveness::Unclear(_) => outcomes.note(format_args!("unclear")),
        }
    }
    writer.join().expect("the writer ends");
    let status = region.read_status(&ram).expect("the page is there").fresh().expect("no page moves");
    assert_eq!((status.heartbeat, status.run_epoch), (3, 2));
    assert_eq!(region.run_epoch(), 2);
}

/// The kernel moves the producer page and uses the old frame for something else while the heart is read.
pub fn moved(outcomes: &Outcomes, faults: Faults) {
    const OTHER: u64 = 0xbad;
    let guest = Guest::new(WIDTH).entry().narrow(producer::RUN_EPOCH).wide(producer::HEARTBEAT);
    let (ram, write) = guest.build();
    let ram = ram.with(faults.reader);
    let mut region = region();
    // The handle knows the page already: what it remembers has to be checked.
    let write = {
        let mut producer = Producer::new(write);
        producer.beat();
        assert!(region.read_pulse(&ram).is_ok());
        producer
    };
    let kernel = thread::spawn(move || write.region().move_page_and_reuse(producer::HEARTBEAT, OTHER));
    match region.read_status(&ram) {
        Ok(Sample::Fresh(status)) => {
            assert_ne!(status.heartbeat, OTHER, "bytes of a page that is no longer the region's");
            outcomes.note(format_args!("before"));
        }
        Ok(Sample::Skip(_)) => outcomes.note(format_args!("skip")),
        Err(_) => outcomes.note(format_args!("gone")),
    }
    kernel.join().expect("the kernel ends");
    assert!(region.read_status(&ram).is_err(), "the page is gone");
}

/// The kernel moves the page of a slot and uses the old one for something else while the frame in it is copied. Nobody
/// touches the slot's sequence number: only the entries tell.
pub fn ring_moved(outcomes: &Outcomes, faults: Faults) {
    const OTHER: u64 = 0xbad;
    let guest = Guest::new(WIDTH).frames(WORDS).slot_entry(0);
    let (ram, mut producer) = parts(&guest, faults, Start::default());
    publish(&mut producer);
    let kernel = thread::spawn(move || producer.region().move_slot_and_reuse(0, OTHER));
    let mut region = region();
    let mut dst = [0_u8; 8];
    match region.sample_frame(&ram, &mut FrameScratch::new(), &mut dst, NextUse::Unknown) {
        Ok(Sample::Fresh(_)) => {
            assert_eq!(dst, pixels(16 + 1), "bytes of a page that is no longer the region's");
            outcomes.note(format_args!("before"));
        }
        Ok(Sample::Skip(_)) => outcomes.note(format_args!("skip")),
        Err(_) => outcomes.note(format_args!("gone")),
    }
    kernel.join().expect("the kernel ends");
    region.forget_frames();
    let after = region.sample_frame(&ram, &mut FrameScratch::new(), &mut dst, NextUse::Unknown);
    assert!(after.is_err(), "the page is gone");
}
