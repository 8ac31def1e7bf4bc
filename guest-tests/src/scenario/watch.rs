//! A reader that believes nothing: every snapshot is compared with what the producer must have written.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception::region::{CursorSnapshot, FrameInfo, FrameScratch, GeometrySnapshot, Sample};
use vgpu_perception::{NextUse, PhysRead, abi};
use vgpu_perception_guest_tests::Result;
use vgpu_perception_guest_tests::attach::Region;
use vgpu_perception_producer::{CursorState, GeometryState, pattern};

use super::ensure;

/// The geometry of a region whose memory is fresh.
const UNSET: GeometryState =
    GeometryState { virt_x: 0, virt_y: 0, virt_w: 0, virt_h: 0, cap_x: 0, cap_y: 0, dpi: 0, refresh_mhz: 0 };

/// What a reader saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Frames that were taken; every pixel of each is right.
    pub(crate) frames: u64,
    /// Frames that were published and not seen.
    pub(crate) missed: u64,
    /// Cursors that were read; every field of each is right.
    pub(crate) cursors: u64,
    /// Geometries, likewise.
    pub(crate) geometries: u64,
    /// Reads that gave nothing new.
    pub(crate) skips: u64,
}

/// A reader of frames of one size.
#[derive(Debug)]
pub(crate) struct Watcher {
    width: u32,
    height: u32,
    buffer: Vec<u8>,
    scratch: FrameScratch,
    pub(crate) tally: Tally,
}

impl Watcher {
    pub(crate) fn new(width: u32, height: u32) -> Self {
        let buffer = vec![0; (width * height * abi::BYTES_PER_PIXEL) as usize];
        Self { width, height, buffer, scratch: FrameScratch::new(), tally: Tally::default() }
    }

    /// Takes the latest frame if it is new. A frame that is not wholly its producer's is an error.
    pub(crate) fn frame(&mut self, ram: &impl PhysRead, region: &mut Region) -> Result<Sample<FrameInfo>> {
        match region.sample_frame(ram, &mut self.scratch, &mut self.buffer, NextUse::ReadSoon)? {
            Sample::Skip(why) => {
                self.tally.skips += 1;
                Ok(Sample::Skip(why))
            }
            Sample::Fresh(info) => {
                let size = (info.desc.width, info.desc.height);
                ensure!(size == (self.width, self.height), "torn: a frame of size {size:?}");
                pattern::check(info.desc.frame_id, self.width, self.height, &self.buffer)
                    .map_err(|error| format!("torn: frame {}: {error}", info.desc.frame_id))?;
                self.tally.frames += 1;
                self.tally.missed += info.missed;
                Ok(Sample::Fresh(info))
            }
        }
    }

    /// Reads the cursor; its number tells what every field must be.
    pub(crate) fn cursor(&mut self, ram: &impl PhysRead, region: &mut Region) -> Result<Option<CursorSnapshot>> {
        let Sample::Fresh(snapshot) = region.read_cursor(ram)? else {
            self.tally.skips += 1;
            return Ok(None);
        };
        let CursorSnapshot { seq, visible, x, y, hot_x, hot_y, glyph_w, glyph_h, id } = snapshot;
        let read = CursorState { visible, x, y, hot_x, hot_y, glyph_w, glyph_h, id };
        if seq > 0 {
            let written = pattern::cursor(seq / 2, self.width, self.height);
            ensure!(read == written, "torn: cursor {seq} is {read:?}, was written {written:?}");
        }
        self.tally.cursors += 1;
        Ok(Some(snapshot))
    }

    /// Reads the geometry; it has to be that of one of the steps. Step 0 is that nobody has set any: all zero.
    pub(crate) fn geometry(
        &mut self,
        ram: &impl PhysRead,
        region: &mut Region,
        mut steps: core::ops::Range<u32>,
    ) -> Result<()> {
        let Sample::Fresh(snapshot) = region.read_geometry(ram)? else {
            self.tally.skips += 1;
            return Ok(());
        };
        let GeometrySnapshot { virt_x, virt_y, virt_w, virt_h, cap_x, cap_y, dpi, refresh_mhz } = snapshot;
        let read = GeometryState { virt_x, virt_y, virt_w, virt_h, cap_x, cap_y, dpi, refresh_mhz };
        let at_step = |step| match step {
            0 => UNSET,
            _ => pattern::geometry(step, self.width, self.height),
        };
        let written = steps.any(|step| at_step(step) == read);
        ensure!(written, "torn: nobody wrote the geometry {read:?}");
        self.tally.geometries += 1;
        Ok(())
    }

    /// Takes `count` frames, and reads the cursor with each.
    pub(crate) fn take(&mut self, ram: &impl PhysRead, region: &mut Region, count: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(300);
        let wanted = self.tally.frames + count;
        while self.tally.frames < wanted {
            ensure!(Instant::now() < deadline, "{} frames of {wanted} in five minutes", self.tally.frames);
            if self.frame(ram, region)?.fresh().is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.cursor(ram, region)?;
        }
        Ok(())
    }
}
