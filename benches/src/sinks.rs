//! What is made of a frame while it is read, beside "copy it, then do the same": the same libraries on the same frames.

use core::cell::RefCell;
use core::hint::black_box;
use std::time::Instant;

use fast_image_resize::images::{Image as Picture, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vgpu_perception::region::{FrameScratch, FrameSink};
use vgpu_perception::{Gpa, NextUse, PhysRead, Region};
use vgpu_perception_mapped::{GuestRam, Populate};
use vgpu_perception_sinks::{Colors, Damage, Digest, Nv12, Refusal, Thumbnail};
use yuv::{BufferStoreMut, YuvBiPlanarImageMut, YuvConversionMode, YuvRange, YuvStandardMatrix, bgra_to_yuv_nv12};

use crate::image::{Image, Layout, Ring};
use crate::measure::{Buffer, Goals, Timed, Untimed, interleave_timed, print_ms};
use crate::raw::{Host, flush_pages};

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;
/// What memory alone takes: one word of every line, by eight cursors, and nothing done with it.
const LIMIT: &str = "limit: one word of every line";
/// Of the two things that are compared, the copy alone.
const COPY: &str = "ours: sample_frame, ReadSoon";
const COPY_NV12: &str = "copy, then yuv to NV12";
const NV12: &str = "sink: Nv12";
const COPY_THUMBNAIL: &str = "copy, then fast_image_resize to 1/8";
const THUMBNAIL: &str = "sink: Thumbnail, 1/8";
const COPY_SAMPLES: &str = "copy, then the same of 2 x 2 samples";
const SAMPLES: &str = "sink: Thumbnail, 2 x 2 samples";
const COPY_COMPARE: &str = "copy, then compare tiles with the last copy";
const DAMAGE: &str = "sink: Damage";
const DIGEST: &str = "sink: Digest";
const BOTH: &str = "sinks: Nv12 and Damage in one pass";

fn nv12(frame: &[u8], luma: &mut [u8], chroma: &mut [u8]) {
    let mut image = YuvBiPlanarImageMut {
        y_plane: BufferStoreMut::Borrowed(luma),
        y_stride: WIDTH,
        uv_plane: BufferStoreMut::Borrowed(chroma),
        uv_stride: WIDTH,
        width: WIDTH,
        height: HEIGHT,
    };
    let (range, matrix) = (YuvRange::Limited, YuvStandardMatrix::Bt709);
    bgra_to_yuv_nv12(&mut image, frame, WIDTH * 4, range, matrix, YuvConversionMode::Balanced)
        .expect("planes that fit");
}

fn thumbnail(resizer: &mut Resizer, algorithm: ResizeAlg, frame: &[u8], small: &mut [u8]) {
    let source = ImageRef::new(WIDTH, HEIGHT, frame, PixelType::U8x4).expect("a frame");
    let mut picture = Picture::from_slice_u8(WIDTH / 8, HEIGHT / 8, small, PixelType::U8x4).expect("a picture");
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    resizer.resize(&source, &mut picture, &options).expect("a picture that is made smaller");
}

/// Tiles of 64 × 64 pixels in which two frames differ.
fn compare(new: &[u8], last: &[u8]) -> usize {
    let row = WIDTH as usize * 4;
    let columns = WIDTH.div_ceil(64) as usize;
    let mut changed = vec![false; columns * HEIGHT.div_ceil(64) as usize];
    for (y, (new, last)) in new.chunks(row).zip(last.chunks(row)).enumerate() {
        for (x, (new, last)) in new.chunks(256).zip(last.chunks(256)).enumerate() {
            changed[y / 64 * columns + x] |= new != last;
        }
    }
    changed.iter().filter(|changed| **changed).count()
}

/// The sum of one word of every line of `pages`, read by eight cursors at once.
fn read_lines(host: &Host, pages: &[u64]) -> u64 {
    let part = pages.len() / 8;
    let mut sum = 0_u64;
    for page in 0..part {
        for line in (0..4096).step_by(64) {
            for cursor in 0..8 {
                sum = sum.wrapping_add(host.word(pages[cursor * part + page] + line));
            }
        }
    }
    sum
}

fn stream<S: FrameSink<Refusal = Refusal>>(ram: &GuestRam, region: &Region, block: &mut [u8], sink: &mut S) {
    let mut region = *region;
    let taken = region.stream_frame(ram, &mut FrameScratch::new(), block, sink).expect("the frame is there");
    assert!(taken.fresh().is_some(), "the frame is fresh");
}

fn timed<'v>(mut call: impl FnMut(usize) + 'v) -> Timed<'v> {
    Box::new(move |nth| {
        let start = Instant::now();
        call(nth);
        [start.elapsed().as_nanos() as f64, f64::NAN]
    })
}

