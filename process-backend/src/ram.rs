//! The RAM of one guest in a process: where its pieces lie, and that they still do.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;

use rustix::io::Errno;
use vgpu_perception::{Extent, Gpa, PhysError, PhysErrorKind, PhysRead as _};

use crate::areas::{Backing, Uncovered, backing};
use crate::error::OpenError;
use crate::pagemap::{PAGE, PagemapError};
use crate::place::Place;
use crate::process::Process;

/// A stretch of guest RAM and where the process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Its first guest physical byte.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// The address of its first byte in the process.
    pub host_addr: u64,
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x} at {:#x}", self.gpa, self.len, self.host_addr)
    }
}

/// What is asked of a process beyond its having the pieces mapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessOptions {
    allow_empty: bool,
}

impl ProcessOptions {
    /// Nothing more: the pieces must hold some data.
    #[must_use]
    pub const fn new() -> Self {
        Self { allow_empty: false }
    }

    /// Takes pieces to which nothing was ever written: for whoever attaches before the guest boots.
    #[must_use]
    pub const fn allow_empty(mut self) -> Self {
        self.allow_empty = true;
        self
    }
}

/// The RAM of a guest in the memory of its VMM's process.
///
/// What holds for it and what does not, compared with a mapped file, is said in [the crate's documentation](crate).
/// Every call is at least one system call: whole tables and batches of lines are cheaper than words by far.
///
/// # Errors of reads
///
/// [`PhysErrorKind::Ended`] once the process has ended, [`PhysErrorKind::Lost`] once it has something else mapped where
/// the guest's RAM was; both for good. [`PhysErrorKind::Backend`] with the system's number for anything else.
pub struct ProcessRam {
    process: Process,
    pieces: Box<[(Piece, Vec<Backing>)]>,
    places: Box<[Place]>,
    /// Set once the pieces were found to be something else.
    changed: AtomicBool,
}

impl fmt::Debug for ProcessRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessRam")
            .field("process", &self.process)
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}

impl ProcessRam {
    /// The most pieces that a guest may have.
    pub const PIECES: usize = 1024;

    /// Takes hold of the process `pid` and reads the pieces there.
    ///
    /// Between learning a number and this call the process may have ended, and the number may be another's: who asked a
    /// monitor for the pieces takes hold before it asks, with [`Process::open`], and uses [`new`](Self::new).
    ///
    /// # Errors
    /// As [`Process::open`] and [`new`](Self::new).
    pub fn open(pid: u32, pieces: &[Piece], options: ProcessOptions) -> Result<Self, OpenError> {
        Self::new(Process::open(pid)?, pieces, options)
    }

    /// The RAM that `process` holds in `pieces`, in any order.
    ///
    /// # Errors
    /// [`OpenError`] that names the piece: wrong in itself, in the way of another, or not mapped for reading; or the
    /// process may not be read, or holds no data in any of them.
    pub fn new(process: Process, pieces: &[Piece], options: ProcessOptions) -> Result<Self, OpenError> {
        let sorted = check(pieces)?;
        let areas = process.maps()?;
        let mut held = Vec::with_capacity(sorted.len());
        let mut places = Vec::with_capacity(sorted.len());
        for piece in sorted {
            let backing = backing(&areas, piece.host_addr, piece.host_addr + piece.len)
                .map_err(|uncovered| not_mapped(&process, piece, uncovered))?;
            for part in &backing {
                let gpa = piece.gpa.get() + (part.start - piece.host_addr);
                places.push(Place::new(gpa, part.end - part.start, part.start, part.has_holes));
            }
            held.push((piece, backing));
        }
        let ram = Self { process, pieces: held.into(), places: places.into(), changed: AtomicBool::new(false) };
        ram.try_first(options)?;
        Ok(ram)
    }

    /// Reads one word, so that what is not permitted is said here.
    fn try_first(&self, options: ProcessOptions) -> Result<(), OpenError> {
        let pid = self.process.pid();
        let first = match self.extents().next() {
            Some(Ok(extent)) => extent.start,
            None if options.allow_empty => return Ok(()),
            None => return Err(OpenError::Empty { pid }),
            Some(Err(error)) => return Err(OpenError::Unreadable { pid, error }),
        };
        match self.load_u64(first) {
            Ok(_) => Ok(()),
            Err(PhysError { kind: PhysErrorKind::Ended, .. }) => Err(OpenError::Ended { pid }),
            Err(PhysError { kind: PhysErrorKind::Backend(code), .. }) if code == Errno::PERM.raw_os_error() => {
                Err(OpenError::NotPermitted { pid, action: "reading its memory" })
            }
            Err(error) => Err(OpenError::Unreadable { pid, error }),
        }
    }

