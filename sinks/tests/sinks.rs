//! Each sink against what its frames are known to hold, whatever block the rows come in.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vgpu_perception::abi::Format;
use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink, Reader, Region};
use vgpu_perception_sinks::{
    Colors, Damage, Digest, I420, Matrix, Nv12, Range, Refusal, TILE, Thumbnail, ThumbnailError,
};
use vgpu_perception_testkit::Rng;
use vgpu_perception_testkit::linux::{LinuxOptions, standard_linux};

/// A frame's pixels, BGRA.
struct Picture {
    desc: FrameDesc,
    pixels: Vec<u8>,
}

impl Picture {
    fn random(width: u32, height: u32, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let pixels = (0..width * height * 4).map(|_| rng.next_u64() as u8).collect();
        let desc =
            FrameDesc { width, height, stride: width * 4, format: Format::BGRA8888, frame_id: 1, timestamp_ns: 1 };
        Self { desc, pixels }
    }

    fn plain(width: u32, height: u32, pixel: [u8; 4]) -> Self {
        let mut picture = Self::random(width, height, 1);
        picture.pixels = pixel.repeat((width * height) as usize);
        picture
    }

    fn pixel(&mut self, x: u32, y: u32) -> &mut [u8] {
        let at = (y * self.desc.width + x) as usize * 4;
        &mut self.pixels[at..at + 4]
    }

    /// Passes the picture through a sink, `rows` at a time as a region would.
    fn pass<S: FrameSink<Refusal = Refusal>>(&self, sink: &mut S, rows: u32) -> Result<(), Refusal> {
        self.begin_and_pass(sink, rows)?;
        sink.end(Some(&FrameInfo { desc: self.desc, bytes: self.pixels.len(), missed: 0 }));
        Ok(())
    }

    fn begin_and_pass<S: FrameSink<Refusal = Refusal>>(&self, sink: &mut S, rows: u32) -> Result<(), Refusal> {
        assert!(rows.is_multiple_of(sink.rows_at_once()));
        sink.begin(&self.desc)?;
        let (stride, step) = (self.desc.stride as usize, sink.row_step() as usize);
        let read: Vec<u8> = self.pixels.chunks(stride).skip(step / 2).step_by(step).flatten().copied().collect();
        for (part, first) in read.chunks(rows as usize * stride).zip((0..).step_by(rows as usize)) {
            sink.rows(&self.desc, first, part);
        }
        Ok(())
    }
}

#[test]
fn planes_do_not_depend_on_the_block_and_both_layouts_agree() {
    for (width, height) in [(64, 48), (65, 47), (2, 2), (1, 1), (130, 3)] {
        let picture = Picture::random(width, height, 5);
        let (mut whole, mut i420) = (Nv12::new(Colors::default()), I420::new(Colors::default()));
        picture.pass(&mut whole, height.next_multiple_of(2)).unwrap();
        picture.pass(&mut i420, 4).unwrap();
        let expected = whole.planes().unwrap();
        assert_eq!(expected.luma.len(), (width * height) as usize);
        assert_eq!(expected.chroma.len(), (2 * width.div_ceil(2) * height.div_ceil(2)) as usize);
        for rows in [2, 4, 16] {
            let mut nv12 = Nv12::new(Colors::default());
            picture.pass(&mut nv12, rows).unwrap();
            assert!(nv12.planes() == Some(expected), "{width}x{height}, {rows} rows at once");
        }
        let planes = i420.planes().unwrap();
        let in_turn: Vec<u8> = planes.u.iter().zip(planes.v).flat_map(|(u, v)| [*u, *v]).collect();
        assert!(planes.luma == expected.luma && in_turn == expected.chroma, "{width}x{height}");
    }
}

