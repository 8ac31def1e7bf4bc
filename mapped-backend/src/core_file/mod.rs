//! Dumps of a guest's memory: what they are by their magic, where their RAM lies in the file, what the processors held.
//!
//! Headers are read once, bounded, and believed in nothing: whatever they say is checked against the file's length.

mod elf;
mod foreign;
mod layout;
mod lime;
mod notes;

use core::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::OpenError;
use crate::file::RamFile;
use crate::map::{MapError, SegmentMap};
use crate::ram::{GuestRam, RamOptions};

pub use foreign::Foreign;
pub use notes::Registers;

/// What a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CoreFormat {
    /// An ELF core: QEMU's `dump-guest-memory`, `virsh dump --memory-only`, VirtualBox's `dumpvmcore`.
    Elf,
    /// LiME's.
    Lime,
}

impl fmt::Display for CoreFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "ELF core",
            Self::Lime => "LiME dump",
        })
    }
}

/// Where a dump has the guest's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreLayout {
    /// What it is.
    pub format: CoreFormat,
    /// Its RAM, in whole pages.
    pub map: SegmentMap,
    /// The control registers of its processors, in their order, where the dump has them.
    pub registers: Vec<Registers>,
}

impl CoreLayout {
    /// The most segments that a dump may list; those that touch are one. Tables of more are refused, not read in part.
    pub const HEADERS: usize = 1 << 16;

    /// Reads the headers of a dump of `len` bytes.
    ///
    /// # Bound
    /// [`HEADERS`](Self::HEADERS) headers and 1 MiB of notes.
    ///
    /// # Errors
    /// [`CoreError`] that says what the file is, or what is wrong with it.
    pub fn read(dump: &(impl ReadAt + ?Sized), len: u64) -> Result<Self, CoreError> {
        let mut start = [0_u8; foreign::START];
        let known = usize::try_from(len).unwrap_or(foreign::START).min(foreign::START);
        let (start, _) = start.split_at_mut(known);
        dump.read_at(start, 0).map_err(CoreError::Io)?;
        if start.starts_with(&elf::MAGIC) {
            elf::read(dump, len)
        } else if start.starts_with(&lime::MAGIC) {
            lime::read(dump, len)
        } else if let Some(foreign) = Foreign::of(start) {
            Err(CoreError::Foreign(foreign))
        } else {
            Err(CoreError::Unknown)
        }
    }
}

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// Fills `dst` with the bytes at `at`.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` where there are not as many.
    fn read_at(&self, dst: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, dst: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(dst, at)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, dst: &mut [u8], at: u64) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..dst.len()));
        dst.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A dump of a guest's memory, mapped. It never changes: nothing in it is live.
#[derive(Debug)]
pub struct CoreFile {
    ram: GuestRam,
    format: CoreFormat,
    registers: Vec<Registers>,
}

impl CoreFile {
    /// Opens the dump at `path`.
    ///
    /// # Errors
    /// [`CoreError`]: what the file is instead and what to do, what is wrong with it, or why it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CoreError> {
        Self::of(RamFile::open(path)?)
    }

    /// Takes an inherited or received descriptor; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_fd(fd: OwnedFd, name: impl AsRef<Path>) -> Result<Self, CoreError> {
        Self::of(RamFile::from_fd(fd, name.as_ref())?)
    }

    fn of(file: RamFile) -> Result<Self, CoreError> {
        let CoreLayout { format, map, registers } = CoreLayout::read(&file, file.len())?;
        let ram = GuestRam::new(vec![file], map, RamOptions::new().allow_empty())?;
        Ok(Self { ram, format, registers })
    }

    /// The guest's RAM as it was.
    #[must_use]
    pub const fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The guest's RAM as it was, for good.
    #[must_use]
    pub fn into_ram(self) -> GuestRam {
        self.ram
    }

    /// What kind of dump it is.
    #[must_use]
    pub const fn format(&self) -> CoreFormat {
        self.format
    }

    /// The control registers of its processors, in their order; none where the dump has none.
    #[must_use]
    pub fn registers(&self) -> &[Registers] {
        &self.registers
    }
}

/// A file that is no dump that can be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum CoreError {
    /// It is a known kind of file that cannot be read in place.
    Foreign(Foreign),
    /// Its first bytes are those of nothing that is known.
    Unknown,
    /// An ELF file, but not a 64-bit little-endian core.
    NotACore {
        /// What it is instead.
        what: &'static str,
    },
    /// The core of a process: its segments have no physical addresses.
    OfAProcess,
    /// Its headers name bytes that the file does not have, or more than can be.
    Bad {
        /// What is wrong.
        what: &'static str,
        /// The value that shows it.
        value: u64,
    },
    /// The file ends before its memory does: it was cut off, or is still being written.
    Truncated {
        /// Where it would have to end, in bytes.
        needs: u64,
        /// Where it ends.
        len: u64,
    },
    /// Its segments make no map.
    Map(MapError),
    /// It cannot be opened or mapped.
    Open(OpenError),
    /// It cannot be read.
    Io(io::Error),
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(foreign) => foreign.fmt(f),
            Self::Unknown => f.write_str(
                "neither an ELF core nor a LiME dump; for the RAM file of a guest give it as such, with its machine \
                 or map",
            ),
            Self::NotACore { what } => write!(
                f,
                "{what}, not a 64-bit ELF core; make one with `dump-guest-memory FILE` in QEMU's monitor or `virsh \
                 dump --memory-only` while the guest's system is running"
            ),
            Self::OfAProcess => f.write_str(
                "the core of a process, not of a guest; make one of the guest with `dump-guest-memory FILE` in QEMU's \
                 monitor or `virsh dump --memory-only`",
            ),
            Self::Bad { what, value } => write!(f, "a damaged dump: {what} is {value:#x}; make it anew"),
            Self::Truncated { needs, len } => write!(
                f,
                "the dump ends at {len:#x}, but its headers name bytes up to {needs:#x}: it was cut off, or is still \
                 being written"
            ),
            Self::Map(error) => write!(f, "the dump's segments make no map: {error}"),
            Self::Open(error) => error.fmt(f),
            Self::Io(error) => write!(f, "reading the dump's headers failed: {error}"),
        }
    }
}

impl core::error::Error for CoreError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Map(error) => Some(error),
            Self::Open(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MapError> for CoreError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<OpenError> for CoreError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}
