//! Waiting, and long work, that a signal ends: ctrl-C is seen within a twentieth of a second.

use core::ops::ControlFlow;
use core::time::Duration;
use std::time::Instant;

use pyo3::prelude::*;

/// How long the interpreter's signals may go unseen.
const PIECE: Duration = Duration::from_millis(50);

/// Sleeps until `until` with the interpreter released; an exception where a signal's handler raised one.
pub(crate) fn sleep_until(py: Python<'_>, until: Instant) -> PyResult<()> {
    loop {
        py.check_signals()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        py.detach(|| std::thread::sleep(left.min(PIECE)));
    }
}

/// Looks for signals from within long work, now and then.
pub(crate) struct Signals {
    looked: Instant,
    /// What a handler raised.
    raised: Option<PyErr>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self { looked: Instant::now(), raised: None }
    }

    /// True where the work has to end. Called without the interpreter.
    pub(crate) fn end(&mut self) -> bool {
        if self.raised.is_none() && self.looked.elapsed() >= PIECE {
            self.raised = Python::attach(|py| py.check_signals()).err();
            self.looked = Instant::now();
        }
        self.raised.is_some()
    }

    /// The same, for work that asks whether to go on.
    pub(crate) fn flow(&mut self) -> ControlFlow<()> {
        if self.end() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What a handler raised, if one did.
    pub(crate) fn raised(self) -> PyResult<()> {
        self.raised.map_or(Ok(()), Err)
    }
}
