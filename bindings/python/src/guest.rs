//! A guest: where everything begins.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use vgpu_perception::{Budget, Cr3, PhysError, ProcessSource, Step};
use vgpu_perception_host::attach::GuestSpec;
use vgpu_perception_host::{FoundKernel, Guest as HostGuest, Ram, SurveyError};
use vgpu_perception_mapped::{SegmentMap, parse_machine};

use crate::errors::{Raise, seconds};
use crate::frames::Follow;
use crate::live::Live;
use crate::snapshots::Process;
use crate::survey::Survey;
use crate::waiting::{Signals, sleep_until};

/// Loads between two looks at signals.
const PIECE: u64 = 1 << 18;

/// Attaches to a guest by its name: a VM's name, `pid:N`, `qmp:PATH`, `qmp:HOST:PORT`, `ch:SOCKET`, `ram:FILE` or
/// `core:FILE`, as `vgpu list` shows them.
///
/// `map` says where the RAM lies in files, as a list of "GPA:LENGTH:OFFSET" (or "...:FILE" of several files);
/// `machine` how the machine splits its RAM, as "pc" or "q35"; `cr3` is the page-table root of any of its processes.
#[pyfunction]
#[pyo3(signature = (name, *, map = None, machine = None, cr3 = None))]
pub(crate) fn attach(
    py: Python<'_>,
    name: &str,
    map: Option<Vec<String>>,
    machine: Option<&str>,
    cr3: Option<u64>,
) -> PyResult<Guest> {
    let mut spec: GuestSpec = name.parse().map_err(Raise::raise)?;
    if let Some(map) = map {
        spec = spec.map(SegmentMap::parse(map).map_err(Raise::raise)?);
    }
    if let Some(machine) = machine {
        let (machine, options) = parse_machine(machine).map_err(Raise::raise)?;
        spec = spec.machine(machine, options);
    }
    if let Some(root) = cr3 {
        spec = spec.cr3(Cr3::new(root));
    }
    let guest = py.detach(|| HostGuest::attach_to(&spec)).map_err(Raise::raise)?;
    Ok(Guest { guest: Arc::new(guest), name: spec.source().to_string() })
}

/// A guest whose memory can be read.
#[pyclass(frozen, module = "vgpu_perception")]
pub(crate) struct Guest {
    guest: Arc<HostGuest<Ram>>,
    /// How it was named.
    #[pyo3(get)]
    name: String,
}

#[pymethods]
impl Guest {
    /// Finds the candidates in all processes of the guest, each with a first reading of its heartbeat.
    fn survey(&self, py: Python<'_>) -> PyResult<Survey> {
        let mut signals = Signals::new();
        let survey = py.detach(|| self.guest.survey_with(|_| signals.flow()));
        signals.raised()?;
        Ok(Survey::new(survey.map_err(Raise::raise)?, Arc::clone(&self.guest)))
    }

    /// Waits for the best producer that lives: surveys, waits and confirms until there is one. Raises NoProducer after
    /// `timeout` seconds; None waits for ever.
    #[pyo3(signature = (timeout = Some(30.0)), text_signature = "($self, timeout=30.0)")]
    fn find(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Live> {
        let timeout = seconds("timeout", timeout)?;
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut follow = Follow::new(Arc::clone(&self.guest), None)?;
        loop {
            let mut signals = Signals::new();
            let step = py.detach(|| follow.step(&mut signals));
            signals.raised()?;
            step.map_err(Raise::raise)?;
            if let Some(live) = follow.live() {
                return Ok(Live::new(live.another(), Arc::clone(&self.guest)));
            }
            follow.patience(timeout)?;
            sleep_until(py, end.map_or(follow.due(), |end| end.min(follow.due())))?;
        }
    }

    /// The processes of the guest. Only a Windows guest has names and numbers for them.
    fn processes(&self, py: Python<'_>) -> PyResult<Vec<Process>> {
        let mut signals = Signals::new();
        let listed = py.detach(|| {
            let found = self.guest.kernel_with(|_| signals.flow())?;
            processes(&found, &mut signals).map_err(|error| SurveyError::Find(error.into()))
        });
        signals.raised()?;
        listed.map_err(Raise::raise)
    }

    /// Whether the memory can change: False for a core file.
    #[getter]
    fn is_live(&self) -> bool {
        self.guest.is_live()
    }

    /// What was assumed when it was attached to, for people.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.guest.notes().to_vec()
    }

    fn __repr__(&self) -> String {
        format!("Guest({:?})", self.name)
    }
}

/// All of the list, or what was seen of it until a signal came.
fn processes(found: &FoundKernel<Ram>, signals: &mut Signals) -> Result<Vec<Process>, PhysError> {
    let mut source = found.kernel.processes();
    let mut listed = Vec::new();
    while !signals.end() {
        match source.next_process(&found.memory, &mut Budget::new(PIECE))? {
            Step::Found(process) => listed.push(process.into()),
            Step::Pending => {}
            Step::Done => break,
        }
    }
    Ok(listed)
}
