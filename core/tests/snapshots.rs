//! What reads of a region promise, over a synthetic guest that lies, tears and remaps while it is read.

use vgpu_perception::abi::{self, CursorId, State};
use vgpu_perception::paging::{Level, Pte};
use vgpu_perception::region::{FrameScratch, Liveness, Part, Region, Sample, Skip};
use vgpu_perception::structure::DescFault;
use vgpu_perception::{Gpa, Gva, NextUse, PagingMode, PhysRead, WalkErrorKind};
use vgpu_perception_testkit::linux::{LinuxOptions, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Field, Hooked, ReadEvent};

fn guest() -> (StandardLinux, Region) {
    let linux = standard_linux(LinuxOptions::default());
    let region = Region::new(linux.region.space.space(), linux.region.base);
    (linux, region)
}

fn sample(region: &mut Region, mem: &impl PhysRead, dst: &mut [u8]) -> Sample<vgpu_perception::region::FrameInfo> {
    region.sample_frame(mem, &mut FrameScratch::new(), dst, NextUse::ReadSoon).unwrap()
}

const FRAME: usize = 64 * 48 * 4;

#[test]
fn a_frame_is_taken_once_and_whole() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let mut dst = vec![0_u8; FRAME];
    let Sample::Fresh(info) = sample(&mut region, ram, &mut dst) else { panic!("a frame is there") };
    assert_eq!((info.desc.width, info.desc.height, info.desc.stride), (64, 48, 256));
    assert_eq!((info.desc.frame_id, info.bytes, info.missed), (5, FRAME, 0));
    assert_eq!(dst, linux.region.image.pixels(5));
    assert_eq!(sample(&mut region, ram, &mut dst), Sample::Skip(Skip::Unchanged { frame_id: 5 }));
    region.forget_frames();
    assert!(sample(&mut region, ram, &mut dst).fresh().is_some());
}

#[test]
fn missed_frames_are_counted_and_older_ones_are_not_taken() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let mut dst = vec![0_u8; FRAME];
    assert!(sample(&mut region, ram, &mut dst).fresh().is_some());
    let slot = linux.region.get(ram, Field::LATEST);
    assert_eq!(slot, 1);
    let id = Field::DESC_1_FRAME_ID;
    linux.region.set(ram, id, 9);
    assert_eq!(sample(&mut region, ram, &mut dst).fresh().unwrap().missed, 3);
    linux.region.set(ram, id, 2);
    assert_eq!(sample(&mut region, ram, &mut dst), Sample::Skip(Skip::Older { frame_id: 2, last: 9 }));
}

#[test]
fn a_buffer_that_is_too_small_is_told_the_size() {
    let (linux, mut region) = guest();
    let mut dst = vec![7_u8; FRAME - 1];
    let skip = Skip::TooSmall { needed: FRAME as u64, capacity: FRAME as u64 - 1 };
    assert_eq!(sample(&mut region, &linux.guest.ram, &mut dst), Sample::Skip(skip));
    assert!(dst.iter().all(|byte| *byte == 7), "nothing was copied");
    assert_eq!(region.last_frame_id(), 0);
}

#[test]
fn lies_are_skipped_with_the_value() {
    let cases: [(Field, u64, Skip); 5] = [
        (Field::LATEST, 3, Skip::BadLatest(3)),
        (Field::LATEST, 0xffff_ffff, Skip::NoFrame),
        (Field::DESC_1_WIDTH, 0, Skip::BadDescriptor { slot: 1, fault: DescFault::Width(0) }),
        (Field::DESC_1_HEIGHT, 2161, Skip::BadDescriptor { slot: 1, fault: DescFault::Height(2161) }),
        (Field::DESC_1_FORMAT, 1, Skip::BadDescriptor { slot: 1, fault: DescFault::Format(1) }),
    ];
    for (field, value, skip) in cases {
        let (linux, mut region) = guest();
        assert_eq!(linux.region.get(&linux.guest.ram, Field::LATEST), 1);
        linux.region.set(&linux.guest.ram, field, value);
        let mut dst = vec![7_u8; FRAME];
        assert_eq!(sample(&mut region, &linux.guest.ram, &mut dst), Sample::Skip(skip));
        assert!(dst.iter().all(|byte| *byte == 7), "nothing was copied");
    }
}

#[test]
fn a_writer_that_stopped_half_way_is_busy() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    linux.region.set(ram, Field::SEQ_1, 5);
    linux.region.set(ram, Field::CURSOR_SEQ, 7);
    linux.region.set(ram, Field::GEOM_SEQ, 9);
    assert_eq!(sample(&mut region, ram, &mut [0; FRAME]), Sample::Skip(Skip::Busy { seq: 5 }));
    assert_eq!(region.read_cursor(ram).unwrap(), Sample::Skip(Skip::Busy { seq: 7 }));
    assert_eq!(region.read_geometry(ram).unwrap(), Sample::Skip(Skip::Busy { seq: 9 }));
}