fn column(image: &Image, ring: &Ring, rounds: usize) -> crate::measure::Medians {
    let ram = GuestRam::open_flat(image.path()).expect("the RAM file maps");
    ram.populate(Populate::Read).expect("the RAM file populates");
    // The same mapping for all: a page whose translation is at hand is read in half the time.
    let (ram, count): (&'static GuestRam, _) = (Box::leak(Box::new(ram)), ring.slots.len());
    let host = Host::new(ram.window(Gpa::new(0), ram.ram_end().get() as usize).expect("a flat file is one window"));
    let (width, height) = (WIDTH as usize, HEIGHT as usize);
    let frames = RefCell::new((Buffer::new(ring.bytes), Buffer::new(ring.bytes)));
    let planes = RefCell::new((vec![0_u8; width * height], vec![0_u8; width * height / 2]));
    let small = RefCell::new((Resizer::new(), vec![0_u8; width / 8 * (height / 8) * 4]));
    let block = RefCell::new(vec![0_u8; 256 << 10]);
    let scratch = RefCell::new(FrameScratch::new());
    let copy = |nth: usize, dst: &mut [u8]| {
        let mut region = ring.slots[nth % count].region;
        let taken = region.sample_frame(ram, &mut scratch.borrow_mut(), dst, NextUse::ReadSoon);
        assert!(taken.expect("the frame is there").fresh().is_some(), "the frame is fresh");
    };
    let slot = |nth: usize| &ring.slots[nth % count].region;
    let (mut to_nv12, mut to_small) = (Nv12::new(Colors::default()), Thumbnail::new(8).expect("a factor"));
    let mut to_samples = Thumbnail::sampled(8, 2).expect("a factor");
    let (mut damage, mut digest) = (Damage::new(3), Digest::new(3));
    let mut both = (Nv12::new(Colors::default()), Damage::new(3));
    let variants = vec![
        (
            LIMIT,
            timed(|nth| {
                black_box(read_lines(&host, &ring.slots[nth % count].pages));
            }),
        ),
        (COPY, timed(|nth| copy(nth, frames.borrow_mut().0.bytes()))),
        (
            COPY_NV12,
            timed(|nth| {
                let mut frames = frames.borrow_mut();
                let frame = frames.0.bytes();
                copy(nth, frame);
                let (luma, chroma) = &mut *planes.borrow_mut();
                nv12(frame, luma, chroma);
            }),
        ),
        (NV12, timed(|nth| stream(ram, slot(nth), &mut block.borrow_mut(), &mut to_nv12))),
        (
            COPY_THUMBNAIL,
            timed(|nth| {
                let mut frames = frames.borrow_mut();
                let frame = frames.0.bytes();
                copy(nth, frame);
                let (resizer, small) = &mut *small.borrow_mut();
                thumbnail(resizer, ResizeAlg::Convolution(FilterType::Box), frame, small);
            }),
        ),
        (THUMBNAIL, timed(|nth| stream(ram, slot(nth), &mut block.borrow_mut(), &mut to_small))),
        (
            COPY_SAMPLES,
            timed(|nth| {
                let mut frames = frames.borrow_mut();
                let frame = frames.0.bytes();
                copy(nth, frame);
                let (resizer, small) = &mut *small.borrow_mut();
                thumbnail(resizer, ResizeAlg::SuperSampling(FilterType::Box, 2), frame, small);
            }),
        ),
        (SAMPLES, timed(|nth| stream(ram, slot(nth), &mut block.borrow_mut(), &mut to_samples))),
        (
            COPY_COMPARE,
            timed(|nth| {
                let (frame, last) = &mut *frames.borrow_mut();
                copy(nth, frame.bytes());
                black_box(compare(frame.bytes(), last.bytes()));
                core::mem::swap(frame, last);
            }),
        ),
        (DAMAGE, timed(|nth| stream(ram, slot(nth), &mut block.borrow_mut(), &mut damage))),
        (DIGEST, timed(|nth| stream(ram, slot(nth), &mut block.borrow_mut(), &mut digest))),
        (BOTH, timed(|nth| stream(ram, slot(nth), &mut block.borrow_mut(), &mut both))),
    ];
    let mut prepare = |nth: usize| flush_pages(&image.writer, &ring.slots[nth % count].pages);
    let mut settling = Buffer::new(ring.bytes);
    for nth in 0..SETTLING {
        prepare(nth);
        copy(nth, settling.bytes());
    }
    let [medians, _] = interleave_timed(rounds, Untimed::UntilSettled, 4, variants, &mut prepare);
    medians
}

/// Copies before anything is timed: the choice of their method is made.
const SETTLING: usize = 500;

/// Measures and prints everything about sinks.
pub(crate) fn run(image: &Image, goals: &mut Goals, quick: bool) {
    let rounds = if quick { 4 } else { 12 };
    let columns = Layout::ALL.map(|layout| (layout.name(), column(image, image.ring(layout, false), rounds)));
    let shown: Vec<_> = columns.iter().map(|(name, medians)| (*name, medians)).collect();
    print_ms("1080p frame, cold, less than a copy", COPY, &shown);
    println!();
    for (layout, medians) in &columns {
        for (ours, theirs, bound) in [
            (NV12, COPY_NV12, 0.75),
            (SAMPLES, COPY_SAMPLES, 0.5),
            (THUMBNAIL, COPY_THUMBNAIL, 0.5),
            (DAMAGE, COPY_COMPARE, 0.6),
        ] {
            goals.at_most(&format!("{layout}: {ours} / {theirs}"), medians.of(ours) / medians.of(theirs), bound);
        }
    }
}
