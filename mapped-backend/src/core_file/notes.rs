//! The notes of an ELF core: whose it is, and what its processors' control registers held.

use super::elf::Fields;
use super::{CoreError, ReadAt};

/// Control registers of one processor when the dump was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// `CR3`: the page-table root. Of a processor in user mode it may be the root that user mode runs on.
    pub cr3: u64,
    /// `CR4`, which says how deep the tables are.
    pub cr4: u64,
}

/// What was found in notes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Bytes that were read, of all segments of notes.
    read: u64,
    pub(super) registers: Vec<Registers>,
    pub(super) of_a_guest: bool,
    pub(super) of_a_process: bool,
}

/// Bytes of notes that are read of a dump: those of two thousand processors.
const MOST: u64 = 1 << 20;
/// `NT_PRPSINFO` and `NT_AUXV`, `NT_FILE`: only a process has them.
const PROCESS: [u32; 3] = [3, 6, 0x4649_4c45];

/// Where a note of a processor has `CR3` and `CR4`, and how long it is at least.
struct Place {
    name: &'static [u8],
    cr3: usize,
    cr4: usize,
}

/// QEMU's `QEMUCPUState` (`target/i386/arch_dump.c`) and VirtualBox's `DBGFCORECPU` (`VBox/vmm/dbgfcorefmt.h`).
const PLACES: [Place; 2] =
    [Place { name: b"QEMU\0", cr3: 416, cr4: 424 }, Place { name: b"VBCPU\0", cr3: 304, cr4: 312 }];
/// VirtualBox's description of the machine.
const VBOX_CORE: &[u8] = b"VBCORE\0";

/// Reads the notes at `offset`; what is not whole at their end is left out.
pub(super) fn read(
    dump: &(impl ReadAt + ?Sized),
    offset: u64,
    bytes: u64,
    len: u64,
    to: &mut Notes,
) -> Result<(), CoreError> {
    let Some(needs) = offset.checked_add(bytes) else {
        return Err(CoreError::Bad { what: "the offset of the notes", value: offset });
    };
    if needs > len {
        return Err(CoreError::Truncated { needs, len });
    }
    let bytes = bytes.min(MOST - to.read);
    to.read += bytes;
    let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
    dump.read_at(&mut text, offset).map_err(CoreError::Io)?;
    let mut rest = text.as_slice();
    while let Some(Note { name, kind, value, rest: after }) = next(rest) {
        rest = after;
        if name == b"CORE\0" && PROCESS.contains(&kind) {
            to.of_a_process = true;
        }
        to.of_a_guest |= name == VBOX_CORE;
        let Some(place) = PLACES.iter().find(|place| place.name == name) else { continue };
        to.of_a_guest = true;
        if value.len() >= place.cr4 + 8 {
            let field = Fields(value);
            to.registers.push(Registers { cr3: field.u64(place.cr3), cr4: field.u64(place.cr4) });
        }
    }
    Ok(())
}

/// A note, and what follows it.
struct Note<'n> {
    name: &'n [u8],
    kind: u32,
    value: &'n [u8],
    rest: &'n [u8],
}

/// The first note.
fn next(notes: &[u8]) -> Option<Note<'_>> {
    let (header, rest) = notes.split_at_checked(12)?;
    let field = Fields(header);
    let length = |at| usize::try_from(field.u32(at)).ok();
    let (name_len, value_len) = (length(0)?, length(4)?);
    let (name, rest) = padded(rest, name_len)?;
    let (value, rest) = padded(rest, value_len)?;
    Some(Note { name, kind: field.u32(8), value, rest })
}

/// `len` bytes, and what follows them and their padding to a multiple of 4; the last need not be padded.
fn padded(bytes: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    let (field, _) = bytes.split_at_checked(len)?;
    let rest = bytes.get(len.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((field, rest))
}
