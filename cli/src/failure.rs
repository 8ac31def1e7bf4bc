//! How a command ends when it does not succeed: a message that says what to do, and an exit code to script against.

use core::fmt;

use vgpu_perception::PhysError;
use vgpu_perception::find::FindError;
use vgpu_perception::region::ReadError;
use vgpu_perception_host::SurveyError;
use vgpu_perception_host::attach::{AttachError, AttachErrorKind};
use vgpu_perception_mapped::{MapError, OpenError};

/// The exit code where nothing is there.
pub(crate) const NOTHING: u8 = 1;

/// The end of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line cannot be understood: exit 2.
    Usage(String),
    /// Nothing there: exit 1.
    Nothing(String),
    /// The RAM, its map or QEMU cannot be used: exit 3.
    Guest(String),
    /// The region cannot be read any more: exit 4.
    Read(String),
    /// Standard output or a file cannot be written: exit 5.
    Output(String),
}

impl Failure {
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Nothing(_) => NOTHING,
            Self::Usage(_) => 2,
            Self::Guest(_) => 3,
            Self::Read(_) => 4,
            Self::Output(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Nothing(text) | Self::Guest(text) | Self::Read(text) | Self::Output(text) => {
                f.write_str(text)
            }
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Guest(error.to_string())
    }
}

impl From<MapError> for Failure {
    fn from(error: MapError) -> Self {
        Self::Guest(error.to_string())
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        match error.kind() {
            AttachErrorKind::Usage => Self::Usage(error.to_string()),
            _ => Self::Guest(error.to_string()),
        }
    }
}

impl From<SurveyError> for Failure {
    fn from(error: SurveyError) -> Self {
        match error {
            SurveyError::Find(FindError::Memory(error)) => error.into(),
            SurveyError::Find(FindError::Root(error)) => Self::Guest(format!("{error}; give another --cr3, or auto")),
            SurveyError::Find(FindError::NoKernel) => Self::Guest(format!("{error} See --machine and --map.")),
            error => Self::Guest(error.to_string()),
        }
    }
}

impl From<PhysError> for Failure {
    fn from(error: PhysError) -> Self {
        Self::Guest(format!("{error}; give the map of this machine with --machine or --map"))
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Read(format!("{error}; the producer may have ended: run vgpu find again"))
    }
}
