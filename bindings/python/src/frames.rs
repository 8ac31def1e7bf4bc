//! Frame after frame, through restarts and reboots.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyo3::prelude::*;
use vgpu_perception::NextUse;
use vgpu_perception::region::{Sample, Skip};
use vgpu_perception_host::{Event, Guest, Live, Ram, SurveyError, Watch};

use crate::errors::{NoProducer, Raise, UsageError};
use crate::live::{Taker, latest};
use crate::snapshots::Frame;
use crate::waiting::{Signals, sleep_until};

/// How long to sleep after a poll that gave nothing: well below a frame at 60 Hz.
const POLL: Duration = Duration::from_millis(2);

/// A producer that is followed, and since when there is none.
pub(crate) struct Follow {
    watch: Watch<Ram>,
    /// When the next step is due.
    due: Instant,
    lived: Instant,
    /// What was in the way at last.
    why: String,
}

impl Follow {
    pub(crate) fn new(guest: Arc<Guest<Ram>>, begin: Option<Live<Ram>>) -> PyResult<Self> {
        if !guest.is_live() {
            return Err(UsageError::new_err(
                "this memory stands still, and no heartbeat advances in it: survey() and open() read it",
            ));
        }
        let mut watch = Watch::new(guest);
        if let Some(mut live) = begin {
            live.set_copy(NextUse::ReadSoon);
            watch = watch.beginning_with(live);
        }
        let now = Instant::now();
        Ok(Self { watch, due: now, lived: now, why: "it was not searched to its end".into() })
    }

    /// The producer, while it lives.
    pub(crate) fn live(&mut self) -> Option<&mut Live<Ram>> {
        self.watch.live()
    }

    /// When the next step is due.
    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// Does what is due. It can take as long as a search of the guest's memory does, unless a signal comes.
    pub(crate) fn step(&mut self, signals: &mut Signals) -> Result<(), SurveyError> {
        let now = Instant::now();
        if now < self.due {
            return Ok(());
        }
        let (event, due) = self.watch.step_with(now, |_| signals.flow());
        self.due = due;
        match event {
            Event::Found => {
                if let Some(live) = self.watch.live() {
                    live.set_copy(NextUse::ReadSoon);
                }
            }
            Event::NoCandidate => self.why = "no process of the guest has a region whose heartbeat advances".into(),
            Event::Stale => self.why = "its heartbeat stands still: it has ended, or the guest is paused".into(),
            Event::Gone(error) => self.why = error.to_string(),
            Event::Failed(error @ SurveyError::Detached(_)) => return Err(error),
            Event::Failed(error) => self.why = error.to_string(),
            _ => {}
        }
        if self.watch.live().is_some() {
            self.lived = Instant::now();
        }
        Ok(())
    }

    /// An exception where no producer has been alive for as long as `timeout`.
    pub(crate) fn patience(&self, timeout: Option<Duration>) -> PyResult<()> {
        match timeout {
            Some(timeout) if self.lived.elapsed() >= timeout => {
                Err(NoProducer::new_err(format!("no producer was alive for {} s: {}", timeout.as_secs_f64(), self.why)))
            }
            _ => Ok(()),
        }
    }
}

/// An iterator over new frames: what `Live.frames` gives.
#[pyclass(frozen, module = "vgpu_perception")]
pub(crate) struct Frames {
    follow: Mutex<Follow>,
    taker: Taker,
    tick: Duration,
    /// When the next frame may be given.
    next: Mutex<Instant>,
    timeout: Option<Duration>,
}

impl Frames {
    pub(crate) fn new(
        guest: Arc<Guest<Ram>>,
        begin: Live<Ram>,
        fps: Option<f64>,
        timeout: Option<Duration>,
    ) -> PyResult<Self> {
        let tick = match fps {
            None => Duration::ZERO,
            Some(fps) => Duration::try_from_secs_f64(1.0 / fps).ok().filter(|_| fps > 0.0).ok_or_else(|| {
                UsageError::new_err(format!("fps={fps}: a number above 0, or None for every frame that can be taken"))
            })?,
        };
        let follow = Mutex::new(Follow::new(guest, Some(begin))?);
        Ok(Self { follow, taker: Taker::default(), tick, next: Mutex::new(Instant::now()), timeout })
    }

    fn lock(&self) -> MutexGuard<'_, Follow> {
        self.follow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> MutexGuard<'_, Instant> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Frames {
    const fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Frame> {
        let next = *self.next();
        sleep_until(py, next)?;
        loop {
            let mut signals = Signals::new();
            let step = py.detach(|| self.lock().step(&mut signals));
            signals.raised()?;
            step.map_err(Raise::raise)?;
            let frame = self.taker.take(py, |bytes| {
                let mut follow = self.lock();
                let Some(live) = follow.live() else { return Ok(Sample::Skip(Skip::NoFrame)) };
                let got = latest(live, bytes);
                if got.is_err() {
                    // The next step finds out what became of the producer.
                    follow.due = Instant::now();
                    return Ok(Sample::Skip(Skip::NoFrame));
                }
                got
            })?;
            if let Some(frame) = frame {
                *self.next() = (next + self.tick).max(Instant::now());
                return Ok(frame);
            }
            let due = py.detach(|| {
                let follow = self.lock();
                follow.patience(self.timeout).map(|()| follow.due())
            })?;
            sleep_until(py, due.min(Instant::now() + POLL))?;
        }
    }
}