#[test]
fn colours_are_those_of_the_standard() {
    let near = |value: u8, expected: f64| (f64::from(value) - expected).abs() <= 1.5;
    for (matrix, kr, kb) in [(Matrix::Bt601, 0.299, 0.114), (Matrix::Bt709, 0.2126, 0.0722)] {
        for (range, low, luma, chroma) in [(Range::Limited, 16.0, 219.0, 224.0), (Range::Full, 0.0, 255.0, 255.0)] {
            for [b, g, r] in [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 90]] {
                let mut nv12 = Nv12::new(Colors { matrix, range });
                Picture::plain(16, 16, [b, g, r, 255]).pass(&mut nv12, 4).unwrap();
                let planes = nv12.planes().unwrap();
                let [b, g, r] = [b, g, r].map(|value: u8| f64::from(value) / 255.0);
                let y = kr * r + (1.0 - kr - kb) * g + kb * b;
                let u = 128.0 + chroma * (b - y) / (2.0 * (1.0 - kb));
                let v = 128.0 + chroma * (r - y) / (2.0 * (1.0 - kr));
                let here = format!("{matrix:?} {range:?} {b} {g} {r}: {} {:?}", planes.luma[0], &planes.chroma[..2]);
                assert!(planes.luma.iter().all(|value| near(*value, low + luma * y)), "{here}, not {}", low + luma * y);
                let chroma = planes.chroma.chunks(2);
                assert!(
                    chroma.clone().all(|uv| near(uv[0], u.min(255.0)) && near(uv[1], v.min(255.0))),
                    "{here}, not {u} {v}"
                );
            }
        }
    }
}

#[test]
fn a_thumbnail_is_the_mean_of_squares() {
    for (width, height, factor) in [(64, 48, 8), (70, 53, 8), (9, 9, 2), (1366, 20, 4), (64, 64, 64)] {
        let mut picture = Picture::random(width, height, 6);
        for rows in [factor, factor * 2] {
            let mut thumbnail = Thumbnail::new(factor).unwrap();
            picture.pass(&mut thumbnail, rows).unwrap();
            let (small_width, small_height, pixels) = thumbnail.picture().unwrap();
            assert_eq!((small_width, small_height), (width / factor, height / factor));
            let pixels = pixels.to_vec();
            for (nth, pixel) in pixels.chunks(4).enumerate() {
                let (x, y) = (nth as u32 % small_width * factor, nth as u32 / small_width * factor);
                for (channel, value) in pixel.iter().enumerate() {
                    let square = (0..factor * factor).map(|at| (x + at % factor, y + at / factor));
                    let sum: u32 = square.map(|(x, y)| u32::from(picture.pixel(x, y)[channel])).sum();
                    let mean = f64::from(sum) / f64::from(factor * factor);
                    assert!((f64::from(*value) - mean).abs() <= 1.5, "{value}, not {mean}, at {x} {y}");
                }
            }
        }
    }
    for factor in [0, 1, 3, 128] {
        assert!(Thumbnail::new(factor).unwrap_err().to_string().ends_with(&format!("not by {factor}")));
    }
    let mut thumbnail = Thumbnail::new(16).unwrap();
    let refusal = Refusal::TooSmall { width: 15, height: 40, factor: 16 };
    assert_eq!(Picture::random(15, 40, 6).pass(&mut thumbnail, 16), Err(refusal));
    assert_eq!(thumbnail.picture(), None);
}

