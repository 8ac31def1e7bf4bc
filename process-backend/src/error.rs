//! Why a process cannot be read as a guest's RAM, or can no longer.

use core::fmt;
use std::io;

use vgpu_perception::PhysError;

use crate::ram::Piece;

/// A process that cannot be read as a guest's RAM, or can no longer.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// No process has this number.
    NoSuchProcess {
        /// The number.
        pid: u32,
    },
    /// The number is a thread's.
    NotAProcess {
        /// The number.
        pid: u32,
    },
    /// The process has ended.
    Ended {
        /// Its number; somebody else's by now, perhaps.
        pid: u32,
    },
    /// This process may not look at that one.
    NotPermitted {
        /// Its number.
        pid: u32,
        /// What was attempted.
        action: &'static str,
    },
    /// The list of pieces is empty, or longer than [`ProcessRam::PIECES`](crate::ProcessRam::PIECES).
    PieceCount {
        /// How many there were.
        count: usize,
    },
    /// A piece that is not made of whole 4 KiB pages, has none, or reaches past the end of what can be addressed.
    BadPiece {
        /// The piece.
        piece: Piece,
        /// Which of its fields.
        field: &'static str,
    },
    /// Two pieces that claim the same guest physical addresses.
    Overlap {
        /// The one that starts first.
        lower: Piece,
        /// The one that starts inside it.
        upper: Piece,
    },
    /// The process has nothing mapped, or nothing that it may read, where a piece should be.
    NotMapped {
        /// Its number.
        pid: u32,
        /// The piece.
        piece: Piece,
        /// The first address of the process that is not mapped.
        addr: u64,
        /// Whether something is mapped there that the process may not read.
        unreadable: bool,
    },
    /// None of the pieces holds any data: the guest has not started, or its RAM is somewhere else.
    Empty {
        /// Its number.
        pid: u32,
    },
    /// What the process has mapped at a piece is not what it was.
    Changed {
        /// Its number.
        pid: u32,
        /// The piece.
        piece: Piece,
        /// What was mapped there when the RAM was opened.
        was: String,
        /// What is mapped there now.
        now: String,
    },
    /// A first read failed.
    Unreadable {
        /// Its number.
        pid: u32,
        /// How.
        error: PhysError,
    },
    /// The operating system refused something else.
    Io {
        /// Its number.
        pid: u32,
        /// What was attempted.
        action: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn of(pid: u32, action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { pid, action },
            io::ErrorKind::NotFound => Self::NoSuchProcess { pid },
            _ => Self::Io { pid, action, source },
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchProcess { pid } => write!(f, "no process has the number {pid}"),
            Self::NotAProcess { pid } => {
                write!(f, "{pid} is the number of a thread; give that of its process (Tgid in /proc/{pid}/status)")
            }
            Self::Ended { pid } => write!(f, "process {pid} has ended: attach to the guest anew"),
            Self::NotPermitted { pid, action } => write!(
                f,
                "process {pid}: {action} is not permitted; run as root, or as the user of the virtual machine with \
                 CAP_SYS_PTRACE where /proc/sys/kernel/yama/ptrace_scope is not 0"
            ),
            Self::PieceCount { count } => write!(
                f,
                "{count} pieces of RAM, but a guest has between 1 and {} in a process",
                crate::ProcessRam::PIECES
            ),
            Self::BadPiece { piece, field } => write!(
                f,
                "piece {piece}: its {field} is not a multiple of 4096, is 0, or reaches past what can be addressed"
            ),
            Self::Overlap { lower, upper } => {
                write!(f, "pieces {lower} and {upper} overlap in guest physical memory: one of them is wrong")
            }
            Self::NotMapped { pid, piece, addr, unreadable } => {
                let what = if *unreadable { "nothing that it may read" } else { "nothing" };
                write!(f, "process {pid} has {what} at {addr:#x}, but piece {piece} lies there: take the map anew")
            }
            Self::Empty { pid } => {
                write!(f, "process {pid} never wrote to any of the guest's RAM; start the guest, or give its own map")
            }
            Self::Changed { pid, piece, was, now } => {
                write!(f, "process {pid} has changed what holds piece {piece}: it was {was} and is {now}; attach anew")
            }
            Self::Unreadable { pid, error } => write!(f, "process {pid} cannot be read: {error}"),
            Self::Io { pid, action, source } => write!(f, "process {pid}: {action} failed: {source}"),
        }
    }
}

impl core::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Unreadable { error, .. } => Some(error),
            _ => None,
        }
    }
}