    /// The process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// The pieces, ascending by guest physical address.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = Piece> + '_ {
        self.pieces.iter().map(|(piece, _)| *piece)
    }

    /// The end of the highest piece.
    #[must_use]
    pub fn end(&self) -> Gpa {
        Gpa::new(self.places.last().map_or(0, Place::end))
    }

    /// Whether the process still runs: one question to the kernel.
    ///
    /// # Errors
    /// [`OpenError::Ended`].
    pub fn check_alive(&self) -> Result<(), OpenError> {
        self.process.check_alive()
    }

    /// Whether the process still runs, still runs the same program, and still has the same mapped at every piece. To be
    /// asked before each survey of the guest; memory that it gave back since (a balloon) is skipped from here on.
    ///
    /// # Errors
    /// [`OpenError::Ended`], or [`OpenError::Changed`] and [`OpenError::NotMapped`] with the piece.
    pub fn revalidate(&self) -> Result<(), OpenError> {
        let areas = self.process.maps()?;
        if let Some(place) = self.places.first() {
            // Nothing can be read through the page map once the process has begun another program.
            match self.process.pagemap().entries(place.host, &mut [0]) {
                Ok(()) => {}
                Err(PagemapError::Gone) => return Err(OpenError::Ended { pid: self.process.pid() }),
                Err(PagemapError::Io(source)) => {
                    return Err(OpenError::of(self.process.pid(), "reading its page map", source));
                }
            }
        }
        for (piece, was) in &self.pieces {
            let error = match backing(&areas, piece.host_addr, piece.host_addr + piece.len) {
                Ok(now) if now == *was => continue,
                Ok(now) => self.changed(*piece, was, &now),
                Err(uncovered) => not_mapped(&self.process, *piece, uncovered),
            };
            self.changed.store(true, Ordering::Relaxed);
            return Err(error);
        }
        self.places.iter().for_each(Place::forget);
        Ok(())
    }

    fn changed(&self, piece: Piece, was: &[Backing], now: &[Backing]) -> OpenError {
        let list = |backing: &[Backing]| backing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        OpenError::Changed { pid: self.process.pid(), piece, was: list(was), now: list(now) }
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The place that holds `gpa`, and how far into it.
    #[inline]
    pub(crate) fn find(&self, gpa: u64) -> Result<(&Place, u64), PhysError> {
        let after = self.places.partition_point(|place| place.gpa <= gpa);
        let place = after.checked_sub(1).and_then(|index| self.places.get(index));
        place
            .map(|place| (place, gpa - place.gpa))
            .filter(|(place, skip)| *skip < place.len)
            .ok_or(PhysError::new(Gpa::new(gpa), PhysErrorKind::Gap))
    }

    /// The guest physical address of an address of the process.
    pub(crate) fn gpa_at(&self, host: u64) -> Option<u64> {
        self.places.iter().find_map(|place| {
            let skip = host.checked_sub(place.host)?;
            (skip < place.len).then_some(place.gpa + skip)
        })
    }

    /// Before anything that a read gave may count.
    #[inline]
    pub(crate) fn counts(&self, gpa: u64) -> Result<(), PhysError> {
        if self.changed.load(Ordering::Relaxed) {
            return Err(PhysError::new(Gpa::new(gpa), PhysErrorKind::Lost));
        }
        if self.process.is_alive() { Ok(()) } else { Err(PhysError::new(Gpa::new(gpa), PhysErrorKind::Ended)) }
    }

    /// Why a read at `gpa` failed: the process first, what it has mapped then, the system's own word last.
    #[cold]
    pub(crate) fn failure(&self, gpa: u64, error: &io::Error) -> PhysError {
        let kind = match self.revalidate() {
            Ok(()) => PhysErrorKind::Backend(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())),
            Err(OpenError::Ended { .. }) => PhysErrorKind::Ended,
            Err(OpenError::Changed { .. } | OpenError::NotMapped { .. }) => PhysErrorKind::Lost,
            Err(_) => PhysErrorKind::Backend(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())),
        };
        PhysError::new(Gpa::new(gpa), kind)
    }

    #[cold]
    pub(crate) fn no_pagemap(&self, gpa: u64, error: PagemapError) -> PhysError {
        match error {
            PagemapError::Gone => PhysError::new(Gpa::new(gpa), PhysErrorKind::Ended),
            PagemapError::Io(error) => self.failure(gpa, &error),
        }
    }

    /// The first stretch at or after `from` that holds data.
    pub(crate) fn extent_from(&self, from: u64) -> Result<Option<Extent>, PhysError> {
        let first = self.places().partition_point(|place| place.end() <= from);
        for place in self.places().iter().skip(first) {
            let skip = from.saturating_sub(place.gpa);
            let held = place.next_held(self.process.pagemap(), skip);
            match held.map_err(|error| self.no_pagemap(place.gpa + skip, error))? {
                None => {}
                Some((start, end)) => {
                    self.counts(place.gpa + start)?;
                    return Ok(Some(Extent { start: Gpa::new(place.gpa + start), len: end - start }));
                }
            }
        }
        self.counts(from)?;
        Ok(None)
    }
}

fn not_mapped(process: &Process, piece: Piece, uncovered: Uncovered) -> OpenError {
    let Uncovered { addr, unreadable } = uncovered;
    OpenError::NotMapped { pid: process.pid(), piece, addr, unreadable }
}

/// The end of what 52 bits of physical address reach, and of what a process can map.
const PHYSICAL_END: u64 = 1 << 52;
const HOST_END: u64 = 1 << 63;

/// The pieces in order, each whole pages and none over another.
fn check(pieces: &[Piece]) -> Result<Vec<Piece>, OpenError> {
    if pieces.is_empty() || pieces.len() > ProcessRam::PIECES {
        return Err(OpenError::PieceCount { count: pieces.len() });
    }
    for piece in pieces {
        let ends = |start: u64, end: u64| start.checked_add(piece.len).is_some_and(|past| past <= end);
        let fields = [
            ("length", piece.len > 0 && piece.len.is_multiple_of(PAGE)),
            ("guest physical address", piece.gpa.get().is_multiple_of(PAGE) && ends(piece.gpa.get(), PHYSICAL_END)),
            ("address", piece.host_addr.is_multiple_of(PAGE) && ends(piece.host_addr, HOST_END)),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, good)| !good) {
            return Err(OpenError::BadPiece { piece: *piece, field });
        }
    }
    let mut sorted = pieces.to_vec();
    sorted.sort_by_key(|piece| piece.gpa);
    for (lower, upper) in sorted.iter().zip(sorted.iter().skip(1)) {
        if upper.gpa.get() - lower.gpa.get() < lower.len {
            return Err(OpenError::Overlap { lower: *lower, upper: *upper });
        }
    }
    Ok(sorted)
}