/// A writer that moves the sequence number during every try, and one that does so once.
#[test]
fn tries_are_bounded_and_start_from_latest() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let first_byte = linux.region.gpa(abi::slot_offset(1).unwrap()).unwrap();
    let mut writes = 0_u64;
    let racing = Hooked::new(ram, |event: ReadEvent| {
        if event.gpa == first_byte {
            writes += 1;
            linux.region.set(ram, Field::SEQ_1, 4 + 2 * writes);
        }
    });
    assert!(matches!(sample(&mut region, &racing, &mut [0; FRAME]), Sample::Skip(Skip::Torn { .. })));
    assert_eq!(writes, 8);
    // The slot is overwritten once while it is copied, and `latest` has moved on: the other slot is taken.
    let mut once = false;
    let overtaken = Hooked::new(ram, |event: ReadEvent| {
        if event.gpa == first_byte && !once {
            once = true;
            linux.region.set(ram, Field::SEQ_1, 101);
            linux.region.set(ram, Field::LATEST, 0);
        }
    });
    let mut dst = vec![0; FRAME];
    assert_eq!(sample(&mut region, &overtaken, &mut dst).fresh().unwrap().desc.frame_id, 4);
    assert_eq!(dst, linux.region.image.pixels(4));
}

/// Moves the page of `gva` to a new frame with other bytes.
fn remap(linux: &StandardLinux, gva: Gva, to: Gpa) -> u64 {
    let at = linux.guest.entry_at(linux.region.space, Level::Pt, gva).unwrap();
    let entry = linux.guest.ram.load_u64(at).unwrap();
    linux.guest.ram.write_u64(at, entry & !0x000f_ffff_ffff_f000 | to.get());
    entry
}

#[test]
fn a_page_that_is_remapped_between_calls_gives_the_new_bytes() {
    let (mut linux, mut region) = guest();
    assert_eq!(region.read_status(&linux.guest.ram).unwrap().fresh().unwrap().heartbeat, 1000);
    let new = linux.guest.frames.place(4096, vgpu_perception_testkit::Placement::Scattered)[0].start;
    let old = linux.region.gpa(0).unwrap();
    for word in 0..512 {
        let value = linux.guest.ram.load_u64(old.wrapping_add(word * 8)).unwrap();
        linux.guest.ram.write_u64(new.wrapping_add(word * 8), value);
    }
    linux.guest.ram.write_u64(new.wrapping_add(0x100), 2000);
    remap(&linux, linux.region.base, new);
    assert_eq!(region.read_status(&linux.guest.ram).unwrap().fresh().unwrap().heartbeat, 2000);
}

/// Inside a call: after the bytes were read, before the entries are read again.
#[test]
fn a_page_that_is_remapped_inside_a_call_is_read_again() {
    let (mut linux, mut region) = guest();
    let ram = linux.guest.ram.clone();
    let new = linux.guest.frames.place(4096, vgpu_perception_testkit::Placement::Scattered)[0].start;
    ram.touch(new, 4096);
    let slot_page = linux.region.base.wrapping_add(abi::slot_offset(1).unwrap() + 4096);
    let old = linux.region.gpa(abi::slot_offset(1).unwrap() + 4096).unwrap();
    let mut done = false;
    let remapping = Hooked::new(&ram, |event: ReadEvent| {
        if event.gpa == old && !done {
            done = true;
            remap(&linux, slot_page, new);
        }
    });
    let mut dst = vec![0; FRAME];
    assert!(sample(&mut region, &remapping, &mut dst).fresh().is_some());
    assert!(done);
    let mut expected = linux.region.image.pixels(5);
    expected[4096..8192].fill(0);
    assert!(dst == expected, "the bytes are those of the page that is mapped now");
}

/// The producer page is another one before the call ends: what the first one said counts for nothing.
#[test]
fn a_producer_page_that_is_remapped_inside_a_call_voids_the_frame() {
    let (mut linux, mut region) = guest();
    let ram = linux.guest.ram.clone();
    let new = linux.guest.frames.place(4096, vgpu_perception_testkit::Placement::Scattered)[0].start;
    let first = linux.region.gpa(0).unwrap();
    for word in (0..4096).step_by(8) {
        ram.write_u64(new.wrapping_add(word), ram.load_u64(first.wrapping_add(word)).unwrap());
    }
    ram.write_u8s(new.wrapping_add(Field::LATEST.offset), &7_u32.to_le_bytes());
    // The place is known before the call, so that its first try is the one that meets the change.
    assert!(region.read_status(&ram).unwrap().fresh().is_some());
    let pixels = linux.region.gpa(abi::slot_offset(1).unwrap() + 4096).unwrap();
    let mut done = false;
    let remapping = Hooked::new(&ram, |event: ReadEvent| {
        if event.gpa == pixels && !done {
            done = true;
            remap(&linux, linux.region.base, new);
        }
    });
    let mut dst = vec![0; FRAME];
    assert_eq!(sample(&mut region, &remapping, &mut dst), Sample::Skip(Skip::BadLatest(7)));
    assert!(done);
}

