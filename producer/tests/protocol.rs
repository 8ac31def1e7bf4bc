//! The order of the producer's stores, and the bytes that they leave.

use core::cell::RefCell;
use core::mem::offset_of;

use vgpu_perception::abi::{self, producer};
use vgpu_perception_producer::{
    BadFrame, CursorState, FrameMeta, GeometryState, Producer, RegionWrite, Start, pattern,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Fence,
    U32(u64, u32),
    U64(u64, u64),
}

/// Remembers every store and fence.
#[derive(Debug, Default)]
struct Recorder {
    events: RefCell<Vec<Event>>,
}

impl RegionWrite for Recorder {
    fn store_u32(&self, offset: u64, value: u32) {
        self.events.borrow_mut().push(Event::U32(offset, value));
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.events.borrow_mut().push(Event::U64(offset, value));
    }

    fn fence_release(&self) {
        self.events.borrow_mut().push(Event::Fence);
    }
}

impl Recorder {
    fn take(&self) -> Vec<Event> {
        self.events.take()
    }
}

/// What is in the region's first `2 MiB + 4 KiB` after the events.
fn bytes_after(events: &[Event]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(abi::RING_OFFSET + abi::PAGE).unwrap()];
    for event in events {
        match *event {
            Event::Fence => {}
            Event::U32(at, value) => bytes[at as usize..][..4].copy_from_slice(&value.to_le_bytes()),
            Event::U64(at, value) => bytes[at as usize..][..8].copy_from_slice(&value.to_le_bytes()),
        }
    }
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

const TINY: FrameMeta = FrameMeta { width: 3, height: 1, timestamp_ns: 77 };
const PIXELS: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn started() -> (Recorder, Start) {
    (Recorder::default(), Start { run_epoch: 4, seq: 0, heartbeat: 9 })
}

#[test]
fn a_frame_is_odd_fence_payload_even_number_latest() {
    let (memory, start) = started();
    let mut producer = Producer::start(&memory, start);
    memory.take();
    assert_eq!(producer.publish(&TINY, &PIXELS), Ok(1));
    let events = memory.take();
    let (seq, desc) = (producer::seq(0).unwrap(), producer::desc(0).unwrap());
    assert_eq!(events[..2], [Event::U32(seq, 1), Event::Fence]);
    let payload = &events[2..events.len() - 7];
    assert_eq!(
        payload,
        [
            Event::U32(desc, 3),
            Event::U32(desc + 4, 1),
            Event::U32(desc + 8, 12),
            Event::U32(desc + 12, 0),
            Event::U64(desc + 16, 1),
            Event::U64(desc + 24, 77),
            Event::U64(abi::RING_OFFSET, u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8])),
            Event::U32(abi::RING_OFFSET + 8, u32::from_le_bytes([9, 10, 11, 12])),
        ]
    );
    let changed = producer::STATUS + offset_of!(abi::Status, content_change_ns) as u64;
    assert_eq!(
        events[events.len() - 7..],
        [
            Event::Fence,
            Event::U32(seq, 2),
            Event::Fence,
            Event::U64(producer::FRAME_ID, 1),
            Event::Fence,
            Event::U32(producer::LATEST, 0),
            Event::U64(changed, 77),
        ]
    );
}

#[test]
fn lines_are_written_between_odd_and_even() {
    let (memory, start) = started();
    let mut producer = Producer::start(&memory, start);
    memory.take();
    producer.set_cursor(&pattern::cursor(5, 64, 48));
    producer.set_geometry(&pattern::geometry(5, 64, 48));
    let events = memory.take();
    let end = events.iter().position(|event| *event == Event::U32(producer::CURSOR_SEQ, 2)).unwrap();
    for (line, at) in [(&events[..=end], producer::CURSOR_SEQ), (&events[end + 1..], producer::GEOM_SEQ)] {
        let (first, last) = (line.first_chunk::<2>().unwrap(), line.last_chunk::<2>().unwrap());
        assert_eq!(*first, [Event::U32(at, 1), Event::Fence]);
        assert_eq!(*last, [Event::Fence, Event::U32(at, 2)]);
        let inside =
            |event: &Event| matches!(event, Event::U32(to, _) | Event::U64(to, _) if to & !63 == at && *to != at);
        assert!(line[2..line.len() - 2].iter().all(inside), "{line:?}");
    }
}

#[test]
fn a_session_break_hides_the_old_frames_before_it_tells_the_epoch() {
    let (memory, start) = started();
    let mut producer = Producer::start(&memory, start);
    producer.publish(&TINY, &PIXELS).unwrap();
    memory.take();
    producer.new_run_epoch();
    assert_eq!(
        memory.take(),
        [
            Event::U32(producer::LATEST, abi::LATEST_NONE),
            Event::U64(producer::FRAME_ID, 0),
            Event::Fence,
            Event::U32(producer::RUN_EPOCH, 5),
            Event::Fence,
            Event::U64(producer::HEARTBEAT, 10),
        ]
    );
    // The number of the frame begins again, the numbers of the slots go on, and the old latest is not overwritten
    // first.
    let slot = producer.begin_publish(&TINY).unwrap();
    assert_eq!((slot.slot(), slot.frame_id()), (1, 1));
}

#[test]
fn a_region_is_no_candidate_before_its_first_heartbeat() {
    let (memory, start) = started();
    Producer::start(&memory, start);
    let events = memory.take();
    let heartbeats = |event: &&Event| matches!(event, Event::U64(producer::HEARTBEAT, _));
    assert_eq!(events.iter().filter(heartbeats).count(), 1);
    assert_eq!(*events.last_chunk::<2>().unwrap(), [Event::Fence, Event::U64(producer::HEARTBEAT, 9)]);
}