#[test]
fn a_thumbnail_of_samples_is_what_the_library_makes_of_the_whole_frame() {
    for (width, height, factor) in [(64, 48, 8), (70, 55, 8), (9, 9, 2), (1366, 20, 4), (130, 64, 64), (257, 71, 16)] {
        let picture = Picture::random(width, height, 6);
        let (small_width, small_height) = (width / factor, height / factor);
        let (wide, high) = (f64::from(small_width * factor), f64::from(small_height * factor));
        for samples in [1, 2, 4, 8, 16].into_iter().filter(|samples| *samples <= factor) {
            let mut thumbnail = Thumbnail::sampled(factor, samples).unwrap();
            let rows = thumbnail.rows_at_once();
            picture.pass(&mut thumbnail, rows).unwrap();
            let source = ImageRef::new(width, height, &picture.pixels, PixelType::U8x4).unwrap();
            let mut expected = Image::new(small_width, small_height, PixelType::U8x4);
            let options = ResizeOptions::new().use_alpha(false).crop(0.0, 0.0, wide, high);
            let how = match samples {
                1 => ResizeAlg::Nearest,
                _ => ResizeAlg::SuperSampling(FilterType::Box, samples as u8),
            };
            Resizer::new().resize(&source, &mut expected, &options.resize_alg(how)).unwrap();
            let (made_width, made_height, pixels) = thumbnail.picture().unwrap();
            assert_eq!((made_width, made_height), (small_width, small_height));
            let off = pixels.iter().zip(expected.buffer()).map(|(made, right)| made.abs_diff(*right)).max();
            // Of all pixels, rows and columns are made fewer in another order.
            let most = u8::from(samples == factor);
            assert!(off.unwrap() <= most, "{width}x{height}, 1/{factor}, {samples} samples: {off:?} off");
        }
    }
    let error = Thumbnail::sampled(8, 16).unwrap_err();
    assert_eq!(error, ThumbnailError::Samples { samples: 16, factor: 8 });
    assert!(error.to_string().ends_with("up to the factor 8, not 16"));
    assert!(Thumbnail::sampled(8, 0).is_err() && Thumbnail::sampled(8, 3).is_err());
    assert_eq!(Thumbnail::sampled(7, 1).unwrap_err(), ThumbnailError::Factor(7));
}

#[test]
fn damage_is_every_tile_that_changed_and_no_other() {
    for (width, height) in [(256, 128), (200, 130), (64, 64), (1, 1)] {
        let mut picture = Picture::random(width, height, 7);
        let mut damage = Damage::new(99);
        let all = (width.div_ceil(TILE) * height.div_ceil(TILE)) as usize;
        picture.pass(&mut damage, 8).unwrap();
        assert_eq!((damage.tiles().count(), damage.count()), (all, all), "all of the first frame");
        picture.pass(&mut damage, 16).unwrap();
        assert_eq!(damage.tiles().count(), 0, "the same frame, in other blocks");
        let mut rng = Rng::new(8);
        for _ in 0..40 {
            let (x, y) = (rng.below(u64::from(width)) as u32, rng.below(u64::from(height)) as u32);
            picture.pixel(x, y)[rng.below(4) as usize] ^= 1 << rng.below(8);
            picture.pass(&mut damage, 8).unwrap();
            let tiles: Vec<_> = damage.tiles().collect();
            let [tile] = tiles.as_slice() else { panic!("{tiles:?} after a change at {x} {y}") };
            assert!((tile.x..tile.x + tile.width).contains(&x) && (tile.y..tile.y + tile.height).contains(&y));
            assert!(tile.x + tile.width <= width && tile.y + tile.height <= height, "{tile:?}");
        }
    }
}

#[test]
fn a_frame_of_another_size_is_all_new() {
    let mut damage = Damage::new(1);
    Picture::plain(128, 64, [0; 4]).pass(&mut damage, 8).unwrap();
    Picture::plain(64, 128, [0; 4]).pass(&mut damage, 8).unwrap();
    assert_eq!(damage.tiles().count(), 2);
    damage.forget();
    assert_eq!(damage.tiles().count(), 0);
    Picture::plain(64, 128, [0; 4]).pass(&mut damage, 8).unwrap();
    assert_eq!(damage.tiles().count(), 2);
}

/// A log would give it away, and whoever knows it can write tiles that count as equal.
#[test]
fn a_key_is_not_shown() {
    let shown = |key| (format!("{:?}", Damage::new(key)), format!("{:?}", Digest::new(key)));
    assert_eq!(shown(1), shown(2));
    assert!(shown(1).0.len() < 300, "{}", shown(1).0);
}

