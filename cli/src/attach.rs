//! From the command line to mapped RAM, and to what is known of its page tables.

use vgpu_perception::{Cr3, PagingMode};
use vgpu_perception_mapped::{GuestRam, MachineOptions, RamFile, RamOptions, SegmentMap, SigbusGuard};

use crate::args::{Guest, Root};
use crate::failure::Failure;
use crate::qmp;

/// A guest that can be read.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) ram: GuestRam,
    /// A root of the guest, where one is known.
    pub(crate) root: Option<Cr3>,
    /// The root is what a processor had loaded, not what the user gave: it may be one of user mode alone.
    pub(crate) root_is_a_guess: bool,
    /// How deep its tables are, where that is known.
    pub(crate) mode: Option<PagingMode>,
}

/// Opens the RAM that `guest` names.
pub(crate) fn attach(guest: &Guest) -> Result<Attached, Failure> {
    let (path, map, asked) = match &guest.qmp {
        Some(socket) => {
            let answer = qmp::ask(socket)?;
            (answer.ram, Some(SegmentMap::new(answer.segments)?), answer.root)
        }
        None => (guest.ram.clone().unwrap_or_default(), None, None),
    };
    let file = RamFile::open(&path)?;
    let map = match (map, guest.machine) {
        (Some(map), _) => map,
        (None, _) if !guest.map.is_empty() => SegmentMap::parse(&guest.map)?,
        (None, Some(machine)) => machine.map(&[file.len()], MachineOptions::default())?,
        // Below 2 GiB every known machine has all of its RAM at 0.
        (None, None) if file.len() <= 2 << 30 => SegmentMap::flat(file.len())?,
        (None, None) => {
            return Err(Failure::Guest(format!(
                "{}: {:#x} bytes of RAM are split around a hole, and where cannot be guessed; \
                 give --machine pc|q35|microvm|ch, --map GPA:LEN:OFFSET, or --qmp SOCKET",
                path.display(),
                file.len()
            )));
        }
    };
    // A file that shrinks then gives errors instead of a signal.
    let options = match SigbusGuard::install() {
        Ok(guard) => RamOptions::new().guard(guard),
        Err(_) => RamOptions::new(),
    };
    let ram = GuestRam::new(vec![file], map, options)?;
    let (root, mode, root_is_a_guess) = match (guest.cr3, asked) {
        (Root::Given(root), asked) => (Some(root), asked.map(|(_, mode)| mode), false),
        (Root::Auto, Some((root, mode))) => (Some(root), Some(mode), true),
        (Root::Auto, None) => (None, None, false),
    };
    Ok(Attached { ram, root, root_is_a_guess, mode })
}
