//! Files written when a guest stood still: what is in them is what was, and nothing moves.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use vgpu_perception::{Cr3, PagingMode};
use vgpu_perception_mapped::{CoreError, CoreFile, Foreign, GuestRam};

use super::doctor::mappers;
use super::error::{AttachError, AttachErrorKind};

/// Whether the file at `path` begins as a dump does, or as another kind of file that is known and is no RAM.
///
/// A guest can write anything at the start of its RAM: a file that a virtual machine has mapped is RAM, whatever it
/// says.
pub(super) fn is_one(path: &Path) -> bool {
    reads_like(path).is_some()
}

/// What to do with the file at `path`, where it begins as one does that is no RAM.
pub(super) fn reads_like(path: &Path) -> Option<String> {
    let mut start = [0; 64];
    let mut file = File::open(path).ok()?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) || file.read_exact(&mut start).is_err() {
        return None;
    }
    let dump = format!("give core:{} if it is a dump", path.display());
    let said = match Foreign::of(&start) {
        Some(foreign) => foreign.to_string(),
        None if start.starts_with(b"\x7fELF") => format!("this is an ELF file: {dump}"),
        None if start.starts_with(b"EMiL") => format!("this is a LiME dump: {dump}"),
        None => return None,
    };
    mappers(path).is_none_or(|mappers| mappers.is_empty()).then_some(said)
}

/// Opens the dump at `path`, and gives a root that some processor had loaded, where the dump says.
pub(super) fn open(path: &Path) -> Result<(GuestRam, Option<(Cr3, PagingMode)>), AttachError> {
    let core = CoreFile::open(path).map_err(|error| match error {
        CoreError::Open(error) => AttachError::from(error),
        error => AttachError::new(AttachErrorKind::Format, format!("{}: {error}", path.display())),
    })?;
    let loaded = core.registers().iter().find(|registers| registers.cr3 != 0);
    let root = loaded.map(|registers| (Cr3::new(registers.cr3), PagingMode::from_cr4(registers.cr4)));
    Ok((core.into_ram(), root))
}
