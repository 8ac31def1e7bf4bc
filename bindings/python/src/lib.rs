//! The Python module `vgpu_perception`: from a guest's name to its frames, as numpy arrays.
//!
//! Thin, over the `host` crate: it neither finds, ranks nor attaches by itself. The interpreter is released while a
//! guest's memory is read; whatever waits looks for signals meanwhile.

mod buffers;
mod errors;
mod frames;
mod guest;
mod live;
mod snapshots;
mod survey;
mod waiting;

/// Reads the screen frames, the cursor and the geometry that a capture program inside a virtual machine publishes in
/// shared memory: from the host, read-only, without asking the hypervisor.
#[pyo3::pymodule]
mod vgpu_perception {
    use pyo3::prelude::*;
    use pyo3::types::PyModule;

    #[pymodule_export]
    use crate::errors::{Error, Gone, NoProducer, NotFound, PermissionDenied, TooEarly, Unreadable, UsageError};
    #[pymodule_export]
    use crate::frames::Frames;
    #[pymodule_export]
    use crate::guest::{Guest, attach};
    #[pymodule_export]
    use crate::live::Live;
    #[pymodule_export]
    use crate::snapshots::{Cursor, Frame, Geometry, Process, Status};
    #[pymodule_export]
    use crate::survey::{Candidate, Survey};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
