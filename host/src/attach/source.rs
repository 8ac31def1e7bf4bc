//! From the addresses at which a VMM has its guest's RAM to memory that can be read here.
//!
//! The process's own mappings say what holds each piece. A file is taken only where the process shares it, and what was
//! mapped here is then compared with what the process has mapped: the same file, the same place in it, page for page.
//! Everything else is read through the process.

use core::ops::Range;
use std::path::PathBuf;

use vgpu_perception::{Gpa, PhysRead as _};
use vgpu_perception_mapped::{GuestRam, RamFile, RamOptions, Segment, SegmentMap, SigbusGuard};
use vgpu_perception_process::{self as process, Piece, Process, ProcessOptions, ProcessRam};

use super::error::{AttachError, AttachErrorKind};
use super::maps::{self, Area, FileId};
use super::procfs::{Access, ProcDir};
use crate::ram::Ram;

/// How a VMM holds a piece of its guest's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Held {
    /// In a file that it shares: what the guest writes can be seen in it.
    SharedFile {
        /// Which file.
        file: FileId,
        /// Where in it the piece starts, in bytes.
        offset: u64,
        /// What the kernel calls it.
        name: String,
    },
    /// In private copies of a file's pages (`share=off`): the file does not show what the guest writes.
    PrivateFile {
        /// What the kernel calls it.
        name: String,
    },
    /// In memory of its own.
    Anonymous,
}

impl core::fmt::Display for Held {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::SharedFile { name, offset: 0, .. } => write!(f, "shared file {name}"),
            Self::SharedFile { name, offset, .. } => write!(f, "shared file {name} from {offset:#x}"),
            Self::PrivateFile { name } => write!(f, "private copy of {name} (share=off)"),
            Self::Anonymous => f.write_str("private memory"),
        }
    }
}

/// The pieces of a guest's RAM and how each is held: what has to stay the same for as long as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) pieces: Vec<(Piece, Held)>,
}

impl Plan {
    /// What is wanted of the process: its memory, unless files that it shares hold all of it.
    pub(super) fn access(&self) -> Access {
        let shared = self.pieces.iter().all(|(_, held)| matches!(held, Held::SharedFile { .. }));
        if shared { Access::Mappings } else { Access::Memory }
    }

    /// The pieces alone.
    pub(super) fn only_pieces(&self) -> Vec<Piece> {
        self.pieces.iter().map(|(piece, _)| *piece).collect()
    }
}

const fn range(piece: &Piece) -> Range<u64> {
    piece.host_addr..piece.host_addr.saturating_add(piece.len)
}

/// Asks the process's mappings what holds each piece.
pub(super) fn plan(proc: &ProcDir, pieces: &[Piece]) -> Result<Plan, AttachError> {
    if pieces.is_empty() {
        return Err(AttachError::new(AttachErrorKind::Layout, format!("process {} holds no RAM of a guest", proc.pid)));
    }
    let areas = maps::joined(&proc.maps()?);
    let held = |piece: &Piece| {
        let Some(area) = maps::covering(&areas, &range(piece)) else {
            return Err(AttachError::new(
                AttachErrorKind::Layout,
                format!(
                    "process {} has no single mapping at {:#x}..{:#x}, where guest physical {:#x} should be: it is \
                     another process than the one that was asked, or its RAM just changed; try again, or give pid:N \
                     of the virtual machine",
                    proc.pid,
                    range(piece).start,
                    range(piece).end,
                    piece.gpa.get()
                ),
            ));
        };
        Ok((*piece, held_by(area, piece.host_addr)))
    };
    Ok(Plan { pieces: pieces.iter().map(held).collect::<Result<_, _>>()? })
}

fn held_by(area: &Area, at: u64) -> Held {
    match FileId::of(area) {
        None => Held::Anonymous,
        Some(_) if !area.shared => Held::PrivateFile { name: maps::path(area).to_owned() },
        Some(file) => {
            let offset = area.offset.saturating_add(at.saturating_sub(area.start));
            Held::SharedFile { file, offset, name: area.name.clone() }
        }
    }
}

