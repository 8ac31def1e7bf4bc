//! Frames that pass a small block on their way to a sink: whole, in order, and counted only if they are one frame.

use vgpu_perception::abi;
use vgpu_perception::region::{FrameDesc, FrameInfo, FrameScratch, FrameSink, Region, Sample, Skip, StreamError};
use vgpu_perception::{PageWalker, PhysRead};
use vgpu_perception_testkit::linux::{LinuxOptions, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Field, Hooked, ReadEvent, RegionImage};

const STRIDE: usize = 64 * 4;
const FRAME: usize = STRIDE * 48;

fn guest() -> (StandardLinux, Region) {
    let linux = standard_linux(LinuxOptions::default());
    let region = Region::new(linux.region.space.space(), linux.region.base);
    (linux, region)
}

/// Keeps all rows, and what it was told.
#[derive(Default)]
struct Rows {
    at_once: u32,
    step: u32,
    refuses: bool,
    begun: usize,
    lens: Vec<usize>,
    bytes: Vec<u8>,
    ended: Vec<Option<u64>>,
}

impl FrameSink for Rows {
    type Refusal = u32;

    fn rows_at_once(&self) -> u32 {
        self.at_once.max(1)
    }

    fn row_step(&self) -> u32 {
        self.step.max(1)
    }

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), u32> {
        self.begun += 1;
        self.bytes.clear();
        self.lens.clear();
        if self.refuses { Err(desc.width) } else { Ok(()) }
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        assert_eq!(first as usize * desc.stride as usize, self.bytes.len(), "rows come in order");
        self.lens.push(rows.len() / desc.stride as usize);
        self.bytes.extend_from_slice(rows);
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.ended.push(frame.map(|frame| frame.desc.frame_id));
    }
}

fn stream(
    region: &mut Region,
    mem: &impl PhysRead,
    block: usize,
    sink: &mut Rows,
) -> Result<Sample<FrameInfo>, StreamError<u32>> {
    region.stream_frame(mem, &mut FrameScratch::new(), &mut vec![0; block], sink)
}

#[test]
fn all_rows_pass_in_order_whatever_the_block_holds() {
    for (block, at_once, lens) in [
        (STRIDE, 1, vec![1; 48]),
        (STRIDE * 2 - 1, 1, vec![1; 48]),
        (STRIDE * 5, 1, vec![5, 5, 5, 5, 5, 5, 5, 5, 5, 3]),
        (STRIDE * 7, 2, vec![6; 8]),
        (STRIDE * 20, 8, vec![16; 3]),
        (STRIDE * 32, 32, vec![32, 16]),
        (FRAME, 1, vec![48]),
        (FRAME * 2, 64, vec![48]),
    ] {
        let (linux, mut region) = guest();
        let mut sink = Rows { at_once, ..Rows::default() };
        let fresh = stream(&mut region, &linux.guest.ram, block, &mut sink).unwrap().fresh().unwrap();
        assert_eq!((fresh.desc.frame_id, fresh.bytes), (5, FRAME));
        assert!(sink.bytes == linux.region.image.pixels(5), "a block of {block}");
        assert_eq!((sink.lens, sink.ended), (lens, vec![Some(5)]), "a block of {block}");
        let mut sink = Rows::default();
        let again = stream(&mut region, &linux.guest.ram, block, &mut sink);
        assert_eq!(again, Ok(Sample::Skip(Skip::Unchanged { frame_id: 5 })));
        assert_eq!((sink.begun, sink.ended), (0, vec![None]));
    }
}