/// A poll that finds nothing new reads two words and no more; they count only if the page is still the region's first.
#[test]
fn a_producer_page_that_is_remapped_between_polls_is_not_asked_any_more() {
    let (mut linux, mut region) = guest();
    let ram = linux.guest.ram.clone();
    let first = linux.region.gpa(0).unwrap();
    let mut dst = vec![0; FRAME];
    assert_eq!(sample(&mut region, &ram, &mut dst).fresh().unwrap().desc.frame_id, 5);
    for newest in [5, 6] {
        let new = linux.guest.frames.place(4096, vgpu_perception_testkit::Placement::Scattered)[0].start;
        for word in (0..4096).step_by(8) {
            ram.write_u64(new.wrapping_add(word), ram.load_u64(first.wrapping_add(word)).unwrap());
        }
        ram.write_u64(new.wrapping_add(Field::DESC_1_FRAME_ID.offset), newest);
        remap(&linux, linux.region.base, new);
        match sample(&mut region, &ram, &mut dst) {
            Sample::Fresh(frame) => assert_eq!((frame.desc.frame_id, newest), (6, 6)),
            Sample::Skip(skip) => assert_eq!((skip, newest), (Skip::Unchanged { frame_id: 5 }, 5)),
        }
    }
    assert_eq!(region.last_frame_id(), 6, "the page that was left still holds frame 5");
    // Where the region's page is known and whole, the poll looks no further than at the frame's number.
    let lie = linux.guest.entry_at(linux.region.space, Level::Pt, linux.region.base).unwrap();
    let page = Pte::new(ram.load_u64(lie).unwrap()).table();
    let mut read = Vec::new();
    let watched = Hooked::new(&ram, |event: ReadEvent| {
        if event.gpa.align_down(vgpu_perception::PageSize::Size4K) == page {
            read.push(event.gpa.get() - page.get());
        }
    });
    assert_eq!(sample(&mut region, &watched, &mut dst), Sample::Skip(Skip::Unchanged { frame_id: 6 }));
    assert_eq!(read, [abi::producer::LATEST, Field::DESC_1_FRAME_ID.offset]);
}

/// A table above the page is replaced: the entry of the page itself still says what it did.
#[test]
fn a_table_that_is_replaced_voids_what_was_in_it() {
    replace_a_table(PagingMode::FourLevel);
    replace_a_table(PagingMode::FiveLevel);
}

fn replace_a_table(mode: PagingMode) {
    let mut linux = standard_linux(LinuxOptions { mode, ..LinuxOptions::default() });
    let mut region = Region::new(linux.region.space.space(), linux.region.base);
    let ram = linux.guest.ram.clone();
    assert_eq!(region.read_status(&ram).unwrap().fresh().unwrap().heartbeat, 1000);
    let copy = |from: Gpa, to: Gpa| {
        for word in 0..512 {
            ram.write_u64(to.wrapping_add(word * 8), ram.load_u64(from.wrapping_add(word * 8)).unwrap());
        }
    };
    let directory = linux.guest.entry_at(linux.region.space, Level::Pd, linux.region.base).unwrap();
    let entry = Pte::new(ram.load_u64(directory).unwrap());
    let (table, page) = (linux.guest.new_table(), linux.guest.new_table());
    copy(entry.table(), table);
    copy(linux.region.gpa(0).unwrap(), page);
    ram.write_u64(page.wrapping_add(0x100), 2000);
    ram.write_u64(directory, entry.get() & !Pte::ADDRESS | table.get());
    remap(&linux, linux.region.base, page);
    assert_eq!(region.read_status(&ram).unwrap().fresh().unwrap().heartbeat, 2000);
}

/// A descriptor that is read while it is written may be any: only one under a number that stands still is judged.
#[test]
fn a_half_written_descriptor_is_no_lie() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let [width, latest] = [Field::DESC_1_WIDTH, Field::LATEST].map(|field| linux.region.gpa(field.offset));
    assert_eq!(linux.region.get(ram, Field::LATEST), 1);
    let mut tries = 0;
    let writing = Hooked::new(ram, |event: ReadEvent| {
        if Some(event.gpa) == latest {
            tries += 1;
            linux.region.set(ram, Field::DESC_1_WIDTH, 64);
            linux.region.set(ram, Field::SEQ_1, 100);
        } else if Some(event.gpa) == width && tries == 1 {
            linux.region.set(ram, Field::DESC_1_WIDTH, 0);
            linux.region.set(ram, Field::SEQ_1, 101);
        }
    });
    assert!(sample(&mut region, &writing, &mut [0; FRAME]).fresh().is_some());
    assert_eq!(tries, 2);
}