#[test]
fn a_digest_is_of_the_pixels_and_the_size() {
    let digest = |picture: &Picture, rows, key| {
        let mut digest = Digest::new(key);
        picture.pass(&mut digest, rows).unwrap();
        digest.value().unwrap()
    };
    let mut picture = Picture::random(100, 30, 9);
    let first = digest(&picture, 1, 3);
    assert_eq!(first, digest(&picture, 7, 3), "the block does not matter");
    assert_ne!(first, digest(&picture, 7, 4), "the key does");
    picture.pixel(99, 29)[3] ^= 0x80;
    assert_ne!(first, digest(&picture, 1, 3));
    assert_ne!(digest(&Picture::plain(64, 32, [0; 4]), 1, 3), digest(&Picture::plain(32, 64, [0; 4]), 1, 3));
}

#[test]
fn a_read_that_gave_no_frame_gives_no_result_and_the_next_one_does() {
    let (old, mut new) = (Picture::random(128, 64, 1), Picture::random(128, 64, 1));
    new.pixel(100, 3)[0] ^= 1;
    let mut sinks = (
        (Nv12::new(Colors::default()), I420::new(Colors::default())),
        ((Thumbnail::new(8).unwrap(), Damage::new(5)), Digest::new(5)),
    );
    old.pass(&mut sinks, 8).unwrap();
    let first = sinks.1.1.value();
    // A frame that was torn: all of it passed, and none of it counts.
    new.begin_and_pass(&mut sinks, 8).unwrap();
    sinks.end(None);
    assert_eq!((sinks.0.0.planes(), sinks.0.1.planes()), (None, None));
    assert_eq!((sinks.1.0.0.picture(), sinks.1.0.1.tiles().count(), sinks.1.1.value()), (None, 0, None));
    // What comes after it is compared with the last frame that was whole.
    old.pass(&mut sinks, 8).unwrap();
    assert_eq!(sinks.1.0.1.tiles().count(), 0);
    assert_eq!(sinks.1.1.value(), first);
    new.pass(&mut sinks, 8).unwrap();
    assert_eq!(sinks.1.0.1.tiles().count(), 1);
    assert!(sinks.0.0.planes().is_some() && sinks.1.1.value() != first);
}

#[test]
fn a_guests_frame_passes_all_sinks_at_once() {
    let linux = standard_linux(LinuxOptions::default());
    let mut reader = Reader::new(&linux.guest.ram, Region::new(linux.region.space.space(), linux.region.base));
    let thumbnails = (Thumbnail::new(8).unwrap(), Thumbnail::sampled(8, 2).unwrap());
    let mut sinks = ((Nv12::new(Colors::default()), Digest::new(1)), (thumbnails, Damage::new(1)));
    let mut block = vec![0; 64 * 4 * 8];
    let frame = reader.stream_frame(&mut block, &mut sinks).unwrap().fresh().unwrap();
    let mut picture = Picture::random(64, 48, 1);
    assert_eq!(frame.desc, FrameDesc { frame_id: 5, timestamp_ns: frame.desc.timestamp_ns, ..picture.desc });
    picture.pixels = linux.region.image.pixels(5);
    let mut expected = (Nv12::new(Colors::default()), Digest::new(1));
    picture.pass(&mut expected, 2).unwrap();
    let mut sampled = Thumbnail::sampled(8, 2).unwrap();
    picture.pass(&mut sampled, 1).unwrap();
    assert!(sinks.1.0.1.picture().is_some() && sinks.1.0.1.picture() == sampled.picture());
    assert!(sinks.0.0.planes().is_some() && sinks.0.0.planes() == expected.0.planes());
    assert_eq!(sinks.0.1.value(), expected.1.value());
    assert_eq!((sinks.1.0.0.picture().map(|(width, height, _)| (width, height)), sinks.1.1.count()), (Some((8, 6)), 1));
}
