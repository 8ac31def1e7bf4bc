//! Why guest RAM could not be opened, or is no longer what was opened.

use core::fmt;
use std::io;
use std::path::PathBuf;

use crate::map::{MapError, Segment};
use crate::size::bytes;

/// RAM files that cannot be read as the map says.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    Missing {
        /// Its name.
        path: PathBuf,
    },
    /// This process may not read the file.
    PermissionDenied {
        /// Its name.
        path: PathBuf,
    },
    /// A directory, a pipe, a device: nothing that has guest RAM in it.
    NotAFile {
        /// Its name.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file has no bytes.
    ZeroLength {
        /// Its name.
        path: PathBuf,
    },
    /// The file has a length and no data: nothing was ever written to it.
    Empty {
        /// Its name.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// A segment reaches past the end of its file.
    TooShort {
        /// The file.
        path: PathBuf,
        /// The segment.
        segment: Segment,
        /// The length of the file in bytes.
        len: u64,
    },
    /// A segment names a file that was not handed over.
    NoSuchFile {
        /// The segment.
        segment: Segment,
        /// How many files there were.
        files: usize,
    },
    /// The caller required a file that cannot shrink, and this one can.
    NotSealed {
        /// The file.
        path: PathBuf,
    },
    /// Not all huge pages of a file on hugetlbfs exist, and reading the others would allocate them.
    HugeHoles {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// Bytes of huge pages that exist.
        allocated: u64,
    },
    /// The file is shorter than it was when it was opened.
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened, in bytes.
        was: u64,
        /// Its length now.
        now: u64,
    },
    /// A descriptor that is open for writing could not be opened again for reading alone.
    NotReadOnly {
        /// What the caller called the file.
        path: PathBuf,
        /// Why opening it again failed.
        source: io::Error,
    },
    /// More files are guarded against shrinking than the signal handler has room for.
    GuardFull {
        /// How many it has room for.
        max: usize,
    },
    /// The map itself is wrong.
    Map(MapError),
    /// The operating system refused something else.
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => {
                write!(f, "{}: no such file; give the file that backs the guest's RAM", path.display())
            }
            Self::PermissionDenied { path } => {
                write!(f, "{}: may not be read; run as the user of the virtual machine", path.display())
            }
            Self::NotAFile { path, kind } => write!(f, "{}: is a {kind}, not a file of guest RAM", path.display()),
            Self::ZeroLength { path } => {
                write!(f, "{}: has no bytes; give the file that backs the guest's RAM", path.display())
            }
            Self::Empty { path, len } => write!(
                f,
                "{}: {}, none of it ever written; start the guest, and share its RAM (share=on)",
                path.display(),
                bytes(*len)
            ),
            Self::TooShort { path, segment, len } => write!(
                f,
                "{}: has {} ({len:#x} bytes), but segment {segment} ends at {:#x}; give the map of this machine",
                path.display(),
                bytes(*len),
                segment.offset.saturating_add(segment.len)
            ),
            Self::NoSuchFile { segment, files } => {
                write!(f, "segment {segment} names a file that was not given: there are {files}")
            }
            Self::NotSealed { path } => write!(
                f,
                "{}: is not sealed against shrinking (F_SEAL_SHRINK); seal the memfd, or do not require it",
                path.display()
            ),
            Self::HugeHoles { path, len, allocated } => write!(
                f,
                "{}: {} of {} of huge pages exist, and reading the others would allocate them; start the guest with \
                 preallocated memory (prealloc=on), or read it through its process (pid:N)",
                path.display(),
                bytes(*allocated),
                bytes(*len)
            ),
            Self::Shrunk { path, was, now } => {
                write!(f, "{}: shrank from {} to {}; open it anew", path.display(), bytes(*was), bytes(*now))
            }
            Self::NotReadOnly { path, source } => write!(
                f,
                "{}: is open for writing and cannot be opened again read-only ({source}); hand over a read-only \
                 descriptor",
                path.display()
            ),
            Self::GuardFull { max } => write!(f, "more than {max} RAM files are guarded: close some"),
            Self::Map(error) => error.fmt(f),
            Self::Io { path, action, source } => write!(f, "{}: {action} failed: {source}", path.display()),
        }
    }
}

impl core::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::NotReadOnly { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Map(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MapError> for OpenError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}
