//! The frame, smaller.

use core::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vgpu_perception::region::{FrameDesc, FrameInfo, FrameSink};

use crate::Refusal;

/// A frame made smaller by a whole number: each pixel is the mean of a square of the frame's, or of some samples of it.
/// What is left over at the right and at the bottom, less than one such square, is not shown.
///
/// Rows become fewer as they come, and columns when all rows are there: a library that resizes works out weights for
/// each call, as many as there are columns to make. Of samples, only the rows that hold them are read.
pub struct Thumbnail {
    factor: u32,
    /// Pixels and rows of the frame of which one is a sample; 1 where all of them are.
    step: u32,
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
        let Self { factor, step, width, height, whole, .. } = self;
        write!(f, "Thumbnail {{ 1/{factor}, one in {step}, {width}x{height}, whole: {whole} }}")
    }
}

/// Why there is no such thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThumbnailError {
    /// The factor is no power of two from 2 to 64.
    Factor(u32),
    /// The samples are no power of two, or more than the factor.
    Samples {
        /// How many were asked for, in either direction.
        samples: u32,
        /// The factor.
        factor: u32,
    },
}

impl fmt::Display for ThumbnailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Factor(factor) => write!(f, "a thumbnail is smaller by 2, 4, 8, 16, 32 or 64, not by {factor}"),
            Self::Samples { samples, factor } => {
                write!(f, "the samples in either direction are a power of two up to the factor {factor}, not {samples}")
            }
        }
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
            return Err(ThumbnailError::Factor(factor));
        }
        Ok(Self {
            factor,
            step: 1,
            resizer: Resizer::new(),
            width: 0,
            height: 0,
            low: Vec::new(),
            pixels: Vec::new(),
            whole: false,
        })
    }

    /// Pictures that are smaller by `factor`, of `samples` times `samples` pixels of each square, which lie evenly in
    /// it.
    ///
    /// Of the frame one row in `factor / samples` is read, and no other: with 2 samples of 8 it takes a quarter of the
    /// guest's memory. What is thinner than the distance of two samples may not be seen. The picture is the one that
    /// `fast_image_resize` makes by `SuperSampling(Box, samples)`.
    ///
    /// # Errors
    /// [`ThumbnailError`] where the factor is no power of two from 2 to 64, or the samples are none up to the factor.
    pub fn sampled(factor: u32, samples: u32) -> Result<Self, ThumbnailError> {
        let thumbnail = Self::new(factor)?;
        if !samples.is_power_of_two() || samples > factor {
            return Err(ThumbnailError::Samples { samples, factor });
        }
        Ok(Self { step: factor / samples, ..thumbnail })
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

    /// Takes the samples of rows that hold some, from row `first` of those on.
    fn pick(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        let wide = self.samples() * self.width as usize;
        // Rows below the last square have no place.
        let low = self.low.get_mut(first as usize * wide * 4..).unwrap_or_default();
        let (low, _) = low.as_chunks_mut::<4>();
        for (row, picked) in rows.chunks_exact(desc.stride.max(1) as usize).zip(low.chunks_exact_mut(wide.max(1))) {
            let (pixels, _) = row.as_chunks::<4>();
            let samples = pixels.iter().skip(self.step as usize / 2).step_by(self.step as usize);
            picked.iter_mut().zip(samples).for_each(|(to, from)| *to = *from);
        }
    }

    /// Samples of a square in either direction.
    const fn samples(&self) -> usize {
        (self.factor / self.step) as usize
    }

    /// Makes what is left between the rows and the picture. Gives whether that could be done.
    fn finish(&mut self, width: u32) -> Option<()> {
        let samples = u32::try_from(self.samples()).ok()?;
        // Where nothing was left out, the rows are as many as the picture's.
        let (from, narrower) = match self.step {
            1 => ((width, self.height), (self.width * self.factor, self.height)),
            _ => {
                let size = (self.width * samples, self.height * samples);
                (size, size)
            }
        };
        let source = ImageRef::new(from.0, from.1, &self.low, PixelType::U8x4).ok()?;
        let mut picture = Image::from_slice_u8(self.width, self.height, &mut self.pixels, PixelType::U8x4).ok()?;
        let options = means(f64::from(narrower.0), f64::from(narrower.1));
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
        if self.step == 1 { self.factor } else { 1 }
    }

    fn row_step(&self) -> u32 {
        self.step
    }

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), Refusal> {
        let (width, height) = (desc.width / self.factor, desc.height / self.factor);
        self.whole = false;
        if width == 0 || height == 0 {
            return Err(Refusal::TooSmall { width: desc.width, height: desc.height, factor: self.factor });
        }
        (self.width, self.height) = (width, height);
        let low = match self.step {
            1 => desc.width as usize * height as usize,
            _ => self.samples() * self.samples() * width as usize * height as usize,
        };
        self.low.resize(low * 4, 0);
        self.pixels.resize(width as usize * height as usize * 4, 0);
        self.whole = true;
        Ok(())
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        match self.step {
            1 => self.whole &= self.lower(desc, first, rows).is_some(),
            _ => self.pick(desc, first, rows),
        }
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.whole &= frame.is_some_and(|frame| self.whole && self.finish(frame.desc.width).is_some());
    }
}
