//! Why a guest could not be attached to.

use core::fmt;

use vgpu_perception_mapped::{MapError, OpenError};

/// A guest that could not be attached to: a kind to act on, and a message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachError {
    kind: AttachErrorKind,
    message: String,
    advice: Option<String>,
}

/// What kind of obstacle it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttachErrorKind {
    /// The name of the guest cannot be understood, or means two things.
    Usage,
    /// There is no such guest, file or monitor.
    NotFound,
    /// This user may not read it.
    Permission,
    /// The process of the virtual machine has ended, or another has its number.
    Ended,
    /// The monitor does not answer as one.
    Monitor,
    /// Another client holds the monitor.
    MonitorBusy,
    /// Where the RAM lies, or how it is split, is unknown or does not fit.
    Layout,
    /// A file does not show what the guest writes: it is not shared, or it is another guest's.
    NotShared,
    /// The guest's RAM is encrypted.
    Encrypted,
    /// A format that is not read here.
    Format,
    /// The operating system refused something else.
    Io,
}

impl AttachError {
    /// An error of this kind, with what was wrong and what to do.
    pub fn new(kind: AttachErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), advice: None }
    }

    /// The same with what to run or to change, where one line does it.
    pub(super) fn advise(self, advice: Option<String>) -> Self {
        Self { advice, ..self }
    }

    /// What to run or to change, where one line does it.
    pub(super) fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// What kind of obstacle it is.
    #[must_use]
    pub const fn kind(&self) -> AttachErrorKind {
        self.kind
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for AttachError {}

impl From<OpenError> for AttachError {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::Missing { .. } => AttachErrorKind::NotFound,
            OpenError::PermissionDenied { .. } => AttachErrorKind::Permission,
            OpenError::TooShort { .. } | OpenError::NoSuchFile { .. } | OpenError::Map(_) => AttachErrorKind::Layout,
            OpenError::Empty { .. } => AttachErrorKind::NotShared,
            _ => AttachErrorKind::Io,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<MapError> for AttachError {
    fn from(error: MapError) -> Self {
        Self::new(AttachErrorKind::Layout, error.to_string())
    }
}
