//! One process as `/proc` shows it, held by a descriptor: whoever gets its number later is never taken for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::cmdline;
use super::error::{AttachError, AttachErrorKind};
use super::maps::{self, Area};
use super::obstacle::{Obstacle, Sight};

/// A process, by its directory in `/proc`. Once the process has ended, everything asked of it fails: the directory
/// stays that process's, whatever becomes of the number.
#[derive(Debug)]
pub(super) struct ProcDir {
    pub(super) pid: u32,
    dir: OwnedFd,
}

/// What is wanted of a process. The kernel, and Yama, ask more of who reads its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// What it has mapped and open.
    Mappings,
    /// The memory that it has.
    Memory,
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The memory of a process.
const MEMORY: &str = "mem";

/// Its bit in the line `CapEff:` of a status.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// More than any process has of lines: what is longer is cut off.
const MAX_TEXT: u64 = 64 << 20;

impl ProcDir {
    pub(super) fn open(pid: u32) -> Result<Self, AttachError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()) {
            Ok(dir) => Ok(Self { pid, dir }),
            Err(Errno::NOENT) => Err(AttachError::new(
                AttachErrorKind::NotFound,
                format!("there is no process {pid}; `vgpu list` shows the virtual machines of this host"),
            )),
            Err(errno) => {
                Err(AttachError::new(AttachErrorKind::Io, format!("/proc/{pid}: {}", io::Error::from(errno))))
            }
        }
    }

    fn open_at(&self, name: &str) -> io::Result<File> {
        Ok(File::from(rustix::fs::openat(self.dir.as_fd(), name, OPEN, Mode::empty())?))
    }

    fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_at(name)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn text(&self, name: &str) -> io::Result<String> {
        self.bytes(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where a link of the process leads (`exe`, `ns/mnt`).
    pub(super) fn link(&self, name: &str) -> io::Result<String> {
        let target = rustix::fs::readlinkat(self.dir.as_fd(), name, Vec::new())?;
        Ok(target.to_string_lossy().into_owned())
    }

    /// The words it was started with.
    pub(super) fn words(&self) -> io::Result<Vec<String>> {
        self.bytes("cmdline").map(|bytes| cmdline::words(&bytes))
    }

    /// Whether the process still lives; one that was not yet waited for does not.
    pub(super) fn is_alive(&self) -> bool {
        let Ok(stat) = self.text("stat") else { return false };
        // The name in parentheses may hold anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    }

    /// A number in a line of `status`, the first after the key.
    fn status_number(&self, key: &str) -> Option<u32> {
        let status = self.text("status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// The user that it runs as.
    pub(super) fn user(&self) -> Option<u32> {
        self.status_number("Uid:")
    }

    /// All that it has mapped.
    pub(super) fn maps(&self) -> Result<Vec<Area>, AttachError> {
        match self.text("maps") {
            Ok(text) if text.is_empty() => Err(self.ended()),
            Ok(text) => Ok(maps::parse(&text)),
            Err(error) => Err(self.refused("maps", &error)),
        }
    }

    /// Why reading about the process failed.
    pub(super) fn refused(&self, what: &str, error: &io::Error) -> AttachError {
        if !self.is_alive() {
            return self.ended();
        }
        if matches!(error.kind(), io::ErrorKind::PermissionDenied) {
            // Only this one is memory (`mem_open` of the kernel).
            let access = if what == MEMORY { Access::Memory } else { Access::Mappings };
            return self.not_permitted(access, &format!("/proc/{}/{what} may not be read", self.pid));
        }
        AttachError::new(AttachErrorKind::Io, format!("/proc/{}/{what}: {error}", self.pid))
    }

    pub(super) fn ended(&self) -> AttachError {
        AttachError::new(
            AttachErrorKind::Ended,
            format!("process {}, which held the guest's RAM, has ended; `vgpu list` shows what runs", self.pid),
        )
    }

    /// Whether its mappings, or its memory, may be read. Nothing of them is.
    pub(super) fn may_be_read(&self, access: Access) -> Result<(), AttachError> {
        let what = match access {
            Access::Mappings => "pagemap",
            Access::Memory => MEMORY,
        };
        self.open_at(what).map(drop).map_err(|error| self.refused(what, &error))
    }

    /// What was refused, and what stands in the way.
    pub(super) fn not_permitted(&self, access: Access, what: &str) -> AttachError {
        let obstacle = self.obstacle(access);
        AttachError::new(AttachErrorKind::Permission, format!("{what}: {obstacle}")).advise(obstacle.advice())
    }

    /// What stands between this process and that one.
    fn obstacle(&self, access: Access) -> Obstacle {
        let own_status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = own_status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
        Obstacle::of(&Sight {
            own: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            may_trace: capabilities & CAP_SYS_PTRACE != 0,
            user: self.user(),
            group: self.status_number("Gid:"),
            owner: rustix::fs::statat(self.dir.as_fd(), "status", AtFlags::empty()).map(|stat| stat.st_uid).ok(),
            // It judges who reads memory, and nothing else (`yama_ptrace_access_check` of the kernel).
            yama: yama().filter(|_| access == Access::Memory),
            label: self.label(),
            other_user_namespace: self.other_namespace("user"),
        })
    }

    /// The label of a security module, where it has one that confines.
    pub(super) fn label(&self) -> Option<String> {
        let label = self.text("attr/current").ok()?;
        let label = label.trim_end_matches(['\0', '\n']).to_owned();
        (!label.is_empty() && !label.starts_with("unconfined") && label != "kernel").then_some(label)
    }

    /// Whether it runs in another namespace of this kind than this process; `false` where that cannot be seen.
    pub(super) fn other_namespace(&self, kind: &str) -> bool {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}"));
        match (self.link(&format!("ns/{kind}")), own) {
            (Ok(theirs), Ok(own)) => own.to_string_lossy() != theirs,
            _ => false,
        }
    }

    /// The file of a mapping, opened for reading, and what it was reached by: through `map_files` where that is allowed
    /// (root), else through a descriptor of the process that has the same file.
    pub(super) fn open_mapped(&self, area: &Area) -> Result<(OwnedFd, PathBuf), AttachError> {
        let name = format!("map_files/{:x}-{:x}", area.start, area.end);
        if let Ok(file) = rustix::fs::openat(self.dir.as_fd(), name.as_str(), OPEN, Mode::empty()) {
            return Ok((file, format!("/proc/{}/{name}", self.pid).into()));
        }
        let mut last = None;
        let mut open = self.descriptors()?;
        // A number may be given on several filesystems: those that name the same one come first.
        open.sort_by_key(|(_, stat)| (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)) != area.device);
        for (number, stat) in open {
            if stat.st_ino != area.inode || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            let name = format!("fd/{number}");
            match rustix::fs::openat(self.dir.as_fd(), name.as_str(), OPEN, Mode::empty()) {
                Ok(file) => return Ok((file, format!("/proc/{}/{name}", self.pid).into())),
                Err(errno) => last = Some(io::Error::from(errno)),
            }
        }
        // By its name at last, unless that would be another mount namespace's.
        if !area.name.ends_with(" (deleted)") && !self.other_namespace("mnt") && area.name.starts_with('/') {
            match rustix::fs::open(area.name.as_str(), OPEN, Mode::empty()) {
                Ok(file) => return Ok((file, area.name.clone().into())),
                Err(errno) => last = Some(io::Error::from(errno)),
            }
        }
        let path = maps::path(area);
        Err(match last {
            Some(error) if error.kind() == io::ErrorKind::PermissionDenied => self.not_permitted(
                Access::Mappings,
                &format!("{path}, which holds RAM of process {}, may not be opened", self.pid),
            ),
            Some(error) => AttachError::new(AttachErrorKind::Io, format!("{path}: {error}")),
            None => self.not_permitted(
                Access::Mappings,
                &format!("{path} of process {} can be reached neither by its mapping nor by a descriptor", self.pid),
            ),
        })
    }

    /// Its open descriptors.
    pub(super) fn descriptors(&self) -> Result<Vec<(u32, Stat)>, AttachError> {
        let refuse = |errno: Errno| self.refused("fd", &errno.into());
        let dir = rustix::fs::openat(
            self.dir.as_fd(),
            "fd",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(refuse)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&dir).map_err(refuse)? {
            let entry = entry.map_err(refuse)?;
            let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Follows the link to what is open, without opening it.
            if let Ok(stat) = rustix::fs::statat(&dir, entry.file_name(), AtFlags::empty()) {
                found.push((number, stat));
            }
        }
        Ok(found)
    }
}

/// The processes of this host, by number; those that cannot be seen are left out.
pub(super) fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// What Yama, where the kernel has it, forbids of one process looking into another.
pub(super) fn yama() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}
