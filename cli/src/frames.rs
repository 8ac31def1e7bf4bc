//! Taking frames, and writing one as PNG.

use core::time::Duration;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Instant;

use vgpu_perception::abi;
use vgpu_perception::region::{FrameDesc, FrameInfo, Sample, Skip};
use vgpu_perception_host::{Live, Ram};

use crate::failure::Failure;

/// How long to sleep after a poll that gave nothing: well below a frame at 60 Hz.
const POLL: Duration = Duration::from_millis(2);

/// What sampling counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) frames: u64,
    pub(crate) missed: u64,
    /// Polls that met the writer at work.
    pub(crate) raced: u64,
}

/// Takes frames, the latest at the end of the buffer.
#[derive(Debug)]
pub(crate) struct Sampler {
    buffer: Vec<u8>,
    pub(crate) last: Option<FrameInfo>,
    pub(crate) tally: Tally,
}

impl Sampler {
    pub(crate) fn new() -> Self {
        let bytes = usize::try_from(abi::MAX_FRAME_BYTES).unwrap_or(0);
        Self { buffer: vec![0; bytes], last: None, tally: Tally::default() }
    }

    /// Polls until `enough` frames were taken, or until `until`; a failure where a skip will not pass by waiting.
    pub(crate) fn take(
        &mut self,
        live: &mut Live<Ram>,
        enough: u64,
        until: Instant,
        mut each: impl FnMut(&FrameInfo, &[u8]) -> Result<(), Failure>,
    ) -> Result<Option<Skip>, Failure> {
        let mut why = None;
        while self.tally.frames < enough && Instant::now() < until {
            match live.frame(&mut self.buffer)? {
                Sample::Fresh(info) => {
                    self.tally.frames += 1;
                    self.tally.missed += info.missed;
                    each(&info, self.buffer.get(..info.bytes).unwrap_or_default())?;
                    self.last = Some(info);
                    why = None;
                }
                Sample::Skip(skip) => {
                    if matches!(skip, Skip::Busy { .. } | Skip::Torn { .. } | Skip::Moved) {
                        self.tally.raced += 1;
                    }
                    if let Skip::Older { .. } = skip {
                        // A new session: this program wants the newest picture, whatever its number.
                        live.forget_frames();
                    }
                    why = Some(skip);
                    std::thread::sleep(POLL);
                }
            }
        }
        Ok(why)
    }

    /// Writes the last frame.
    pub(crate) fn write_png(&self, path: &Path) -> Result<(), Failure> {
        let Some(info) = &self.last else { return Ok(()) };
        let pixels = self.buffer.get(..info.bytes).unwrap_or_default();
        write_png(path, &info.desc, pixels)
            .map_err(|error| Failure::Guest(format!("{}: cannot write the picture: {error}", path.display())))
    }
}

/// BGRA to RGB: the alpha of a screen means nothing.
fn write_png(path: &Path, desc: &FrameDesc, pixels: &[u8]) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), desc.width, desc.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    let rgb: Vec<u8> = pixels.chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
    writer.write_image_data(&rgb)?;
    writer.finish()
}
