//! A guest by the files that hold its RAM: nobody says whose they are, so what can be checked is checked.

use std::path::{Path, PathBuf};

use vgpu_perception_mapped::{GuestRam, MapError, RamFile, SegmentMap};

use super::error::{AttachError, AttachErrorKind};
use super::source;
use super::spec::GuestSpec;

/// Maps the files of `spec`.
pub(super) fn open(spec: &GuestSpec, paths: &[PathBuf], notes: &mut Vec<String>) -> Result<GuestRam, AttachError> {
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let file = RamFile::open(path)?;
        if source::is_hugetlb(&file) && !source::is_allocated(&file) {
            return Err(AttachError::new(
                AttachErrorKind::NotShared,
                format!(
                    "{}: lies on hugetlbfs and not all of its huge pages exist: reading the others would allocate \
                     them. Give pid:N or name:NAME of the virtual machine, whose page map tells them apart, or \
                     preallocate its RAM (prealloc=on)",
                    path.display()
                ),
            ));
        }
        notes.extend(doubt(path));
        files.push(file);
    }
    let map = layout(spec, &files, notes)?;
    Ok(GuestRam::new(files, map, source::options())?)
}

fn layout(spec: &GuestSpec, files: &[RamFile], notes: &mut Vec<String>) -> Result<SegmentMap, AttachError> {
    if let Some(map) = &spec.map {
        return Ok(map.clone());
    }
    let sizes: Vec<u64> = files.iter().map(RamFile::len).collect();
    if let Some((machine, options)) = spec.machine {
        return machine.map(&sizes, options).map_err(|error| refused(files, &error));
    }
    let total = sizes.iter().fold(0_u64, |sum, len| sum.saturating_add(*len));
    // Below 2 GiB every known machine has all of its RAM at 0.
    if total <= 2 << 30 {
        if files.len() > 1 {
            notes.push("assumed: the files lie end to end from guest physical 0, in the order given".to_owned());
        }
        let map = vgpu_perception_mapped::Machine::Microvm.map(&sizes, Default::default());
        return map.map_err(|error| refused(files, &error));
    }
    let first = files.first().map(|file| file.path().display().to_string()).unwrap_or_default();
    Err(AttachError::new(
        AttachErrorKind::Layout,
        format!(
            "{first}: {} of RAM are split around a hole, and where cannot be guessed; give --machine \
             pc|q35|microvm|ch|firecracker|crosvm, --map GPA:LEN:OFFSET[:FILE], or attach by qmp:SOCKET, pid:N or \
             name:NAME",
            bytes(total)
        ),
    ))
}

/// A map that the files cannot have, with the files that it is about.
fn refused(files: &[RamFile], error: &MapError) -> AttachError {
    let names: Vec<_> = files.iter().map(|file| file.path().display().to_string()).collect();
    let doubts: String = files.iter().filter_map(|file| doubt(file.path())).map(|doubt| format!("; {doubt}")).collect();
    AttachError::new(AttachErrorKind::Layout, format!("{}: {error}{doubts}", names.join(", ")))
}

/// A number of bytes as people say it.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    vgpu_perception_mapped::bytes(bytes)
}

/// What a file's first bytes say against its being RAM. A guest can write the same there: it is a hint, no more.
fn doubt(path: &Path) -> Option<String> {
    let hint = super::core_file::reads_like(path)?;
    Some(format!("{} begins as no RAM does: {hint}", path.display()))
}
