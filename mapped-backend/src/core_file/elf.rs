//! ELF cores of guests: program headers whose physical addresses are the map.

use super::layout::Stretches;
use super::notes::{self, Notes};
use super::{CoreError, CoreFormat, CoreLayout, ReadAt};

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// More headers than a field of 16 bits can say: their number is in the first section header.
const PN_XNUM: u16 = 0xffff;
/// Program headers that are read at a time.
const BLOCK: usize = 64;

/// Reads the program headers of an ELF core, and its notes.
pub(super) fn read(dump: &(impl ReadAt + ?Sized), len: u64) -> Result<CoreLayout, CoreError> {
    let mut header = [0_u8; HEADER];
    if len < HEADER as u64 {
        return Err(CoreError::Truncated { needs: HEADER as u64, len });
    }
    dump.read_at(&mut header, 0).map_err(CoreError::Io)?;
    let field = Fields(&header);
    match (field.u8(4), field.u8(5), field.u16(16), field.u16(18)) {
        (1, ..) => return Err(CoreError::NotACore { what: "a 32-bit ELF file" }),
        (_, order, ..) if order != 1 => return Err(CoreError::NotACore { what: "a big-endian ELF file" }),
        (.., kind, _) if kind != ET_CORE => return Err(CoreError::NotACore { what: "an ELF program or library" }),
        (.., machine) if machine != EM_X86_64 => {
            return Err(CoreError::NotACore { what: "the core of a machine other than x86-64" });
        }
        _ => {}
    }
    let (at, size) = (field.u64(32), field.u16(54));
    if usize::from(size) != PROGRAM_HEADER {
        return Err(CoreError::Bad { what: "the size of a program header, which has to be 0x38,", value: size.into() });
    }
    let count = program_headers(dump, field, len)?;
    if count > CoreLayout::HEADERS as u64 {
        return Err(CoreError::Bad { what: "the number of program headers, which is too large,", value: count });
    }
    let mut core = Reading::default();
    let mut block = [0_u8; BLOCK * PROGRAM_HEADER];
    for first in (0..count).step_by(BLOCK) {
        let bytes = usize::try_from(count - first).unwrap_or(BLOCK).min(BLOCK) * PROGRAM_HEADER;
        let place = at.checked_add(first * PROGRAM_HEADER as u64);
        let end = place.and_then(|place| place.checked_add(bytes as u64));
        let (Some(place), Some(end)) = (place, end) else {
            return Err(CoreError::Bad { what: "the offset of the program headers", value: at });
        };
        if end > len {
            return Err(CoreError::Truncated { needs: end, len });
        }
        let Some(part) = block.get_mut(..bytes) else { break };
        dump.read_at(part, place).map_err(CoreError::Io)?;
        for header in part.chunks_exact(PROGRAM_HEADER) {
            core.take(dump, Fields(header), len)?;
        }
    }
    core.finish(len)
}

/// How many program headers there are.
fn program_headers(dump: &(impl ReadAt + ?Sized), header: Fields<'_>, len: u64) -> Result<u64, CoreError> {
    let count = header.u16(56);
    if count != PN_XNUM {
        return Ok(count.into());
    }
    let (at, size) = (header.u64(40), header.u16(58));
    let mut section = [0_u8; SECTION_HEADER];
    let end = at.saturating_add(SECTION_HEADER as u64);
    if usize::from(size) != SECTION_HEADER || at == 0 {
        return Err(CoreError::Bad { what: "the offset of the section headers", value: at });
    }
    if end > len {
        return Err(CoreError::Truncated { needs: end, len });
    }
    dump.read_at(&mut section, at).map_err(CoreError::Io)?;
    Ok(Fields(&section).u32(44).into())
}

/// What was read of a core so far.
#[derive(Default)]
struct Reading {
    stretches: Stretches,
    notes: Notes,
    loads: u64,
    /// Whether a segment has a physical address other than 0.
    physical: bool,
}

impl Reading {
    fn take(&mut self, dump: &(impl ReadAt + ?Sized), header: Fields<'_>, len: u64) -> Result<(), CoreError> {
        let (offset, physical, bytes) = (header.u64(8), header.u64(24), header.u64(32));
        match header.u32(0) {
            PT_LOAD => {
                self.loads += 1;
                self.physical |= physical != 0;
                // What was not saved has a size in memory and none in the file.
                if bytes > 0 { self.stretches.add(physical, bytes, offset) } else { Ok(()) }
            }
            PT_NOTE => notes::read(dump, offset, bytes, len, &mut self.notes),
            _ => Ok(()),
        }
    }

    fn finish(self, len: u64) -> Result<CoreLayout, CoreError> {
        let of_process = self.notes.of_a_process || (self.loads > 1 && !self.physical);
        if of_process && !self.notes.of_a_guest {
            return Err(CoreError::OfAProcess);
        }
        let map = self.stretches.finish(len)?;
        Ok(CoreLayout { format: CoreFormat::Elf, map, registers: self.notes.registers })
    }
}

/// Little-endian fields of a header; what lies beyond it is 0.
#[derive(Clone, Copy)]
pub(super) struct Fields<'h>(pub(super) &'h [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn u8(self, at: usize) -> u8 {
        u8::from_le_bytes(self.bytes(at))
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}
