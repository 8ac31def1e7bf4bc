//! The candidates of a guest, and which of them live.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use vgpu_perception::region::Liveness;
use vgpu_perception_host::{Guest, Ram, Sighting, Survey as HostSurvey};

use crate::errors::{Raise, too_early};
use crate::live::Live;
use crate::snapshots::Process;
use crate::waiting::Signals;

/// Bytes of a process that read like a region. Any process can forge them: only a heartbeat proves a producer.
#[pyclass(frozen, module = "vgpu_perception")]
pub(crate) struct Candidate {
    /// The process.
    #[pyo3(get)]
    process: Process,
    /// The region's first address in it.
    #[pyo3(get)]
    base: u64,
    /// Whether its heartbeat was seen to advance; None before that can be known.
    #[pyo3(get)]
    alive: Option<bool>,
    sighting: Sighting,
}

impl From<&Sighting> for Candidate {
    fn from(sighting: &Sighting) -> Self {
        let alive = match sighting.liveness {
            Some(Liveness::Alive(_)) => Some(true),
            Some(Liveness::Stale(_)) => Some(false),
            _ if sighting.gone.is_some() => Some(false),
            _ => None,
        };
        let candidate = &sighting.candidate;
        Self { process: candidate.process.into(), base: candidate.base.get(), alive, sighting: *sighting }
    }
}

#[pymethods]
impl Candidate {
    fn __repr__(&self) -> String {
        let alive = self.alive.map_or("None", |alive| if alive { "True" } else { "False" });
        format!("Candidate(base={:#x}, cr3={:#x}, alive={alive})", self.base, self.process.cr3())
    }
}

/// The candidates of a guest, best first, and which of them live.
#[pyclass(frozen, module = "vgpu_perception")]
pub(crate) struct Survey {
    survey: Mutex<HostSurvey<Ram>>,
    guest: Arc<Guest<Ram>>,
}

impl Survey {
    pub(crate) const fn new(survey: HostSurvey<Ram>, guest: Arc<Guest<Ram>>) -> Self {
        Self { survey: Mutex::new(survey), guest }
    }

    fn lock(&self) -> MutexGuard<'_, HostSurvey<Ram>> {
        self.survey.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Survey {
    /// Seconds that are left until `confirm` can say that a producer does not live. The wait is the caller's.
    fn wait(&self, py: Python<'_>) -> f64 {
        py.detach(|| self.lock().wait().as_secs_f64())
    }

    /// Reads every heartbeat again and gives the producers whose heartbeat moved, best first. It may be called again.
    /// Raises TooEarly before `wait` is over.
    fn confirm(&self, py: Python<'_>) -> PyResult<Vec<Live>> {
        match py.detach(|| self.lock().confirm()) {
            Ok(lives) => Ok(lives.into_iter().map(|live| Live::new(live, Arc::clone(&self.guest))).collect()),
            Err(error) => Err(too_early(py, error)),
        }
    }

    /// Goes on with the candidates behind those that were handed out; False where there are no more.
    fn more(&self, py: Python<'_>) -> PyResult<bool> {
        let mut signals = Signals::new();
        let more = py.detach(|| self.lock().more_with(|_| signals.flow()));
        signals.raised()?;
        more.map_err(Raise::raise)
    }

    /// A reader of a candidate whatever its heartbeat says: of a guest that is paused, or of a core file.
    fn open(&self, py: Python<'_>, candidate: &Candidate) -> Live {
        let live = py.detach(|| self.lock().open(&candidate.sighting));
        Live::new(live, Arc::clone(&self.guest))
    }

    /// How many candidates the guest showed beyond those that were handed out.
    #[getter]
    fn left(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.lock().left())
    }

    /// The candidates that it holds, best first.
    #[getter]
    fn candidates(&self, py: Python<'_>) -> Vec<Candidate> {
        py.detach(|| self.lock().candidates().iter().map(Candidate::from).collect())
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().candidates().len())
    }
}
