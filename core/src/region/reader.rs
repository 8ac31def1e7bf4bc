//! A region bound to the memory that it is in.

use super::{
    CursorSnapshot, FrameInfo, FrameScratch, FrameSink, FrameStretch, GeometrySnapshot, Liveness, Pulse, ReadError,
    Region, Sample, StatusSnapshot, StreamError,
};
use crate::paging::{Hardware, NotPresentResolver};
use crate::phys::{CopyOptions, PhysError, PhysRead};

/// A region, the memory that it was found in, and the scratch memory of its reads, bound together.
///
/// Its methods take no memory, so that a region cannot be read through another guest's. `M` is usually a reference.
///
/// ```
/// use vgpu_perception::PhysRead;
/// use vgpu_perception::paging::Hardware;
/// use vgpu_perception::region::{Reader, Sample};
///
/// fn poll(reader: &mut Reader<impl PhysRead, Hardware>, picture: &mut [u8]) {
///     match reader.frame(picture) {
///         Ok(Sample::Fresh(frame)) => { /* picture[..frame.bytes] is frame.desc.frame_id */ let _ = frame; }
///         Ok(Sample::Skip(reason)) => { /* nothing new, or nothing trustworthy: come back later */ let _ = reason; }
///         Err(error) => { /* the producer's pages are gone: find again */ let _ = error; }
///     }
/// }
/// ```
///
/// Another memory does not go in:
///
/// ```compile_fail
/// # use vgpu_perception::PhysRead;
/// # use vgpu_perception::paging::Hardware;
/// # use vgpu_perception::region::Reader;
/// fn wrong(reader: &mut Reader<&impl PhysRead, Hardware>, other: &impl PhysRead, picture: &mut [u8]) {
///     let _ = reader.frame(other, picture);
/// }
/// ```
#[derive(Debug)]
pub struct Reader<M, R = Hardware> {
    mem: M,
    region: Region<R>,
    scratch: FrameScratch,
    copy: CopyOptions,
}

impl<M: PhysRead, R: NotPresentResolver> Reader<M, R> {
    /// Binds `region` to `mem`, the memory that it was found in. Nothing is read.
    #[must_use]
    pub fn new(mem: M, region: Region<R>) -> Self {
        Self { mem, region, scratch: FrameScratch::new(), copy: CopyOptions::default() }
    }

    /// How frames are copied from now on: what the caller does with them next, or a fixed method.
    pub fn set_copy(&mut self, copy: impl Into<CopyOptions>) {
        self.copy = copy.into();
    }

    /// The region: where it is, and what was taken last.
    #[must_use]
    pub const fn region(&self) -> &Region<R> {
        &self.region
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.mem
    }

    /// Copies the latest frame into the start of `dst`, if it is newer than the last one taken:
    /// [`Region::sample_frame`], with its bound.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page or a page of the frame cannot be read.
    pub fn frame(&mut self, dst: &mut [u8]) -> Result<Sample<FrameInfo>, ReadError> {
        self.region.sample_frame(&self.mem, &mut self.scratch, dst, self.copy)
    }

    /// Shows the latest frame in place, if it is newer than the last one taken: [`Region::visit_frame`], with its
    /// bound.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page or a page of the frame cannot be read, or where `visit` fails.
    pub fn visit_frame(
        &mut self,
        visit: impl FnMut(FrameStretch<'_, M>) -> Result<(), PhysError>,
    ) -> Result<Sample<FrameInfo>, ReadError> {
        self.region.visit_frame(&self.mem, &mut self.scratch, visit)
    }

    /// Passes the latest frame through `block` to `sink`, if it is newer than the last one taken:
    /// [`Region::stream_frame`], with its bound.
    ///
    /// # Errors
    /// [`StreamError`]: memory that cannot be read, a sink that refuses the frame, a block that is too small.
    pub fn stream_frame<S: FrameSink>(
        &mut self,
        block: &mut [u8],
        sink: &mut S,
    ) -> Result<Sample<FrameInfo>, StreamError<S::Refusal>> {
        self.region.stream_frame(&self.mem, &mut self.scratch, block, sink)
    }

    /// Starts to fetch what the next cursor or poll will read: [`Region::prefetch`].
    #[inline]
    pub fn prefetch(&self) {
        self.region.prefetch(&self.mem);
    }

    /// The cursor: [`Region::read_cursor`].
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn cursor(&mut self) -> Result<Sample<CursorSnapshot>, ReadError> {
        self.region.read_cursor(&self.mem)
    }

    /// The display's geometry: [`Region::read_geometry`].
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn geometry(&mut self) -> Result<Sample<GeometrySnapshot>, ReadError> {
        self.region.read_geometry(&self.mem)
    }

    /// The lifecycle line: [`Region::read_status`].
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn status(&mut self) -> Result<Sample<StatusSnapshot>, ReadError> {
        self.region.read_status(&self.mem)
    }

    /// The heartbeat and its session: [`Region::read_pulse`].
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn pulse(&mut self) -> Result<Sample<Pulse>, ReadError> {
        self.region.read_pulse(&self.mem)
    }

    /// Compares the heartbeat with an earlier one: [`Region::confirm_alive`].
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn confirm_alive(&mut self, before: Pulse) -> Result<Liveness, ReadError> {
        self.region.confirm_alive(&self.mem, before)
    }

    /// Forgets which frames were taken: [`Region::forget_frames`].
    pub const fn forget_frames(&mut self) {
        self.region.forget_frames();
    }
}
