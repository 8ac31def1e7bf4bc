//! A region that is read, and frames into arrays.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use vgpu_perception::region::{FrameInfo, ReadError, Sample, Skip};
use vgpu_perception::{NextUse, abi};
use vgpu_perception_host::{Guest as HostGuest, Live as HostLive, Ram};

use crate::buffers::{Out, Pool};
use crate::errors::{Raise, seconds};
use crate::frames::Frames;
use crate::snapshots::{Cursor, Frame, Geometry, Process, Status};

/// The latest frame, also where the producer has begun a new session meanwhile: its numbers start anew then.
pub(crate) fn latest(live: &mut HostLive<Ram>, bytes: &mut [u8]) -> Result<Sample<FrameInfo>, ReadError> {
    match live.frame(bytes)? {
        Sample::Skip(Skip::Older { .. }) => {
            live.forget_frames();
            live.frame(bytes)
        }
        sample => Ok(sample),
    }
}

/// What an attempt to take a frame gave; `T` is what there was to be read from, if there was something.
type Read = Result<Sample<FrameInfo>, ReadError>;

/// Takes frames into arrays of its own.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    pool: Pool,
    /// Bytes of the last frame.
    size: AtomicUsize,
}

impl Taker {
    /// Calls `read` with memory for a frame, without the interpreter; again with more where that is too little.
    pub(crate) fn take(&self, py: Python<'_>, read: impl Fn(&mut [u8]) -> Read + Sync) -> PyResult<Option<Frame>> {
        // The first attempt may learn the size, and the guest may change it once more.
        for _ in 0..3 {
            let buffer = self.pool.take(py, self.size.load(Ordering::Relaxed))?;
            let got = buffer.fill(py, &read)?;
            let frame = match &got {
                Ok(Sample::Fresh(info)) => {
                    self.size.store(info.bytes, Ordering::Relaxed);
                    let picture = buffer.picture(info.desc.height as usize, info.desc.width as usize)?;
                    Some(Frame::new(info, picture))
                }
                Ok(Sample::Skip(Skip::TooSmall { needed, .. })) if *needed <= abi::MAX_FRAME_BYTES => {
                    // What was too small is of no use any more.
                    self.size.store(usize::try_from(*needed).unwrap_or(0), Ordering::Relaxed);
                    continue;
                }
                _ => None,
            };
            self.pool.keep(buffer);
            return got.map(|_| frame).map_err(Raise::raise);
        }
        Ok(None)
    }
}

/// A region of a producer, and the memory that it is in. It may be used by several threads, which take turns.
#[pyclass(frozen, module = "vgpu_perception")]
pub(crate) struct Live {
    live: Mutex<HostLive<Ram>>,
    guest: Arc<HostGuest<Ram>>,
    taker: Taker,
}

impl Live {
    pub(crate) fn new(mut live: HostLive<Ram>, guest: Arc<HostGuest<Ram>>) -> Self {
        live.set_copy(NextUse::ReadSoon);
        Self { live: Mutex::new(live), guest, taker: Taker::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HostLive<Ram>> {
        // A read that panicked left nothing half done that the next one would trust.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the small lines, without the interpreter.
    fn line<T: Send, O: From<T>>(
        &self,
        py: Python<'_>,
        read: impl FnOnce(&mut HostLive<Ram>) -> Result<Sample<T>, ReadError> + Send,
    ) -> PyResult<Option<O>> {
        let sample = py.detach(|| read(&mut self.lock())).map_err(Raise::raise)?;
        Ok(sample.fresh().map(O::from))
    }

    /// The latest frame into the caller's array.
    fn fill(&self, py: Python<'_>, out: &Out<'_>) -> PyResult<Option<Frame>> {
        match out.fill(py, |bytes| latest(&mut self.lock(), bytes))?.map_err(Raise::raise)? {
            Sample::Fresh(info) => {
                let size = (info.desc.height as usize, info.desc.width as usize);
                if size != out.size() {
                    // The next call gives it again, into an array that fits.
                    py.detach(|| self.lock().forget_frames());
                    return Err(PyValueError::new_err(format!(
                        "the frame has the shape ({}, {}, 4), out has ({}, {}, 4)",
                        size.0,
                        size.1,
                        out.size().0,
                        out.size().1
                    )));
                }
                Ok(Some(Frame::new(&info, out.picture()?)))
            }
            Sample::Skip(Skip::TooSmall { needed, .. }) => Err(PyValueError::new_err(format!(
                "the frame has {needed} bytes, out has {}: frame() without out tells its shape",
                out.len()
            ))),
            Sample::Skip(_) => Ok(None),
        }
    }
}

#[pymethods]
impl Live {
    /// The latest frame, if it is newer than the last one taken; None where nothing is new, nothing was published, or
    /// the producer was writing at every try.
    ///
    /// With `out`, a writable C-contiguous uint8 array of the frame's shape, the pixels go there without a copy in
    /// between; where the result is None or an exception, what `out` holds means nothing.
    #[pyo3(signature = (*, out = None))]
    fn frame(&self, py: Python<'_>, out: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Frame>> {
        match out {
            Some(object) => self.fill(py, &Out::new(object)?),
            None => self.taker.take(py, |bytes| latest(&mut self.lock(), bytes)),
        }
    }

    /// An iterator over new frames, at most `fps` a second. It follows the producer through restarts, and the guest
    /// through reboots; it ends with an exception where the guest is gone, or no producer lives for `timeout` seconds.
    #[pyo3(signature = (fps = None, *, timeout = None))]
    fn frames(&self, py: Python<'_>, fps: Option<f64>, timeout: Option<f64>) -> PyResult<Frames> {
        let timeout = seconds("timeout", timeout)?;
        let begin = py.detach(|| self.lock().another());
        Frames::new(Arc::clone(&self.guest), begin, fps, timeout)
    }

    /// The cursor; None where it cannot be read whole now.
    fn cursor(&self, py: Python<'_>) -> PyResult<Option<Cursor>> {
        self.line(py, HostLive::cursor)
    }

    /// The display's geometry; None where it cannot be read whole now.
    fn geometry(&self, py: Python<'_>) -> PyResult<Option<Geometry>> {
        self.line(py, HostLive::geometry)
    }

    /// What the producer is doing; None where it cannot be read whole now.
    fn status(&self, py: Python<'_>) -> PyResult<Option<Status>> {
        self.line(py, HostLive::status)
    }

    /// Forgets which frames were taken: the next call gives the latest one, also if it was taken before.
    fn forget_frames(&self, py: Python<'_>) {
        py.detach(|| self.lock().forget_frames());
    }

    /// The process that the producer is.
    #[getter]
    fn process(&self, py: Python<'_>) -> Process {
        py.detach(|| self.lock().candidate().process).into()
    }

    /// The region's first address in that process.
    #[getter]
    fn base(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.lock().candidate().base.get())
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Live(base={:#x}, cr3={:#x})", self.base(py), self.process(py).cr3())
    }
}
