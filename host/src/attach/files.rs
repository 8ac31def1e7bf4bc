//! A guest by the files that hold its RAM: nobody says whose they are, so what can be checked is checked.

use std::path::PathBuf;

use vgpu_perception_mapped::{GuestRam, RamFile, SegmentMap};

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
                    "{}: lies on hugetlbfs and not all of its huge pages exist: reading the others would allocate them. Give \
                     pid:N or name:NAME of the virtual machine, whose page map tells them apart, or preallocate its RAM \
                     (prealloc=on)",
                    path.display()
                ),
            ));
        }
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
        return Ok(machine.map(&sizes, options)?);
    }
    let total = sizes.iter().fold(0_u64, |sum, len| sum.saturating_add(*len));
    // Below 2 GiB every known machine has all of its RAM at 0.
    if total <= 2 << 30 {
        if files.len() > 1 {
            notes.push("assumed: the files lie end to end from guest physical 0, in the order given".to_owned());
        }
        return Ok(vgpu_perception_mapped::Machine::Microvm.map(&sizes, Default::default())?);
    }
    let first = files.first().map(|file| file.path().display().to_string()).unwrap_or_default();
    Err(AttachError::new(
        AttachErrorKind::Layout,
        format!(
            "{first}: {} of RAM are split around a hole, and where cannot be guessed; give --machine \
             pc|q35|microvm|ch|firecracker|crosvm, --map GPA:LEN:OFFSET[:FILE], or attach by qmp:SOCKET, pid:N or name:NAME",
            bytes(total)
        ),
    ))
}

/// A number of bytes as people say it.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) if bytes.is_multiple_of(1 << shift) => format!("{} {unit}", bytes >> shift),
        Some((unit, shift)) => {
            let hundredths = (u128::from(bytes) * 100) >> shift;
            format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_say_them() {
        for (number, text) in
            [(3 << 30, "3 GiB"), (0xb000_0000, "2.75 GiB"), (100, "100 bytes"), (u64::MAX, "16777215.99 TiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }
}
