//! One frame as a picture: scaled, and in the formats that other programs read.

use core::fmt;
use std::io::{self, Write};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer};
use jpeg_encoder::{ColorType, Encoder};

/// A picture of BGRA pixels without gaps between its rows. The alpha of a screen means nothing and is left out.
#[derive(Clone, Copy)]
pub struct Picture<'p> {
    width: u32,
    height: u32,
    pixels: &'p [u8],
}

impl fmt::Debug for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

/// A picture cannot be made, or not be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum PictureError {
    /// The pixels are not as many as the size says, or there are none.
    Size {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes that were given.
        bytes: usize,
    },
    /// Where it is written to does not take it.
    Io(io::Error),
    /// The encoder refuses it.
    Encoder(String),
}

impl fmt::Display for PictureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { width, height, bytes } => {
                write!(f, "{bytes} bytes are no picture of {width} x {height} pixels of 4 bytes")
            }
            Self::Io(error) => write!(f, "{error}"),
            Self::Encoder(text) => f.write_str(text),
        }
    }
}

impl core::error::Error for PictureError {}

impl From<io::Error> for PictureError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Not `From`: whose encoders these are is no part of the interface.
fn of_png(error: png::EncodingError) -> PictureError {
    match error {
        png::EncodingError::IoError(error) => PictureError::Io(error),
        error => PictureError::Encoder(error.to_string()),
    }
}

fn of_jpeg(error: jpeg_encoder::EncodingError) -> PictureError {
    match error {
        jpeg_encoder::EncodingError::IoError(error) => PictureError::Io(error),
        error => PictureError::Encoder(error.to_string()),
    }
}

/// The size of a picture of `width` x `height` in a box of `most_width` x `most_height`, with its proportions; never
/// larger than it is, never empty.
#[must_use]
pub fn fit(width: u32, height: u32, most_width: u32, most_height: u32) -> (u32, u32) {
    let (w, h) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let (most_w, most_h) = (u64::from(most_width.max(1)).min(w), u64::from(most_height.max(1)).min(h));
    let (fit_w, fit_h) =
        if most_w * h <= most_h * w { (most_w, (most_w * h + w / 2) / w) } else { ((most_h * w + h / 2) / h, most_h) };
    let small = |n: u64| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
    (small(fit_w), small(fit_h))
}

