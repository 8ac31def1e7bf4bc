//! The frame, smaller.

use core::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};

use crate::Refusal;

/// A frame made smaller by a whole number: each pixel is the mean of a square of the frame's. What is left over at the
/// right and at the bottom, less than one such square, is not shown.
pub struct Thumbnail {
    factor: u32,
    resizer: Resizer,
    width: u32,
    height: u32,
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
        Ok(Self { factor, resizer: Resizer::new(), width: 0, height: 0, pixels: Vec::new(), whole: false })
    }

    /// Width, height and pixels (four bytes each, in the frame's format, rows without gaps) of the last frame; `None`
    /// where the last read gave none.
    #[must_use]
    pub fn picture(&self) -> Option<(u32, u32, &[u8])> {
        self.whole.then_some((self.width, self.height, self.pixels.as_slice()))
    }

    /// Makes `rows`, from row `first` on, smaller. Gives whether that could be done.
    fn shrink(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) -> Option<()> {
        let count = u32::try_from(rows.len()).ok()?.checked_div(desc.stride)?;
        let (from, to) = (first / self.factor, count / self.factor);
        // The last rows may be fewer than become one.
        let to = to.min(self.height.checked_sub(from)?);
        if to == 0 {
            return Some(());
        }
        let row = self.width as usize * 4;
        let pixels = self.pixels.get_mut(from as usize * row..)?.get_mut(..to as usize * row)?;
        let source = ImageRef::new(desc.width, count, rows, PixelType::U8x4).ok()?;
        let mut picture = Image::from_slice_u8(self.width, to, pixels, PixelType::U8x4).ok()?;
        let (width, height) = (f64::from(self.width * self.factor), f64::from(to * self.factor));
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Box))
            .use_alpha(false)
            .crop(0.0, 0.0, width, height);
        self.resizer.resize(&source, &mut picture, &options).ok()
    }
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
        self.pixels.resize(width as usize * height as usize * 4, 0);
        self.whole = true;
        Ok(())
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        self.whole &= self.shrink(desc, first, rows).is_some();
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.whole &= frame.is_some();
    }
}
