//! Y4M: pictures as 4:2:0 with a line of text before each, which every video tool reads from a pipe.

use std::io::{self, Write};

use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};

use crate::picture::{Picture, PictureError};

/// Writes the head of a stream of pictures of one size at a fixed rate.
///
/// # Errors
/// What the writer says.
pub fn head(mut to: impl Write, width: u32, height: u32, fps: u32) -> io::Result<()> {
    // Studio range and chroma in the middle of its four pixels, as JPEG has it.
    writeln!(to, "YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg XCOLORRANGE=LIMITED")
}

/// Turns pictures of one size into frames of a stream; keeps the memory for one.
///
/// It is a [`FrameSink`] too: a guest's frame becomes planes while it is read, and is never in memory as pixels.
#[derive(Debug)]
pub struct Frames {
    width: u32,
    height: u32,
    /// One plane of light and two of colour, of a quarter of its size each.
    planes: Vec<u8>,
    /// They are those of a whole frame.
    whole: bool,
}

/// Light of a pixel by BT.601 in studio range: 16 to 235.
const fn luma(pixel: &[u8]) -> u8 {
    let (blue, green, red) = (pixel[0] as i32, pixel[1] as i32, pixel[2] as i32);
    ((66 * red + 129 * green + 25 * blue + 128 + (16 << 8)) >> 8) as u8
}

impl Frames {
    /// Frames of `width` x `height`.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        let (w, h) = (width as usize, height as usize);
        Self { width, height, planes: vec![0; w * h + 2 * w.div_ceil(2) * h.div_ceil(2)], whole: false }
    }

    /// Writes one picture.
    ///
    /// # Errors
    /// [`PictureError::Size`] where the picture has another size than the stream.
    pub fn write(&mut self, picture: &Picture<'_>, to: impl Write) -> Result<(), PictureError> {
        if (picture.width(), picture.height()) != (self.width, self.height) {
            let (width, height, bytes) = (self.width, self.height, picture.pixels().len());
            return Err(PictureError::Size { width, height, bytes });
        }
        self.convert(0, picture.pixels());
        self.whole = true;
        self.again(to)?;
        Ok(())
    }

    /// Writes the last whole frame once more; nothing where there is none.
    ///
    /// # Errors
    /// What the writer says.
    pub fn again(&self, mut to: impl Write) -> io::Result<()> {
        if self.whole {
            to.write_all(b"FRAME\n")?;
            to.write_all(&self.planes)?;
        }
        Ok(())
    }

    /// Rows from the even number `first` on, two at a time: what the colour of four pixels needs is in the cache then.
    fn convert(&mut self, first: usize, pixels: &[u8]) {
        let (w, h) = (self.width as usize, self.height as usize);
        let (luma_plane, chroma) = self.planes.split_at_mut(w * h);
        let (u_plane, v_plane) = chroma.split_at_mut(w.div_ceil(2) * h.div_ceil(2));
        let colours = u_plane.chunks_exact_mut(w.div_ceil(2)).zip(v_plane.chunks_exact_mut(w.div_ceil(2)));
        let places = luma_plane.chunks_mut(2 * w).zip(colours).skip(first / 2);
        let rows = pixels.chunks(2 * w * 4).zip(places).map(|(pair, (luma, colour))| ((pair, luma), colour));
        for ((pair, luma_rows), (u_row, v_row)) in rows {
            for (light, pixel) in luma_rows.iter_mut().zip(pair.chunks_exact(4)) {
                *light = luma(pixel);
            }
            // The last row stands for the one below it, where there is none.
            let (upper, lower) = pair.split_at(w * 4);
            let lower = if lower.is_empty() { upper } else { lower };
            let squares = upper.chunks(8).zip(lower.chunks(8));
            for ((u, v), (above, below)) in u_row.iter_mut().zip(v_row.iter_mut()).zip(squares) {
                let (mut blue, mut green, mut red, mut count) = (0_i32, 0_i32, 0_i32, 0_i32);
                for pixel in above.chunks_exact(4).chain(below.chunks_exact(4)) {
                    blue += i32::from(pixel[0]);
                    green += i32::from(pixel[1]);
                    red += i32::from(pixel[2]);
                    count += 1;
                }
                let half = 128 * count;
                *u = ((-38 * red - 74 * green + 112 * blue + half) / (256 * count.max(1)) + 128).clamp(16, 240) as u8;
                *v = ((112 * red - 94 * green - 18 * blue + half) / (256 * count.max(1)) + 128).clamp(16, 240) as u8;
            }
        }
    }
}

