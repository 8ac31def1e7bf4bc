//! A page walker written from the manual (Intel SDM vol. 3A, chapter 4, tables 4-14 to 4-20), as plainly as possible.
//!
//! It is the other opinion that the real walker is compared with, so it shares no code and no structure with it:
//! numbers instead of types, recursion instead of a loop. It knows hardware entries only. It is slow.

use vgpu_perception::{Gpa, PhysRead};

/// What is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NaiveSpace {
    /// The register, flag bits included.
    pub cr3: u64,
    /// 4 or 5.
    pub levels: u32,
    /// MAXPHYADDR.
    pub phys_bits: u32,
}

/// A translation, or a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NaivePage {
    /// The address that was asked for; of a page, its first.
    pub gva: u64,
    /// What it translates to.
    pub gpa: u64,
    /// Bytes of the page.
    pub size: u64,
    /// U/S is set at every level.
    pub user: bool,
    /// R/W is set at every level.
    pub writable: bool,
    /// XD is clear at every level.
    pub executable: bool,
}

/// Why there is no translation. `level` 1 is the page table, 5 the PML5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NaiveFault {
    /// The upper bits are no sign extension.
    NonCanonical,
    /// P is clear.
    NotPresent {
        /// Whose entry.
        level: u32,
        /// The entry.
        entry: u64,
    },
    /// A reserved bit is set.
    Reserved {
        /// Whose entry.
        level: u32,
        /// The entry.
        entry: u64,
    },
    /// The table is not in RAM.
    NoTable {
        /// Whose entry could not be read.
        level: u32,
    },
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes that one entry of `level` spans.
const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// Reserved bits of a present entry.
fn reserved(level: u32, entry: u64, phys_bits: u32) -> bool {
    let too_high = (entry & ADDRESS) >> phys_bits != 0;
    let large = entry >> 7 & 1 == 1;
    let shape = match level {
        4 | 5 => large,
        3 if large => entry >> 13 & 0x1_ffff != 0,
        2 if large => entry >> 13 & 0xff != 0,
        _ => false,
    };
    too_high || shape
}

fn step<M: PhysRead>(
    mem: &M,
    space: NaiveSpace,
    level: u32,
    table: u64,
    page: NaivePage,
) -> Result<NaivePage, NaiveFault> {
    let slot = page.gva / span(level) % 512;
    let entry = mem.load_u64(Gpa::new(table + 8 * slot)).map_err(|_| NaiveFault::NoTable { level })?;
    let page = judge(space, level, entry, page)?;
    if page.size != 0 { Ok(page) } else { step(mem, space, level - 1, entry & ADDRESS, page) }
}

/// Adds one entry to what is known of `page`; a size that is not 0 says that the entry maps the page itself.
fn judge(space: NaiveSpace, level: u32, entry: u64, page: NaivePage) -> Result<NaivePage, NaiveFault> {
    if entry & 1 == 0 {
        return Err(NaiveFault::NotPresent { level, entry });
    }
    if reserved(level, entry, space.phys_bits) {
        return Err(NaiveFault::Reserved { level, entry });
    }
    let page = NaivePage {
        user: page.user && entry & 4 != 0,
        writable: page.writable && entry & 2 != 0,
        executable: page.executable && entry >> 63 == 0,
        ..page
    };
    let maps = level == 1 || (level <= 3 && entry & 0x80 != 0);
    if !maps {
        return Ok(page);
    }
    let size = span(level);
    Ok(NaivePage { size, gpa: (entry & ADDRESS) / size * size + page.gva % size, ..page })
}

const fn start(gva: u64) -> NaivePage {
    NaivePage { gva, gpa: 0, size: 0, user: true, writable: true, executable: true }
}

/// Translates one address.
///
/// # Errors
/// The first [`NaiveFault`] on the way down.
pub fn translate<M: PhysRead>(mem: &M, space: NaiveSpace, gva: u64) -> Result<NaivePage, NaiveFault> {
    let half = 1_u64 << (12 + 9 * space.levels - 1);
    if gva >= half && gva < 0_u64.wrapping_sub(half) {
        return Err(NaiveFault::NonCanonical);
    }
    step(mem, space, space.levels, space.cr3 & ADDRESS, start(gva))
}

/// Every page that is mapped in `from..=last`, ascending; at most `limit` of them, then the rest is left out.
///
/// A table that cannot be read and an entry with reserved bits map nothing.
#[must_use]
pub fn leaves<M: PhysRead>(mem: &M, space: NaiveSpace, from: u64, last: u64, limit: usize) -> Vec<NaivePage> {
    let mut found = Vec::new();
    let walk = Walk { mem, space, from, last, limit };
    walk.below(space.levels, space.cr3 & ADDRESS, start(0), &mut found);
    found
}

/// All user pages: [`leaves`] of the lower half.
#[must_use]
pub fn user_leaves<M: PhysRead>(mem: &M, space: NaiveSpace, limit: usize) -> Vec<NaivePage> {
    leaves(mem, space, 0, (1 << (12 + 9 * space.levels - 1)) - 1, limit)
}

