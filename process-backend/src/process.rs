//! A process that holds a guest's RAM, held by itself and not by its number.

use core::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::areas::{Area, parse_area};
use crate::error::OpenError;
use crate::pagemap::Pagemap;

/// A process, known by a descriptor of it (a pidfd): its number may be given to another one only after this one is
/// gone.
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    pagemap: Pagemap,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Process {
    /// Takes hold of the process that has the number `pid` now.
    ///
    /// Whoever knows the number from a monitor or a list takes hold first, and asks the monitor then: an answer proves
    /// that the process is the one that was meant.
    ///
    /// # Errors
    /// [`OpenError`] that names `pid`: none of that number, or not to be looked at by this user.
    pub fn open(pid: u32) -> Result<Self, OpenError> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Err(OpenError::NoSuchProcess { pid });
        };
        match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Self::take(number, pidfd),
            Err(Errno::SRCH) => Err(OpenError::NoSuchProcess { pid }),
            // The number of a thread.
            Err(Errno::INVAL | Errno::NOENT) => Err(OpenError::NotAProcess { pid }),
            Err(errno) => Err(OpenError::Io { pid, action: "taking hold of it", source: errno.into() }),
        }
    }

    /// Takes a pidfd that somebody else opened (`SO_PEERPIDFD`, a service manager).
    ///
    /// # Errors
    /// [`OpenError`]: the process has ended, or may not be looked at by this user; `pid` is 0 in it where the
    /// descriptor is no pidfd.
    pub fn from_pidfd(pidfd: OwnedFd) -> Result<Self, OpenError> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let failed = |source| OpenError::Io { pid: 0, action: "asking whose descriptor it is", source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
        match number.map(|number| (number, Pid::from_raw(number.max(0)))) {
            Some((_, Some(pid))) => Self::take(pid, pidfd),
            // -1: it has ended.
            Some(_) => Err(OpenError::Ended { pid: 0 }),
            None => Err(failed(io::Error::from(io::ErrorKind::InvalidInput))),
        }
    }

    fn take(pid: Pid, pidfd: OwnedFd) -> Result<Self, OpenError> {
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        let pagemap = File::open(format!("/proc/{number}/pagemap"))
            .map_err(|source| OpenError::of(number, "opening its page map", source));
        let process = match pagemap {
            Ok(file) => Self { pid, pidfd, pagemap: Pagemap::new(file) },
            Err(error) => return Err(if is_alive(pidfd.as_fd()) { error } else { OpenError::Ended { pid: number } }),
        };
        // The path named this process and no other, since this one has the number still.
        process.check_alive()?;
        Ok(process)
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it still runs. One that has ended never does again, whoever has its number.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        is_alive(self.pidfd.as_fd())
    }

    /// The same as a result.
    ///
    /// # Errors
    /// [`OpenError::Ended`].
    pub fn check_alive(&self) -> Result<(), OpenError> {
        if self.is_alive() { Ok(()) } else { Err(OpenError::Ended { pid: self.pid() }) }
    }

    /// What it has mapped now, ascending.
    ///
    /// # Errors
    /// [`OpenError`]: it has ended, or may not be looked at.
    pub fn maps(&self) -> Result<Vec<Area>, OpenError> {
        let text = std::fs::read(format!("/proc/{}/maps", self.pid()));
        // Of another process that has its number by now nothing is told.
        self.check_alive()?;
        let text = text.map_err(|source| OpenError::of(self.pid(), "reading its memory map", source))?;
        // Names are bytes; what is not UTF-8 in one is of no use here.
        Ok(String::from_utf8_lossy(&text).lines().filter_map(parse_area).collect())
    }

    pub(crate) const fn number(&self) -> Pid {
        self.pid
    }

    pub(crate) const fn pagemap(&self) -> &Pagemap {
        &self.pagemap
    }
}

/// A pidfd is readable once its process has ended (`pidfd_open(2)`).
fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(ready) => return ready == 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