impl FrameSink for Frames {
    type Refusal = PictureError;

    fn rows_at_once(&self) -> u32 {
        2
    }

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), PictureError> {
        self.whole = false;
        if (desc.width, desc.height) == (self.width, self.height) {
            return Ok(());
        }
        let bytes = desc.stride as usize * desc.height as usize;
        Err(PictureError::Size { width: self.width, height: self.height, bytes })
    }

    fn rows(&mut self, _desc: &FrameDesc, first: u32, rows: &[u8]) {
        self.convert(first as usize, rows);
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.whole = frame.is_some();
    }
}

#[cfg(test)]
mod tests {
    use vgpu_perception::abi::Format;

    use super::*;

    #[test]
    fn rows_that_come_in_pieces_are_the_same_frame() {
        for (width, height) in [(64_u32, 48_u32), (5, 7), (1, 1)] {
            let pixels: Vec<u8> =
                (0..width * height * 4).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut wanted = Vec::new();
            Frames::new(width, height).write(&Picture::new(width, height, &pixels).unwrap(), &mut wanted).unwrap();
            let desc =
                FrameDesc { width, height, stride: width * 4, format: Format::BGRA8888, frame_id: 1, timestamp_ns: 0 };
            let info = FrameInfo { desc, bytes: pixels.len(), missed: 0 };
            let mut frames = Frames::new(width, height);
            let mut got = Vec::new();
            for pair in [2, 4, 6] {
                frames.begin(&desc).unwrap();
                for (index, rows) in pixels.chunks((pair * width * 4) as usize).enumerate() {
                    frames.rows(&desc, index as u32 * pair, rows);
                }
                frames.end(None);
                frames.again(&mut got).unwrap();
                assert!(got.is_empty(), "what was torn is not written");
                frames.end(Some(&info));
                frames.again(&mut got).unwrap();
                assert_eq!(got, wanted, "{width} x {height}, {pair} rows at a time");
                got.clear();
            }
            assert!(frames.begin(&FrameDesc { width: width + 1, ..desc }).is_err(), "a stream has one size");
        }
    }

    fn planes(width: u32, height: u32, pixel: [u8; 4]) -> Vec<u8> {
        let bytes = pixel.repeat((width * height) as usize);
        let mut stream = Vec::new();
        Frames::new(width, height).write(&Picture::new(width, height, &bytes).unwrap(), &mut stream).unwrap();
        assert!(stream.starts_with(b"FRAME\n"));
        stream.split_off(6)
    }

    #[test]
    fn planes_have_their_sizes_and_their_colours() {
        let mut text = Vec::new();
        head(&mut text, 5, 3, 30).unwrap();
        assert!(text.starts_with(b"YUV4MPEG2 W5 H3 F30:1 ") && text.ends_with(b"\n"));
        // BT.601 in studio range, and an odd size: chroma is rounded up.
        for (pixel, y, u, v) in [
            ([255, 255, 255, 0], 235_u8, 128_u8, 128_u8),
            ([0, 0, 0, 255], 16, 128, 128),
            ([0, 0, 255, 0], 82, 90, 240),
            ([255, 0, 0, 0], 41, 240, 110),
        ] {
            let planes = planes(5, 3, pixel);
            assert_eq!(planes.len(), 15 + 2 * 6);
            let near = |part: &[u8], wanted: u8| part.iter().all(|value| value.abs_diff(wanted) <= 1);
            assert!(
                near(&planes[..15], y) && near(&planes[15..21], u) && near(&planes[21..], v),
                "{pixel:?} {planes:?}"
            );
        }
        assert!(Frames::new(5, 3).write(&Picture::new(3, 5, &[0; 60]).unwrap(), Vec::new()).is_err());
    }
}