/// The pages of a slot may go as soon as nobody needs them: an error counts only for a frame that is still there.
#[test]
fn a_slot_that_was_left_is_not_an_error() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let page = linux.region.base.wrapping_add(abi::slot_offset(1).unwrap());
    let entry = linux.guest.entry_at(linux.region.space, Level::Pt, page).unwrap();
    let mut once = false;
    let leaving = Hooked::new(ram, |event: ReadEvent| {
        if event.gpa == entry && !once {
            once = true;
            linux.region.set(ram, Field::SEQ_1, 101);
            linux.region.set(ram, Field::LATEST, 0);
            linux.guest.unmap(linux.region.space, page);
        }
    });
    assert_eq!(sample(&mut region, &leaving, &mut [0; FRAME]).fresh().unwrap().desc.frame_id, 4);
    assert!(once);
}

#[test]
fn a_page_that_is_gone_is_an_error_and_says_which() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let gone = linux.region.base.wrapping_add(abi::slot_offset(1).unwrap() + 4096);
    linux.guest.unmap(linux.region.space, gone);
    let error = region.sample_frame(ram, &mut FrameScratch::new(), &mut [0; FRAME], NextUse::Unknown).unwrap_err();
    assert_eq!(error.part, Part::Slot(1));
    assert_eq!((error.error.gva, error.error.kind), (gone, WalkErrorKind::NotMapped { level: Level::Pt, entry: 0 }));
    linux.guest.unmap(linux.region.space, linux.region.base);
    let error = region.read_cursor(ram).unwrap_err();
    assert_eq!((error.part, error.error.gva), (Part::ProducerPage, linux.region.base));
    assert!(region.confirm_alive(ram, vgpu_perception::region::Pulse { heartbeat: 1, run_epoch: 1 }).is_err());
}

#[test]
fn the_small_lines_are_decoded() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let cursor = region.read_cursor(ram).unwrap().fresh().unwrap();
    assert_eq!((cursor.seq, cursor.visible, cursor.x, cursor.y), (4, true, 17, -5));
    assert_eq!((cursor.hot_x, cursor.hot_y, cursor.glyph_w, cursor.glyph_h), (2, 3, 32, 32));
    assert_eq!(cursor.id, CursorId::ARROW);
    let geometry = region.read_geometry(ram).unwrap().fresh().unwrap();
    assert_eq!((geometry.virt_w, geometry.virt_h, geometry.dpi, geometry.refresh_mhz), (64, 48, 96, 60_000));
    let status = region.read_status(ram).unwrap().fresh().unwrap();
    assert_eq!((status.status, status.run_epoch, status.applied_fps), (State::CAPTURING, 1, 60));
    assert_eq!(region.run_epoch(), 1);
}

#[test]
fn liveness_needs_the_same_session() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let before = region.read_pulse(ram).unwrap().fresh().unwrap();
    assert!(matches!(region.confirm_alive(ram, before), Ok(Liveness::Stale(_))));
    linux.region.tick(ram);
    assert!(matches!(region.confirm_alive(ram, before), Ok(Liveness::Alive(_))));
    linux.region.set(ram, Field::RUN_EPOCH, 2);
    assert!(matches!(region.confirm_alive(ram, before), Ok(Liveness::Restarted(_))));
    // A counter that went back did not advance.
    linux.region.set(ram, Field::RUN_EPOCH, 1);
    linux.region.set(ram, Field::HEARTBEAT, 3);
    assert!(matches!(region.confirm_alive(ram, before), Ok(Liveness::Stale(_))));
}

#[test]
fn a_frame_can_be_looked_at_in_place() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let mut bytes = Vec::new();
    let sample = region
        .visit_frame(ram, &mut FrameScratch::new(), |stretch| {
            assert_eq!(stretch.offset(), bytes.len() as u64);
            assert_eq!(stretch.desc().frame_id, 5);
            assert!(stretch.windows().all(|(_, window)| window.is_none()), "this memory is not mapped");
            for run in stretch.runs() {
                let mut part = vec![0; run.len as usize];
                ram.read(run.gpa, &mut part)?;
                bytes.extend(part);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(sample.fresh().unwrap().desc.frame_id, 5);
    assert_eq!(bytes, linux.region.image.pixels(5));
}
