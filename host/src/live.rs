//! A region that is read: a candidate and its reader.

use vgpu_perception::abi::{LATEST_NONE, producer, slot_offset};
use vgpu_perception::find::{Rank, Verdict};
use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::region::{
    CursorSnapshot, FrameInfo, FrameStretch, GeometrySnapshot, Pulse, ReadError, Reader, Sample, StatusSnapshot,
};
use vgpu_perception::scan::Candidate;
use vgpu_perception::{CopyOptions, PageWalker, PhysError, PhysRead};

use crate::memory::Shared;

/// A region, and the memory that it was found in: what [`Survey::confirm`](crate::Survey::confirm) gives of a producer
/// that lives.
///
/// It borrows nothing and may move to another thread. Where a read fails, the producer or its guest has gone: survey
/// again, or leave that to a [`Watch`](crate::Watch).
#[derive(Debug)]
pub struct Live<M> {
    candidate: Candidate<GuestPaging>,
    reader: Reader<Shared<M>, GuestPaging>,
    pulse: Option<Pulse>,
}

impl<M: PhysRead> Live<M> {
    pub(crate) fn new(memory: Shared<M>, candidate: Candidate<GuestPaging>) -> Self {
        Self { reader: Reader::new(memory, candidate.region()), candidate, pulse: None }
    }

    /// The same, with the heartbeat that proved it.
    pub(crate) const fn seen(mut self, pulse: Pulse) -> Self {
        self.pulse = Some(pulse);
        self
    }

    /// Another reader of the same region, with the same proof; it has taken no frame yet.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { pulse: self.pulse, ..Self::new(self.reader.memory().clone(), self.candidate) }
    }

    /// Where it was found, and in which process.
    #[must_use]
    pub const fn candidate(&self) -> &Candidate<GuestPaging> {
        &self.candidate
    }

    /// The heartbeat that proved the producer alive; `None` for one that was opened without proof.
    #[must_use]
    pub const fn proof(&self) -> Option<Pulse> {
        self.pulse
    }

    /// Its rank among others.
    #[must_use]
    pub fn rank(&self) -> Rank {
        Rank::of(&self.candidate, if self.pulse.is_some() { Verdict::Alive } else { Verdict::Unknown })
    }

    /// Whether the first page of its latest frame is in RAM where the region says; true where it has no frame yet.
    pub(crate) fn reaches_its_frame(&self) -> bool {
        let walker = PageWalker::new(self.reader.memory(), self.candidate.process.space);
        let at = |offset| self.candidate.base.wrapping_add(offset);
        let mut latest = [0; 4];
        walker.read(at(producer::LATEST), &mut latest).is_ok()
            && match u32::from_le_bytes(latest) {
                LATEST_NONE => true,
                slot => slot_offset(slot).is_some_and(|offset| walker.translate(at(offset)).is_ok()),
            }
    }

    /// How frames are copied from now on: what the caller does with them next, or a fixed method.
    pub fn set_copy(&mut self, copy: impl Into<CopyOptions>) {
        self.reader.set_copy(copy);
    }

    /// Copies the latest frame into the start of `dst`, if it is newer than the last one taken.
    ///
    /// # Errors
    /// [`ReadError`] where the region cannot be read any more.
    pub fn frame(&mut self, dst: &mut [u8]) -> Result<Sample<FrameInfo>, ReadError> {
        self.reader.frame(dst)
    }

    /// Shows the latest frame in place, if it is newer than the last one taken. What `visit` did counts only if the
    /// result is [`Sample::Fresh`].
    ///
    /// # Errors
    /// [`ReadError`] where the region cannot be read any more, or where `visit` fails.
    pub fn visit_frame(
        &mut self,
        visit: impl FnMut(FrameStretch<'_, Shared<M>>) -> Result<(), PhysError>,
    ) -> Result<Sample<FrameInfo>, ReadError> {
        self.reader.visit_frame(visit)
    }

    /// The cursor.
    ///
    /// # Errors
    /// [`ReadError`] where the region cannot be read any more.
    pub fn cursor(&mut self) -> Result<Sample<CursorSnapshot>, ReadError> {
        self.reader.cursor()
    }

    /// The display's geometry.
    ///
    /// # Errors
    /// [`ReadError`] where the region cannot be read any more.
    pub fn geometry(&mut self) -> Result<Sample<GeometrySnapshot>, ReadError> {
        self.reader.geometry()
    }

    /// What the producer is doing.
    ///
    /// # Errors
    /// [`ReadError`] where the region cannot be read any more.
    pub fn status(&mut self) -> Result<Sample<StatusSnapshot>, ReadError> {
        self.reader.status()
    }

    /// Forgets which frames were taken: the next one is fresh whatever its number.
    pub const fn forget_frames(&mut self) {
        self.reader.forget_frames();
    }

    /// The reader underneath.
    pub const fn reader_mut(&mut self) -> &mut Reader<Shared<M>, GuestPaging> {
        &mut self.reader
    }
}