/// Opens the RAM of `plan`: mapped where the process shares files, through the process where it does not.
pub(super) fn open(proc: &ProcDir, plan: &Plan, notes: &mut Vec<String>) -> Result<Ram, AttachError> {
    if plan.access() == Access::Mappings
        && let Some(ram) = mapped(proc, plan, notes)?
    {
        return Ok(Ram::Mapped(ram));
    }
    through_process(proc, plan).map(Ram::Process)
}

fn through_process(proc: &ProcDir, plan: &Plan) -> Result<ProcessRam, AttachError> {
    let pieces = plan.only_pieces();
    let refuse = |error: process::OpenError| match error {
        process::OpenError::NotPermitted { .. } => {
            proc.not_permitted(Access::Memory, &format!("the memory of process {} may not be read", proc.pid))
        }
        process::OpenError::Ended { .. } | process::OpenError::NoSuchProcess { .. } => proc.ended(),
        error => AttachError::new(AttachErrorKind::Layout, error.to_string()),
    };
    let held = Process::open(proc.pid).map_err(refuse)?;
    // The number is still that of the process whose mappings were read: it lives, after the number was looked up again.
    if !proc.is_alive() {
        return Err(proc.ended());
    }
    ProcessRam::new(held, &pieces, ProcessOptions::new().allow_empty()).map_err(refuse)
}

/// The shared files of `plan`, mapped and compared; `None` where mapping them would cost the guest memory.
fn mapped(proc: &ProcDir, plan: &Plan, notes: &mut Vec<String>) -> Result<Option<GuestRam>, AttachError> {
    let areas = proc.maps()?;
    let mut known: Vec<FileId> = Vec::new();
    let mut files: Vec<RamFile> = Vec::new();
    let mut segments = Vec::new();
    for (piece, held) in &plan.pieces {
        let Held::SharedFile { file, offset, .. } = held else { return Ok(None) };
        let index = match known.iter().position(|one| one == file) {
            Some(index) => index,
            None => {
                let area = maps::covering(&areas, &(piece.host_addr..piece.host_addr.saturating_add(1)));
                let area = area.ok_or_else(|| proc.ended())?;
                let Some(opened) = open_file(proc, area, notes)? else { return Ok(None) };
                known.push(*file);
                files.push(opened);
                files.len() - 1
            }
        };
        segments.push(Segment { gpa: piece.gpa, len: piece.len, offset: *offset, file: index });
    }
    let ram = GuestRam::new(files, SegmentMap::new(segments)?, options().allow_empty())?;
    for (piece, held) in &plan.pieces {
        compare(&ram, piece, held)?;
    }
    // What was compared is the guest's only if the process lived all the while.
    if !proc.is_alive() {
        return Err(proc.ended());
    }
    Ok(Some(ram))
}

fn open_file(proc: &ProcDir, area: &Area, notes: &mut Vec<String>) -> Result<Option<RamFile>, AttachError> {
    let (fd, path) = match proc.open_mapped(area) {
        Ok(opened) => opened,
        Err(error) if error.kind() == AttachErrorKind::Ended => return Err(error),
        Err(error) => {
            notes.push(format!("{error}; read through the process instead"));
            return Ok(None);
        }
    };
    if is_hugetlb(&fd) && !is_allocated(&fd) {
        notes.push(format!(
            "{}: hugetlbfs that is not fully allocated: read through the process, so that no huge page is allocated",
            maps::path(area)
        ));
        return Ok(None);
    }
    let name: PathBuf = format!("{} ({})", maps::path(area), path.display()).into();
    Ok(Some(RamFile::from_fd(fd, name)?))
}

/// Whether the file lies on hugetlbfs, where every page that is touched is a huge one.
pub(super) fn is_hugetlb(fd: impl std::os::fd::AsFd) -> bool {
    const HUGETLBFS: u64 = 0x9584_58f6;
    rustix::fs::fstatfs(fd).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == HUGETLBFS))
}

