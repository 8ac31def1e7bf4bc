//! The planes that video encoders take.

use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};
use yuv::{
    BufferStoreMut, YuvBiPlanarImageMut, YuvConversionMode, YuvPlanarImageMut, YuvRange, YuvStandardMatrix,
    bgra_to_yuv_nv12, bgra_to_yuv420,
};

use crate::Refusal;

/// The weights of red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Matrix {
    /// ITU-R BT.601: video of small size, JPEG.
    Bt601,
    /// ITU-R BT.709: what encoders take a large picture for.
    #[default]
    Bt709,
}

/// The values that stand for black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Range {
    /// 16 to 235: what encoders expect unless they are told.
    #[default]
    Limited,
    /// 0 to 255.
    Full,
}

/// How colours become luma and chroma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Colors {
    /// The weights.
    pub matrix: Matrix,
    /// The range.
    pub range: Range,
}

impl Colors {
    const fn range(self) -> YuvRange {
        match self.range {
            Range::Limited => YuvRange::Limited,
            Range::Full => YuvRange::Full,
        }
    }

    const fn matrix(self) -> YuvStandardMatrix {
        match self.matrix {
            Matrix::Bt601 => YuvStandardMatrix::Bt601,
            Matrix::Bt709 => YuvStandardMatrix::Bt709,
        }
    }
}

/// A picture in NV12: planes without gaps between their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nv12Planes<'p> {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// One byte a pixel.
    pub luma: &'p [u8],
    /// Two bytes, U and V, for each 2 × 2 pixels; where the width or height is odd, the last of them stand for fewer.
    pub chroma: &'p [u8],
}

/// A picture in I420: planes without gaps between their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct I420Planes<'p> {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// One byte a pixel.
    pub luma: &'p [u8],
    /// One byte for each 2 × 2 pixels; where the width or height is odd, the last of them stand for fewer.
    pub u: &'p [u8],
    /// As `u`.
    pub v: &'p [u8],
}

/// What both have: a plane of luma, one or two of chroma, and whether they are a frame.
#[derive(Debug)]
struct Planes {
    colors: Colors,
    width: u32,
    height: u32,
    luma: Vec<u8>,
    /// U and V in turn, or one after the other.
    chroma: Vec<u8>,
    whole: bool,
}

impl Planes {
    const fn new(colors: Colors) -> Self {
        Self { colors, width: 0, height: 0, luma: Vec::new(), chroma: Vec::new(), whole: false }
    }

    /// Bytes of a row of one chroma component.
    const fn half(&self) -> usize {
        self.width.div_ceil(2) as usize
    }

    fn begin(&mut self, desc: &FrameDesc) {
        (self.width, self.height) = (desc.width, desc.height);
        self.luma.resize(desc.width as usize * desc.height as usize, 0);
        self.chroma.resize(2 * self.half() * desc.height.div_ceil(2) as usize, 0);
        self.whole = true;
    }

    /// The luma rows from `first` on, as many as `rows` has of `stride` bytes; the chroma rows before which ones those
    /// are.
    fn place(&self, stride: u32, first: u32, rows: &[u8]) -> (u32, core::ops::Range<usize>, usize) {
        let count = rows.len() / stride.max(1) as usize;
        let (width, first) = (self.width as usize, first as usize);
        (count as u32, first * width..(first + count) * width, first / 2)
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.whole &= frame.is_some();
    }
}

/// What a sink of planes is besides `fill`, its own conversion.
macro_rules! sink_of_planes {
    ($sink:ty) => {
        impl FrameSink for $sink {
            type Refusal = Refusal;

            fn rows_at_once(&self) -> u32 {
                2
            }

            fn begin(&mut self, desc: &FrameDesc) -> Result<(), Refusal> {
                self.0.begin(desc);
                Ok(())
            }

            fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
                let made = self.fill(desc, first, rows).is_some();
                self.0.whole &= made;
            }

            fn end(&mut self, frame: Option<&FrameInfo>) {
                self.0.end(frame);
            }
        }
    };
}

/// Makes NV12 of frames: luma, then U and V in turn.
#[derive(Debug)]
pub struct Nv12(Planes);

impl Nv12 {
    /// No picture yet.
    #[must_use]
    pub const fn new(colors: Colors) -> Self {
        Self(Planes::new(colors))
    }

    /// The last frame; `None` where the last read gave none.
    #[must_use]
    pub fn planes(&self) -> Option<Nv12Planes<'_>> {
        let Planes { width, height, luma, chroma, whole, .. } = &self.0;
        whole.then_some(Nv12Planes { width: *width, height: *height, luma, chroma })
    }

    /// Converts some rows; `None` where that cannot be done.
    fn fill(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) -> Option<()> {
        let (count, luma, half) = self.0.place(desc.stride, first, rows);
        let (colors, row) = (self.0.colors, 2 * self.0.half());
        let chroma =
            self.0.chroma.get_mut(half * row..).and_then(|rest| rest.get_mut(..count.div_ceil(2) as usize * row));
        let (Some(luma), Some(chroma)) = (self.0.luma.get_mut(luma), chroma) else {
            return None;
        };
        let mut image = YuvBiPlanarImageMut {
            y_plane: BufferStoreMut::Borrowed(luma),
            y_stride: desc.width,
            uv_plane: BufferStoreMut::Borrowed(chroma),
            uv_stride: row as u32,
            width: desc.width,
            height: count,
        };
        bgra_to_yuv_nv12(&mut image, rows, desc.stride, colors.range(), colors.matrix(), YuvConversionMode::Balanced)
            .ok()
    }
}

sink_of_planes!(Nv12);

/// Makes I420 of frames: luma, then U, then V.
#[derive(Debug)]
pub struct I420(Planes);

impl I420 {
    /// No picture yet.
    #[must_use]
    pub const fn new(colors: Colors) -> Self {
        Self(Planes::new(colors))
    }

    /// The last frame; `None` where the last read gave none.
    #[must_use]
    pub fn planes(&self) -> Option<I420Planes<'_>> {
        let Planes { width, height, luma, chroma, whole, .. } = &self.0;
        let (u, v) = chroma.split_at_checked(chroma.len() / 2).filter(|_| *whole)?;
        Some(I420Planes { width: *width, height: *height, luma, u, v })
    }

    /// Converts some rows; `None` where that cannot be done.
    fn fill(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) -> Option<()> {
        let (count, luma, half) = self.0.place(desc.stride, first, rows);
        let (colors, row) = (self.0.colors, self.0.half());
        let place = half * row..(half + count.div_ceil(2) as usize) * row;
        let middle = self.0.chroma.len() / 2;
        let planes = self.0.chroma.split_at_mut_checked(middle);
        let both = planes.and_then(|(u, v)| Some((u.get_mut(place.clone())?, v.get_mut(place)?)));
        let (Some(luma), Some((u, v))) = (self.0.luma.get_mut(luma), both) else {
            return None;
        };
        let mut image = YuvPlanarImageMut {
            y_plane: BufferStoreMut::Borrowed(luma),
            y_stride: desc.width,
            u_plane: BufferStoreMut::Borrowed(u),
            u_stride: row as u32,
            v_plane: BufferStoreMut::Borrowed(v),
            v_stride: row as u32,
            width: desc.width,
            height: count,
        };
        bgra_to_yuv420(&mut image, rows, desc.stride, colors.range(), colors.matrix(), YuvConversionMode::Balanced).ok()
    }
}

sink_of_planes!(I420);
