//! One RAM file: opened for reading alone, measured, and asked where it has data.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::Errno;

use crate::core_file::ReadAt;
use crate::error::OpenError;

/// A file that holds guest RAM, open for reading alone.
#[derive(Debug)]
pub struct RamFile {
    fd: OwnedFd,
    path: PathBuf,
    len: u64,
    /// The file had holes when it was last asked: then asking whether it has any is in vain mostly.
    has_holes: AtomicBool,
    /// How many questions may still be answered from the file having had no hole.
    dense_for: AtomicU32,
}

/// Questions that one look at the file answers, where a wrong answer costs no more than a page of zeros.
const ANSWERS: u32 = 64;

impl RamFile {
    /// Opens the file at `path` with `O_RDONLY`.
    ///
    /// # Errors
    /// [`OpenError`] that names `path`: missing, not readable, not a file, without bytes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        match rustix::fs::open(&path, READ_ONLY, Mode::empty()) {
            Ok(fd) => Self::measure(fd, path),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(OpenError::Missing { path }),
            Err(Errno::ACCESS | Errno::PERM) => Err(OpenError::PermissionDenied { path }),
            // A socket, or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => Err(OpenError::NotAFile { path, kind: "socket or device" }),
            Err(errno) => Err(OpenError::Io { path, action: "opening it", source: errno.into() }),
        }
    }

    /// Takes an inherited or received descriptor (a memfd, an unlinked file); `name` is what errors call it.
    ///
    /// The file is opened again through `/proc/self/fd`, read-only and with a file position of its own: what was handed
    /// over may be open for writing and is shared with whoever handed it over. Where that cannot be done (no `/proc`),
    /// a descriptor that is read-only is used as it is.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`OpenError::NotReadOnly`] for a writable descriptor that cannot be opened again.
    pub fn from_fd(fd: OwnedFd, name: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = name.into();
        // Before it is opened again: opening a pipe or a device has effects of its own.
        let (fd, path, _) = regular(fd, path)?;
        match rustix::fs::open(format!("/proc/self/fd/{}", fd.as_raw_fd()), READ_ONLY, Mode::empty()) {
            Ok(own) => Self::measure(own, path),
            Err(errno) => match rustix::fs::fcntl_getfl(&fd) {
                Ok(flags) if flags & OFlags::RWMODE == OFlags::RDONLY => Self::measure(fd, path),
                _ => Err(OpenError::NotReadOnly { path, source: errno.into() }),
            },
        }
    }

    fn measure(fd: OwnedFd, path: PathBuf) -> Result<Self, OpenError> {
        let (fd, path, len) = regular(fd, path)?;
        if len == 0 {
            return Err(OpenError::ZeroLength { path });
        }
        Ok(Self { fd, path, len, has_holes: AtomicBool::new(false), dense_for: AtomicU32::new(0) })
    }

    /// What errors call this file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    #[expect(clippy::len_without_is_empty, reason = "a file without bytes is never opened")]
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is sealed against shrinking (`F_SEAL_SHRINK`). Only a memfd can be; any other file is not.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        rustix::fs::fcntl_get_seals(&self.fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
    }

    /// Whether the file lies on hugetlbfs, where reading a page that does not exist yet allocates a huge one.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        const HUGETLBFS: u64 = 0x9584_58f6;
        rustix::fs::fstatfs(&self.fd).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == HUGETLBFS))
    }

    /// Bytes of storage that the file has now: fewer than it is long where it has holes.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        // Blocks of 512 bytes, whatever the filesystem's own are (`stat(2)`).
        let blocks = rustix::fs::fstat(&self.fd).ok().and_then(|stat| u64::try_from(stat.st_blocks).ok());
        blocks.unwrap_or(0).saturating_mul(512)
    }

    /// Asks the file whether it still has the length it was opened with.
    ///
    /// # Errors
    /// [`OpenError::Shrunk`] with both lengths.
    pub fn check(&self) -> Result<(), OpenError> {
        let now = self.len_now().map_err(|source| self.failed("asking for its length", source))?;
        if now < self.len {
            return Err(OpenError::Shrunk { path: self.path.clone(), was: self.len, now });
        }
        Ok(())
    }

    pub(crate) fn failed(&self, action: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { path: self.path.clone(), action, source }
    }

    fn len_now(&self) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.fd)?.st_size).unwrap_or(0))
    }

    /// Whether as many blocks are allocated as the file is long now: one that grew has blocks that are not those of the
    /// part that was opened. Files in memory count nothing else; elsewhere a few holes can hide behind blocks of
    /// another kind, and reading those does no harm.
    fn is_dense(&self) -> bool {
        // Blocks of 512 bytes, whatever the filesystem's own are (`stat(2)`).
        let dense = rustix::fs::fstat(&self.fd).is_ok_and(|stat| {
            let (blocks, size) = (u64::try_from(stat.st_blocks), u64::try_from(stat.st_size));
            let (Ok(blocks), Ok(size)) = (blocks, size) else { return false };
            size >= self.len && blocks.saturating_mul(512) >= size
        });
        self.has_holes.store(!dense, Ordering::Relaxed);
        dense
    }

    /// Whether the byte at `at` is data; files keep track of whole pages or more.
    pub(crate) fn has_data_at(&self, at: u64) -> bool {
        // Where the kernel counts no hole, it need not look for one at this place, which takes it several times as
        // long.
        if at < self.len && !self.has_holes.load(Ordering::Relaxed) && self.is_dense() {
            return true;
        }
        match rustix::fs::seek(&self.fd, SeekFrom::Data(at)) {
            Ok(start) => start == at,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at < self.len,
            Err(_) => false,
        }
    }

    /// The same, where no hole was counted the last time, up to [`ANSWERS`] questions ago: a walk asks for every table
    /// that it enters, and asking the kernel takes longer than reading most of them.
    pub(crate) fn had_data_at(&self, at: u64) -> bool {
        // Two threads that meet here take one answer for two.
        let left = self.dense_for.load(Ordering::Relaxed);
        if left > 0 && at < self.len {
            self.dense_for.store(left - 1, Ordering::Relaxed);
            return true;
        }
        let data = self.has_data_at(at);
        if at < self.len && !self.has_holes.load(Ordering::Relaxed) {
            self.dense_for.store(ANSWERS, Ordering::Relaxed);
        }
        data
    }

    /// The first stretch of data at or after `from` and before `end`, as `(start, len)`.
    ///
    /// Where the filesystem does not tell data from holes, all of it is data (`lseek(2)`, `SEEK_DATA`).
    pub(crate) fn next_data(&self, from: u64, end: u64) -> Result<Option<(u64, u64)>, DataError> {
        if from >= end {
            return Ok(None);
        }
        // To find the next hole the kernel looks at every page up to it: most of a second for a large guest that has
        // none.
        if self.is_dense() {
            return Ok(Some((from, end - from)));
        }
        // A hole that is punched between the two questions can empty the answer: then they are asked again.
        for _ in 0..8 {
            let start = match rustix::fs::seek(&self.fd, SeekFrom::Data(from)) {
                Ok(start) if start < end => start,
                Ok(_) => return Ok(None),
                Err(Errno::NXIO) if self.len_now().is_ok_and(|now| now < end) => return Err(DataError::Shrunk),
                Err(Errno::NXIO) => return Ok(None),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, end - from))),
                Err(errno) => return Err(DataError::Errno(errno.raw_os_error())),
            };
            match rustix::fs::seek(&self.fd, SeekFrom::Hole(start)) {
                Ok(stop) if stop > start => return Ok(Some((start, stop.min(end) - start))),
                Ok(_) | Err(Errno::NXIO) => {}
                Err(errno) => return Err(DataError::Errno(errno.raw_os_error())),
            }
        }
        Err(DataError::Errno(Errno::AGAIN.raw_os_error()))
    }
}

impl ReadAt for RamFile {
    fn read_at(&self, dst: &mut [u8], at: u64) -> io::Result<()> {
        let (mut rest, mut at) = (dst, at);
        while !rest.is_empty() {
            match rustix::io::pread(&self.fd, &mut *rest, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    rest = rest.get_mut(count..).unwrap_or_default();
                    at = at.saturating_add(count as u64);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for RamFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why a file could not say where it has data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DataError {
    /// It no longer reaches that far.
    Shrunk,
    /// The operating system's number for it.
    Errno(i32),
}

/// `O_NONBLOCK` so that a pipe in the place of a file does not hang the caller; a file ignores it.
const READ_ONLY: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

fn regular(fd: OwnedFd, path: PathBuf) -> Result<(OwnedFd, PathBuf, u64), OpenError> {
    let stat = match rustix::fs::fstat(&fd) {
        Ok(stat) => stat,
        Err(errno) => return Err(OpenError::Io { path, action: "asking what it is", source: errno.into() }),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok((fd, path, u64::try_from(stat.st_size).unwrap_or(0))),
        FileType::Directory => "directory",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    };
    Err(OpenError::NotAFile { path, kind })
}