#[test]
fn what_was_made_of_an_overtaken_frame_does_not_count() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let slot = linux.region.base.wrapping_add(abi::slot_offset(1).unwrap());
    let first = PageWalker::new(ram, linux.region.space.space()).translate(slot).unwrap().gpa;
    let mut once = false;
    let overtaken = Hooked::new(ram, |event: ReadEvent| {
        if event.gpa == first && !once {
            once = true;
            linux.region.set(ram, Field::SEQ_1, 101);
            linux.region.set(ram, Field::LATEST, 0);
        }
    });
    let mut sink = Rows::default();
    let fresh = stream(&mut region, &overtaken, STRIDE * 4, &mut sink).unwrap().fresh().unwrap();
    assert_eq!((fresh.desc.frame_id, sink.begun, sink.ended.as_slice()), (4, 2, &[Some(4)][..]));
    assert!(sink.bytes == linux.region.image.pixels(4));
    // And where every try is overtaken, nothing does.
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let mut writes = 0;
    let racing = Hooked::new(ram, |event: ReadEvent| {
        if event.gpa == first {
            writes += 1;
            linux.region.set(ram, Field::SEQ_1, 4 + 2 * writes);
        }
    });
    let mut sink = Rows::default();
    assert!(matches!(stream(&mut region, &racing, STRIDE * 4, &mut sink), Ok(Sample::Skip(Skip::Torn { .. }))));
    assert_eq!((sink.begun, sink.ended), (8, vec![None]));
    assert_eq!(region.last_frame_id(), 0);
}

#[test]
fn a_refusal_and_a_block_that_is_too_small_are_said() {
    let (linux, mut region) = guest();
    let ram = &linux.guest.ram;
    let mut sink = Rows { refuses: true, ..Rows::default() };
    assert_eq!(stream(&mut region, ram, FRAME, &mut sink), Err(StreamError::Refused(64)));
    assert_eq!(sink.ended, [None]);
    for (block, at_once, needed) in
        [(STRIDE - 1, 1, STRIDE), (0, 1, STRIDE), (STRIDE, 2, STRIDE * 2), (FRAME - 1, 64, FRAME)]
    {
        let mut sink = Rows { at_once, ..Rows::default() };
        let error = StreamError::Block { needed: needed as u64, len: block as u64 };
        assert_eq!(stream(&mut region, ram, block, &mut sink), Err(error));
    }
    assert_eq!(region.last_frame_id(), 0, "nothing was taken");
}

#[test]
fn two_sinks_see_the_same_rows() {
    let (linux, mut region) = guest();
    let mut both = (Rows { at_once: 2, ..Rows::default() }, Rows { at_once: 8, ..Rows::default() });
    let mut block = vec![0; STRIDE * 8];
    let sample = region.stream_frame(&linux.guest.ram, &mut FrameScratch::new(), &mut block, &mut both);
    assert!(sample.unwrap().fresh().is_some());
    assert!(both.0.bytes == linux.region.image.pixels(5) && both.1.bytes == both.0.bytes);
    assert_eq!(both.0.lens, [8; 6]);
}

/// The middle rows of groups of `step`.
fn middle_rows(pixels: &[u8], stride: usize, step: usize) -> Vec<u8> {
    pixels.chunks(stride).skip(step / 2).step_by(step).flatten().copied().collect()
}

#[test]
fn of_groups_of_rows_only_the_middle_one_is_handed_on() {
    for (width, height) in [(64, 48), (70, 53), (1000, 9), (3, 200), (1, 1)] {
        let image = RegionImage { width, height, ..RegionImage::default() };
        let linux = standard_linux(LinuxOptions { image, ..LinuxOptions::default() });
        let (ram, stride) = (&linux.guest.ram, width as usize * 4);
        let pixels = linux.region.image.pixels(5);
        for step in [1, 2, 3, 4, 8, 64, 400, u32::MAX] {
            for (block, at_once) in [(stride, 1), (stride * 5 + 1, 1), (stride * 8, 4), (1 << 20, 2)] {
                let mut region = Region::new(linux.region.space.space(), linux.region.base);
                let mut sink = Rows { at_once, step, ..Rows::default() };
                let sample = stream(&mut region, ram, block, &mut sink).unwrap();
                let here = format!("{width}x{height}, one in {step}, a block of {block}");
                assert!(sample.fresh().is_some(), "{here}");
                assert!(sink.bytes == middle_rows(&pixels, stride, step as usize), "{here}: {:?}", sink.lens);
                let (last, others) = sink.lens.split_last().unwrap_or((&0, &[]));
                assert!(others.iter().all(|len| (*len as u32).is_multiple_of(at_once)), "{here}: {:?}", sink.lens);
                assert!(*last > 0 || sink.bytes.is_empty(), "{here}");
            }
        }
    }
}