/// Whether every page of the file exists.
pub(super) fn is_allocated(fd: impl std::os::fd::AsFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        let (blocks, size) = (u64::try_from(stat.st_blocks), u64::try_from(stat.st_size));
        matches!((blocks, size), (Ok(blocks), Ok(size)) if blocks.saturating_mul(512) >= size)
    })
}

/// A file that shrinks then gives errors instead of a signal.
pub(super) fn options() -> RamOptions {
    match SigbusGuard::install() {
        Ok(guard) => RamOptions::new().guard(guard),
        Err(_) => RamOptions::new(),
    }
}

/// What is mapped here for `piece` is what the process has mapped for it: the kernel says so of both in the same words.
fn compare(ram: &GuestRam, piece: &Piece, held: &Held) -> Result<(), AttachError> {
    let Held::SharedFile { file, offset, name } = held else { return Ok(()) };
    let here = own_areas()?;
    let last = piece.gpa.wrapping_add(piece.len - 4096);
    for (gpa, skip) in [(piece.gpa, 0), (last, piece.len - 4096)] {
        let ours = place_of(ram, gpa, &here);
        let theirs = (*file, offset.saturating_add(skip));
        if ours != Some(theirs) {
            let ours = ours.map_or_else(|| "nothing".to_owned(), |(file, at)| format!("{file} at {at:#x}"));
            return Err(AttachError::new(
                AttachErrorKind::NotShared,
                format!(
                    "{name}: what was opened is another file than the guest's: guest physical {gpa} is {} at {:#x} in \
                     the virtual machine's process, and {ours} here; nothing was read",
                    theirs.0, theirs.1
                ),
            ));
        }
    }
    Ok(())
}

fn own_areas() -> Result<Vec<Area>, AttachError> {
    match std::fs::read_to_string("/proc/self/maps") {
        Ok(text) => Ok(maps::joined(&maps::parse(&text))),
        Err(error) => Err(AttachError::new(AttachErrorKind::Io, format!("/proc/self/maps: {error}"))),
    }
}

/// Which file, and where in it, is mapped here for `gpa`.
fn place_of(ram: &GuestRam, gpa: Gpa, here: &[Area]) -> Option<(FileId, u64)> {
    let at = ram.window(gpa, 4096)?.as_ptr().addr() as u64;
    let area = maps::covering(here, &(at..at + 4096)).filter(|area| area.shared)?;
    Some((FileId::of(area)?, area.offset + (at - area.start)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// A file with the right name and size is not enough: it has to be the one that the process has mapped, at that
    /// place.
    #[test]
    fn another_file_is_refused_with_both_values() {
        let path = std::env::temp_dir().join(format!("vgpu-compare-{}", std::process::id()));
        std::fs::write(&path, vec![1; 1 << 16]).unwrap();
        let map = SegmentMap::parse(["0:32K:16K"]).unwrap();
        let ram = GuestRam::new(vec![RamFile::open(&path).unwrap()], map, RamOptions::new()).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let piece = Piece { gpa: Gpa::new(0), len: 32 << 10, host_addr: 0x7000_0000_0000 };
        let here = own_areas().unwrap();
        let (file, at) = place_of(&ram, piece.gpa, &here).unwrap();
        assert_eq!((file.inode, at), (meta.ino(), 16 << 10));
        let held = |file, offset| Held::SharedFile { file, offset, name: "ram".to_owned() };
        assert_eq!(compare(&ram, &piece, &held(file, 16 << 10)), Ok(()));
        let other = FileId { inode: file.inode + 1, ..file };
        for wrong in [held(other, 16 << 10), held(file, 0), held(file, 20 << 10)] {
            let error = compare(&ram, &piece, &wrong).unwrap_err();
            assert_eq!(error.kind(), AttachErrorKind::NotShared);
            assert!(error.to_string().contains("0x4000") && error.to_string().contains(&file.to_string()), "{error}");
        }
    }
}