#[test]
fn numbers_wrap_and_a_write_that_was_given_up_is_taken_up_again() {
    let memory = Recorder::default();
    let mut producer = Producer::start(&memory, Start { seq: u32::MAX - 1, ..Start::default() });
    let seq = |slot| producer::seq(slot).unwrap();
    memory.take();
    drop(producer.begin_publish(&TINY).unwrap());
    assert_eq!(memory.take()[0], Event::U32(seq(0), u32::MAX));
    assert_eq!(producer.publish(&TINY, &PIXELS), Ok(1));
    let events = memory.take();
    // Still the slot that was left odd, under another odd number: no reader takes the two for one.
    assert_eq!(events[0], Event::U32(seq(0), 1));
    assert!(events.contains(&Event::U32(seq(0), 2)));
    let slots: Vec<u32> = (0..4)
        .map(|_| {
            let slot = producer.begin_publish(&TINY).unwrap();
            let number = slot.slot();
            slot.finish();
            number
        })
        .collect();
    assert_eq!(slots, [1, 2, 0, 1]);
    producer.set_cursor(&pattern::cursor(1, 1, 1));
    assert_eq!(producer.cursor_seq(), 0);
}

#[test]
fn the_bytes_are_those_of_the_abi() {
    let (memory, start) = started();
    let mut producer = Producer::start(&memory, start);
    producer.publish(&TINY, &PIXELS).unwrap();
    producer.set_cursor(&CursorState {
        visible: true,
        x: -2,
        y: 3,
        hot_x: 4,
        hot_y: 5,
        glyph_w: 6,
        glyph_h: 7,
        id: abi::CursorId::HAND,
    });
    producer.set_geometry(&GeometryState {
        virt_x: -10,
        virt_y: 11,
        virt_w: 12,
        virt_h: 13,
        cap_x: -14,
        cap_y: 15,
        dpi: 96,
        refresh_mhz: 59_940,
    });
    // Numbers from the ABI's page, not from the code: this is where the two meet.
    let bytes = bytes_after(&memory.take());
    let small = [
        (0x000, 0),
        (0x004, 2),
        (0x008, 0),
        (0x020, 3),
        (0x024, 1),
        (0x028, 12),
        (0x02c, 0),
        (0x040, 0),
        (0x080, 2),
        (0x084, 1),
        (0x088, u32::MAX - 1),
        (0x08c, 3),
        (0x090, 5 << 16 | 4),
        (0x094, 7 << 16 | 6),
        (0x098, 5),
        (0x0c0, 2),
        (0x0c4, u32::MAX - 9),
        (0x0c8, 11),
        (0x0cc, 12),
        (0x0d0, 13),
        (0x0d4, u32::MAX - 13),
        (0x0d8, 15),
        (0x0dc, 96),
        (0x0e0, 59_940),
        (0x110, 4),
        (0x114, 0),
        (0x124, 1),
        (0x1000, 0),
        (0x1004, 1),
        (0x20_0000, 0x0403_0201),
        (0x20_0008, 0x0c0b_0a09),
    ];
    for (at, value) in small {
        assert_eq!(u32_at(&bytes, at), value, "u32 at {at:#x}");
    }
    for (at, value) in [(0x010, 1), (0x018, 0), (0x030, 1), (0x038, 77), (0x100, 9), (0x108, 77)] {
        assert_eq!(u64_at(&bytes, at), value, "u64 at {at:#x}");
    }
}

#[test]
fn frames_that_cannot_be_are_refused_before_anything_is_written() {
    let (memory, start) = started();
    let mut producer = Producer::start(&memory, start);
    memory.take();
    for (width, height) in [(0, 1), (1, 0), (abi::MAX_WIDTH + 1, 1), (1, abi::MAX_HEIGHT + 1)] {
        let meta = FrameMeta { width, height, timestamp_ns: 0 };
        assert_eq!(producer.begin_publish(&meta).map(drop), Err(BadFrame::Size { width, height }));
    }
    assert_eq!(producer.publish(&TINY, &PIXELS[..11]), Err(BadFrame::Pixels { need: 12, have: 11 }));
    assert_eq!(producer.publish_rows(&TINY, &mut [0; 8], |_, _| {}), Err(BadFrame::Pixels { need: 12, have: 8 }));
    assert_eq!(memory.take(), []);
}

#[test]
fn rows_make_the_same_frame_as_the_whole() {
    let meta = FrameMeta { width: 5, height: 7, timestamp_ns: 1 };
    let mut whole = Vec::new();
    let mut row = [0; 20];
    for y in 0..7 {
        pattern::fill_row(1, 5, 7, y, &mut row);
        whole.extend_from_slice(&row);
    }
    let (by_rows, at_once) = (Recorder::default(), Recorder::default());
    let fill = |y, row: &mut [u8]| pattern::fill_row(1, 5, 7, y, row);
    Producer::new(&by_rows).publish_rows(&meta, &mut [0; 20], fill).unwrap();
    Producer::new(&at_once).publish(&meta, &whole).unwrap();
    let (by_rows, at_once) = (bytes_after(&by_rows.take()), bytes_after(&at_once.take()));
    assert!(by_rows == at_once);
    assert_eq!(by_rows[abi::RING_OFFSET as usize..][..140], whole);
}