#[test]
fn rows_that_nobody_needs_are_not_read() {
    let image = RegionImage { width: 1024, height: 64, ..RegionImage::default() };
    let linux = standard_linux(LinuxOptions { image, ..LinuxOptions::default() });
    let (ram, space) = (&linux.guest.ram, linux.region.space.space());
    // A row is a page here.
    let slot = linux.region.base.wrapping_add(abi::slot_offset(1).unwrap());
    let pages: Vec<_> =
        (0..64).map(|row| PageWalker::new(ram, space).translate(slot.wrapping_add(row * 4096)).unwrap().gpa).collect();
    let mut read = vec![false; 64];
    let watched = Hooked::new(ram, |event: ReadEvent| {
        let touched = pages.iter().zip(&mut read).filter(|(page, _)| {
            let (from, to) = (event.gpa.get(), event.gpa.get() + event.len as u64);
            to > page.get() && from < page.get() + 4096
        });
        touched.for_each(|(_, read)| *read = true);
    });
    let mut region = Region::new(space, linux.region.base);
    let mut sink = Rows { step: 8, ..Rows::default() };
    stream(&mut region, &watched, 4096 * 3, &mut sink).unwrap().fresh().unwrap();
    let rows: Vec<_> = (0..64).filter(|row| read[*row]).collect();
    assert_eq!(rows, [4, 12, 20, 28, 36, 44, 52, 60]);
}

/// What a sink's rows begin at, modulo a cache line.
#[derive(Default)]
struct Places(Vec<usize>);

impl FrameSink for Places {
    type Refusal = u32;

    fn begin(&mut self, _: &FrameDesc) -> Result<(), u32> {
        Ok(())
    }

    fn rows(&mut self, _: &FrameDesc, _: u32, rows: &[u8]) {
        self.0.push(rows.as_ptr().addr() % 64);
    }

    fn end(&mut self, _: Option<&FrameInfo>) {}
}

#[test]
fn rows_begin_at_a_line_where_the_block_has_room() {
    let linux = standard_linux(LinuxOptions::default());
    let mut memory = vec![0; STRIDE * 17 + 64];
    let to_line = memory.as_ptr().align_offset(64);
    for (skip, rows, begin) in [(0, 8, 0), (1, 8, 0), (63, 16, 0), (16, 4, 16), (1, 1, 1)] {
        let block = &mut memory[to_line + skip..][..STRIDE * rows];
        let mut region = Region::new(linux.region.space.space(), linux.region.base);
        let mut sink = Places::default();
        region.stream_frame(&linux.guest.ram, &mut FrameScratch::new(), block, &mut sink).unwrap().fresh().unwrap();
        assert!(sink.0.iter().all(|place| *place == begin), "{skip}, {rows} rows: {:?}", sink.0);
    }
}

#[test]
fn sinks_of_different_steps_share_a_pass() {
    let (linux, mut region) = guest();
    let pixels = linux.region.image.pixels(5);
    let mut sinks = (Rows { at_once: 8, ..Rows::default() }, (Rows { step: 4, ..Rows::default() }, Rows::default()));
    sinks.1.1.step = 4;
    let mut block = vec![0; STRIDE * 8];
    let sample = region.stream_frame(&linux.guest.ram, &mut FrameScratch::new(), &mut block, &mut sinks);
    assert!(sample.unwrap().fresh().is_some());
    assert!(sinks.0.bytes == pixels);
    assert!(sinks.1.0.bytes == middle_rows(&pixels, STRIDE, 4) && sinks.1.1.bytes == sinks.1.0.bytes);
}