struct Walk<'m, M> {
    mem: &'m M,
    space: NaiveSpace,
    from: u64,
    last: u64,
    limit: usize,
}

impl<M: PhysRead> Walk<'_, M> {
    fn below(&self, level: u32, table: u64, above: NaivePage, found: &mut Vec<NaivePage>) {
        for slot in 0..512 {
            let mut gva = above.gva + slot * span(level);
            if level == self.space.levels && slot >= 256 {
                // Sign extension: the upper half of the top table.
                gva |= 0_u64.wrapping_sub(1 << (12 + 9 * level - 1));
            }
            let end = gva + (span(level) - 1);
            if end < self.from || gva > self.last || found.len() >= self.limit {
                continue;
            }
            let Ok(entry) = self.mem.load_u64(Gpa::new(table + 8 * slot)) else { continue };
            match judge(self.space, level, entry, NaivePage { gva, ..above }) {
                Ok(page) if page.size != 0 => found.push(page),
                Ok(page) => self.below(level - 1, entry & ADDRESS, page, found),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ram;

    const ROOT: u64 = 0x1000;

    fn tables() -> (Ram, NaiveSpace) {
        let ram = Ram::flat(1 << 20);
        let put = |table: u64, slot: u64, entry: u64| ram.write_u64(Gpa::new(table + 8 * slot), entry);
        put(ROOT, 0, 0x2007);
        put(ROOT, 256, 0x2007);
        put(0x2000, 0, 0x3007);
        put(0x2000, 1, 0x8000_0000_4000_1087);
        put(0x3000, 0, 0x4005);
        put(0x3000, 1, 0x20_1087);
        put(0x4000, 5, 0x8000_0000_0000_9067);
        (ram, NaiveSpace { cr3: ROOT | 0x8000_0000_0000_0fff, levels: 4, phys_bits: 40 })
    }

    #[test]
    fn sizes_rights_and_pat() {
        let (ram, space) = tables();
        let small = translate(&ram, space, 0x5678).unwrap();
        assert_eq!((small.gpa, small.size), (0x9678, 0x1000));
        assert_eq!((small.user, small.writable, small.executable), (true, false, false));
        let middle = translate(&ram, space, 0x20_0000 + 0x1_2345).unwrap();
        assert_eq!((middle.gpa, middle.size, middle.executable), (0x20_0000 + 0x1_2345, 0x20_0000, true));
        let large = translate(&ram, space, 0x4000_0000 + 0x123_4567).unwrap();
        assert_eq!((large.gpa, large.size, large.executable), (0x4000_0000 + 0x123_4567, 0x4000_0000, false));
        let all = leaves(&ram, space, 0, u64::MAX, 100);
        assert_eq!(all.len(), 6);
        assert_eq!(all[3].gva, 0xffff_8000_0000_5000);
        assert_eq!(user_leaves(&ram, space, 100).len(), 3);
        assert_eq!(leaves(&ram, space, 0, u64::MAX, 4).len(), 4);
    }

    #[test]
    fn faults_name_the_level() {
        let (ram, space) = tables();
        assert_eq!(translate(&ram, space, 0x8000_0000_0000), Err(NaiveFault::NonCanonical));
        assert_eq!(translate(&ram, space, 0xffff_7fff_ffff_ffff), Err(NaiveFault::NonCanonical));
        assert_eq!(translate(&ram, space, 0x6000), Err(NaiveFault::NotPresent { level: 1, entry: 0 }));
        let put = |table: u64, slot: u64, entry: u64| ram.write_u64(Gpa::new(table + 8 * slot), entry);
        put(ROOT, 1, 0x2087);
        assert_eq!(translate(&ram, space, 1 << 39), Err(NaiveFault::Reserved { level: 4, entry: 0x2087 }));
        put(0x3000, 2, 0x2087);
        assert_eq!(translate(&ram, space, 0x40_0000), Err(NaiveFault::Reserved { level: 2, entry: 0x2087 }));
        put(0x2000, 3, 0x2000_0087);
        assert_eq!(translate(&ram, space, 0xc000_0000), Err(NaiveFault::Reserved { level: 3, entry: 0x2000_0087 }));
        put(0x4000, 6, 0x100_0000_9067);
        assert_eq!(translate(&ram, space, 0x6000), Err(NaiveFault::Reserved { level: 1, entry: 0x100_0000_9067 }));
        put(0x4000, 6, 0x0ff0_0000_0000_9fff);
        assert_eq!(translate(&ram, space, 0x6000).unwrap().gpa, 0x9000);
        put(0x2000, 4, 0x7000_0007);
        assert_eq!(translate(&ram, space, 4 << 30), Err(NaiveFault::NoTable { level: 2 }));
        let deep = NaiveSpace { levels: 5, ..space };
        assert_eq!(translate(&ram, deep, 0x5000), Err(NaiveFault::NotPresent { level: 2, entry: 0 }));
    }
}
