//! The frame, smaller.

use core::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};

use crate::Refusal;

/// A frame made smaller by a whole number: each pixel is the mean of a square of the frame's. What is left over at the
/// right and at the bottom, less than one such square, is not shown.
///
/// Rows become fewer as they come, and columns when all rows are there: a library that resizes works out weights for
/// each call, as many as there are columns to make.
pub struct Thumbnail {
    factor: u32,
    resizer: Resizer,
    width: u32,
    height: u32,
    /// The frame with fewer rows and all columns.
    low: Vec<u8>,
    pixels: Vec<u8>,
    whole: bool,
}

impl fmt::Debug for Thumbnail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { factor, width, height, whole, .. } = self;
        write!(f, "Thumbnail {{ 1/{factor}, {width}x{height}, whole: {whole} }}")
    }
}

/// A factor that is no power of two from 2 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailError(pub u32);

impl fmt::Display for ThumbnailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a thumbnail is smaller by 2, 4, 8, 16, 32 or 64, not by {}", self.0)
    }
}

impl core::error::Error for ThumbnailError {}

impl Thumbnail {
    /// Pictures that are smaller by `factor` in both directions.
    ///
    /// # Errors
    /// [`ThumbnailError`] where that is no power of two from 2 to 64.
    pub fn new(factor: u32) -> Result<Self, ThumbnailError> {
        if !factor.is_power_of_two() || !(2..=64).contains(&factor) {
            return Err(ThumbnailError(factor));
        }
        Ok(Self {
            factor,
            resizer: Resizer::new(),
            width: 0,
            height: 0,
            low: Vec::new(),
            pixels: Vec::new(),
            whole: false,
        })
    }

    /// Width, height and pixels (four bytes each, in the frame's format, rows without gaps) of the last frame; `None`
    /// where the last read gave none.
    #[must_use]
    pub fn picture(&self) -> Option<(u32, u32, &[u8])> {
        self.whole.then_some((self.width, self.height, self.pixels.as_slice()))
    }

    /// Makes `rows`, from row `first` on, fewer. Gives whether that could be done.
    fn lower(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) -> Option<()> {
        let count = u32::try_from(rows.len()).ok()?.checked_div(desc.stride)?;
        let (from, to) = (first / self.factor, count / self.factor);
        // The last rows may be fewer than become one.
        let to = to.min(self.height.checked_sub(from)?);
        if to == 0 {
            return Some(());
        }
        let row = desc.width as usize * 4;
        let low = self.low.get_mut(from as usize * row..)?.get_mut(..to as usize * row)?;
        let source = ImageRef::new(desc.width, count, rows, PixelType::U8x4).ok()?;
        let mut picture = Image::from_slice_u8(desc.width, to, low, PixelType::U8x4).ok()?;
        let options = means(f64::from(desc.width), f64::from(to * self.factor));
        self.resizer.resize(&source, &mut picture, &options).ok()
    }

    /// Makes the columns fewer. Gives whether that could be done.
    fn narrow(&mut self, width: u32) -> Option<()> {
        let source = ImageRef::new(width, self.height, &self.low, PixelType::U8x4).ok()?;
        let mut picture = Image::from_slice_u8(self.width, self.height, &mut self.pixels, PixelType::U8x4).ok()?;
        let options = means(f64::from(self.width * self.factor), f64::from(self.height));
        self.resizer.resize(&source, &mut picture, &options).ok()
    }
}

/// Pixels become the mean of those that they stand for; what lies outside of `width` and `height` is left out.
fn means(width: f64, height: f64) -> ResizeOptions {
    let box_filter = ResizeAlg::Convolution(FilterType::Box);
    ResizeOptions::new().resize_alg(box_filter).use_alpha(false).crop(0.0, 0.0, width, height)
}

impl FrameSink for Thumbnail {
    type Refusal = Refusal;

    fn rows_at_once(&self) -> u32 {
        self.factor
    }

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), Refusal> {
        let (width, height) = (desc.width / self.factor, desc.height / self.factor);
        self.whole = false;
        if width == 0 || height == 0 {
            return Err(Refusal::TooSmall { width: desc.width, height: desc.height, factor: self.factor });
        }
        (self.width, self.height) = (width, height);
        self.low.resize(desc.width as usize * height as usize * 4, 0);
        self.pixels.resize(width as usize * height as usize * 4, 0);
        self.whole = true;
        Ok(())
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        self.whole &= self.lower(desc, first, rows).is_some();
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.whole &= frame.is_some_and(|frame| self.whole && self.narrow(frame.desc.width).is_some());
    }
}
