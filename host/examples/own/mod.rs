//! A guest of the examples' own: what they look at where none is named.

use core::error::Error;

use vgpu_perception_host::attach::{GuestSource, GuestSpec};
use vgpu_perception_host::{Guest, Ram};
use vgpu_perception_mapped::{Segment, SegmentMap};
use vgpu_perception_testkit::{FileSegment, RunningGuest};

/// A guest that runs until the first value is dropped, and the same as this library sees it.
pub(crate) fn guest() -> Result<(RunningGuest, Guest<Ram>), Box<dyn Error>> {
    let running = RunningGuest::start()?;
    let segment = |at: &FileSegment| Segment { gpa: at.gpa, len: at.len, file: 0, offset: at.offset };
    let map = SegmentMap::new(running.segments().iter().map(segment))?;
    let guest = Guest::attach_to(&GuestSpec::new(GuestSource::Ram(vec![running.ram()])).map(map))?;
    Ok((running, guest))
}
