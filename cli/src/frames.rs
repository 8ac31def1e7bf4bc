//! Taking frames, and writing the last.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception::abi;
use vgpu_perception::region::{FrameInfo, Sample, Skip};
use vgpu_perception_host::{FrameBuffer, Live, Ram};
use vgpu_perception_view::Picture;

use crate::failure::Failure;
use crate::output::{Still, Target};

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
    buffer: FrameBuffer,
    pub(crate) last: Option<FrameInfo>,
    pub(crate) tally: Tally,
}

impl Sampler {
    pub(crate) fn new() -> Self {
        let bytes = usize::try_from(abi::MAX_FRAME_BYTES).unwrap_or(0);
        Self { buffer: FrameBuffer::new(bytes), last: None, tally: Tally::default() }
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

    /// The last frame.
    pub(crate) fn picture(&self) -> Option<Picture<'_>> {
        let info = self.last.as_ref()?;
        Picture::new(info.desc.width, info.desc.height, self.buffer.get(..info.bytes)?).ok()
    }

    /// Writes the last frame.
    pub(crate) fn write(&self, target: &Target, still: Still) -> Result<(), Failure> {
        self.picture().map_or(Ok(()), |picture| target.picture(still, &picture))
    }
}
