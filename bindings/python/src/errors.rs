//! Exceptions by their cause, and which error of the host is which.

use core::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use vgpu_perception::PhysError;
use vgpu_perception::region::ReadError;
use vgpu_perception_host::attach::{AttachError, AttachErrorKind};
use vgpu_perception_host::{SurveyError, TooEarly as HostTooEarly};
use vgpu_perception_mapped::MapError;

create_exception!(vgpu_perception, Error, PyException, "Whatever this module raises.");
create_exception!(vgpu_perception, UsageError, Error, "A name, a map or an option cannot be understood.");
create_exception!(vgpu_perception, NotFound, Error, "There is no such guest, file or monitor.");
create_exception!(vgpu_perception, PermissionDenied, Error, "This user may not read the guest's memory.");
create_exception!(
    vgpu_perception,
    Unreadable,
    Error,
    "The guest's memory cannot be used: not shared, encrypted, split in an unknown way, without a kernel, or its \
     monitor does not answer."
);
create_exception!(
    vgpu_perception,
    Gone,
    Error,
    "The producer's pages, or the guest's process, are not there any more: find again, or attach again."
);
create_exception!(vgpu_perception, NoProducer, Error, "No producer was alive within the time that was given.");
create_exception!(
    vgpu_perception,
    TooEarly,
    Error,
    "A survey was confirmed before its producers had time to beat; its attribute `wait` says how many seconds are left."
);

/// An error of the host crate as the exception that it is. A function: both types are others'.
pub(crate) trait Raise {
    fn raise(self) -> PyErr;
}

impl Raise for AttachError {
    fn raise(self) -> PyErr {
        of_attaching(&self)
    }
}

fn of_attaching(error: &AttachError) -> PyErr {
    let text = error.to_string();
    match error.kind() {
        AttachErrorKind::Usage => UsageError::new_err(text),
        AttachErrorKind::NotFound => NotFound::new_err(text),
        AttachErrorKind::Permission => PermissionDenied::new_err(text),
        AttachErrorKind::Ended => Gone::new_err(text),
        _ => Unreadable::new_err(text),
    }
}

impl Raise for SurveyError {
    fn raise(self) -> PyErr {
        match &self {
            Self::Detached(error) => match error.downcast_ref::<AttachError>() {
                Some(error) => of_attaching(error),
                None => Gone::new_err(error.to_string()),
            },
            _ => Unreadable::new_err(self.to_string()),
        }
    }
}

impl Raise for ReadError {
    fn raise(self) -> PyErr {
        Gone::new_err(format!("{self}; the producer may have ended: find it again"))
    }
}

impl Raise for PhysError {
    fn raise(self) -> PyErr {
        Unreadable::new_err(self.to_string())
    }
}

impl Raise for MapError {
    fn raise(self) -> PyErr {
        UsageError::new_err(self.to_string())
    }
}

/// [`TooEarly`] with its attribute.
pub(crate) fn too_early(py: Python<'_>, error: HostTooEarly) -> PyErr {
    let raised = TooEarly::new_err(error.to_string());
    match raised.value(py).setattr("wait", error.wait.as_secs_f64()) {
        Ok(()) => raised,
        Err(other) => other,
    }
}

/// Seconds of Python's as a duration; `None` is for ever.
pub(crate) fn seconds(name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    Duration::try_from_secs_f64(value)
        .map(Some)
        .map_err(|_| UsageError::new_err(format!("{name}={value}: a number of seconds from 0 on, or None for no end")))
}