impl<'p> Picture<'p> {
    /// A picture of `pixels`.
    ///
    /// # Errors
    /// [`PictureError::Size`].
    pub fn new(width: u32, height: u32, pixels: &'p [u8]) -> Result<Self, PictureError> {
        let bytes = (u64::from(width) * u64::from(height)).saturating_mul(4);
        if bytes == 0 || bytes != pixels.len() as u64 {
            return Err(PictureError::Size { width, height, bytes: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// Pixels a row.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(&self) -> u32 {
        self.height
    }

    /// The pixels: blue, green, red, and a byte without a meaning.
    #[must_use]
    pub const fn pixels(&self) -> &'p [u8] {
        self.pixels
    }

    /// The picture in another size, whatever its proportions, as the bytes of a picture.
    ///
    /// # Errors
    /// [`PictureError`] where the size cannot be.
    pub fn scaled(&self, width: u32, height: u32) -> Result<Vec<u8>, PictureError> {
        let refused = |error: &dyn fmt::Display| PictureError::Encoder(format!("{width} x {height}: {error}"));
        if (width, height) == (self.width, self.height) {
            return Ok(self.pixels.to_vec());
        }
        let source = ImageRef::new(self.width, self.height, self.pixels, PixelType::U8x4);
        let source = source.map_err(|error| refused(&error))?;
        let mut target = Image::new(width, height, PixelType::U8x4);
        // The fourth byte is a colour to it like the others.
        let options = ResizeOptions::new()
            .use_alpha(false)
            .resize_alg(ResizeAlg::Convolution(fast_image_resize::FilterType::Bilinear));
        Resizer::new().resize(&source, &mut target, &options).map_err(|error| refused(&error))?;
        Ok(target.into_vec())
    }

    /// The picture in the middle of one of exactly `width` x `height`, with its proportions, black around it.
    ///
    /// # Errors
    /// As [`scaled`](Self::scaled).
    pub fn boxed(&self, width: u32, height: u32) -> Result<Vec<u8>, PictureError> {
        // Larger boxes than the picture scale it up too.
        let factor = (width / self.width.max(1)).max(height / self.height.max(1)).saturating_add(1);
        let (w, h) = fit(self.width.saturating_mul(factor), self.height.saturating_mul(factor), width, height);
        let inner = self.scaled(w, h)?;
        if (w, h) == (width, height) {
            return Ok(inner);
        }
        let mut pixels = vec![0; width as usize * height as usize * 4];
        let (left, top) = ((width - w) as usize / 2, (height - h) as usize / 2);
        let rows = pixels.chunks_exact_mut(width as usize * 4).skip(top);
        for (row, line) in rows.zip(inner.chunks_exact(w as usize * 4)) {
            if let Some(place) = row.get_mut(left * 4..left * 4 + line.len()) {
                place.copy_from_slice(line);
            }
        }
        Ok(pixels)
    }

    /// Red, green and blue, three bytes a pixel.
    #[must_use]
    pub fn rgb(&self) -> Vec<u8> {
        let mut rgb = vec![0; self.pixels.len() / 4 * 3];
        for (to, from) in rgb.chunks_exact_mut(3).zip(self.pixels.chunks_exact(4)) {
            to.copy_from_slice(&[from[2], from[1], from[0]]);
        }
        rgb
    }

    /// Writes it as PNG: every pixel as it is.
    ///
    /// # Errors
    /// [`PictureError::Io`].
    pub fn png(&self, to: impl Write) -> Result<(), PictureError> {
        let mut encoder = png::Encoder::new(to, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header().map_err(of_png)?;
        writer.write_image_data(&self.rgb()).map_err(of_png)?;
        writer.finish().map_err(of_png)
    }

    /// Writes it as JPEG, at a quality from 1 to 100.
    ///
    /// # Errors
    /// [`PictureError`].
    pub fn jpeg(&self, to: impl Write, quality: u8) -> Result<(), PictureError> {
        let refused = |_| PictureError::Size { width: self.width, height: self.height, bytes: self.pixels.len() };
        let width = u16::try_from(self.width).map_err(refused)?;
        let height = u16::try_from(self.height).map_err(refused)?;
        Encoder::new(to, quality.clamp(1, 100)).encode(self.pixels, width, height, ColorType::Bgra).map_err(of_jpeg)
    }

    /// Writes it as binary PPM.
    ///
    /// # Errors
    /// [`PictureError::Io`].
    pub fn ppm(&self, mut to: impl Write) -> Result<(), PictureError> {
        write!(to, "P6\n{} {}\n255\n", self.width, self.height)?;
        to.write_all(&self.rgb())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> Vec<u8> {
        (0..width * height).flat_map(|n| [(n % 251) as u8, (n / width) as u8, 200, 9]).collect()
    }

    #[test]
    fn sizes_are_kept_in_proportion() {
        assert_eq!(fit(1920, 1080, 320, 320), (320, 180));
        assert_eq!(fit(1080, 1920, 320, 320), (180, 320));
        assert_eq!(fit(100, 50, 320, 320), (100, 50), "never larger");
        assert_eq!(fit(3840, 1, 320, 320), (320, 1), "never empty");
    }

    #[test]
    fn png_keeps_every_pixel() {
        let bytes = picture(37, 21);
        let mut file = Vec::new();
        let picture = Picture::new(37, 21, &bytes).unwrap();
        picture.png(&mut file).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut back = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut back).unwrap();
        assert_eq!((info.width, info.height), (37, 21));
        assert_eq!(back, picture.rgb());
    }

    #[test]
    fn jpeg_has_the_colours_in_their_places() {
        let bytes: Vec<u8> = [250, 120, 10, 0].repeat(64 * 48);
        let mut file = Vec::new();
        Picture::new(64, 48, &bytes).unwrap().jpeg(&mut file, 90).unwrap();
        let back = zune_jpeg::JpegDecoder::new(io::Cursor::new(file)).decode().unwrap();
        assert_eq!(back.len(), 64 * 48 * 3);
        for (found, wanted) in back.iter().zip([10_u8, 120, 250].iter().cycle()) {
            assert!(found.abs_diff(*wanted) < 6, "{found} for {wanted}");
        }
    }

    #[test]
    fn a_box_has_the_picture_in_its_middle() {
        let bytes = [9, 8, 7, 6].repeat(40 * 20);
        let boxed = Picture::new(40, 20, &bytes).unwrap().boxed(80, 80).unwrap();
        assert_eq!(boxed.len(), 80 * 80 * 4);
        assert_eq!(&boxed[..4], &[0, 0, 0, 0], "black above");
        let middle = (40 * 80 + 40) * 4;
        assert_eq!(&boxed[middle..middle + 4], &[9, 8, 7, 6]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for (width, height, bytes) in [(0, 1, 0), (1, 0, 0), (2, 2, 15), (2, 2, 17), (u32::MAX, u32::MAX, 4)] {
            let error = Picture::new(width, height, &vec![0; bytes]).unwrap_err();
            assert!(error.to_string().contains(&bytes.to_string()), "{error}");
        }
    }
}
