//! The processor start block: what Windows leaves in low memory for the other processors to start from.
//!
//! It holds the values that they load into their control registers, the kernel's `CR3` among them, and the address in
//! the kernel where they go on. What it looks like is known from the published Windows Research Kernel (`amd64.h`) and
//! from the readers that rely on it.

use crate::addr::{Cr3, Gpa, Gva, PAGE_BYTES};
use crate::budget::Budget;
use crate::paging::PagingMode;
use crate::phys::PhysRead;

/// A near jump over `0x600xx` bytes, and the flag that the block is complete.
const JUMP: (u64, u64) = (0xffff_ffff_ffff_00ff, 0x0000_0001_0006_00e9);
/// `LmTarget`: where to go on. Kernel code, a multiple of 4.
const TARGET_AT: u64 = 0x70;
const TARGET: (u64, u64) = (0xffff_f800_0000_0003, 0xffff_f800_0000_0000);
/// `Cr3` of the register state: page-aligned, below 1 TiB.
const CR3_AT: u64 = 0xa0;
const CR3_MASK: u64 = 0xffff_ff00_0000_0fff;
/// `Cr4` of the register state.
const CR4_AT: u64 = 0xa8;
const CR4_PAE: u64 = 1 << 5;
/// Where the blocks are looked for.
const END: u64 = 1 << 20;

/// A start block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartBlock {
    /// The root that it names: the kernel's, or that of the loader before it.
    pub(super) root: Cr3,
    /// Some kernel code.
    pub(super) code: Gva,
    /// The depth of the tables, where the block's `CR4` is one that a 64-bit kernel can have.
    pub(super) mode: Option<PagingMode>,
}

/// The start blocks of a guest, ascending. A page that cannot be read has none.
///
/// # Bound
/// At most four loads for each of the first 256 pages but the first, all at once where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartBlocks {
    next: u64,
}

impl StartBlocks {
    pub(super) const fn new() -> Self {
        Self { next: PAGE_BYTES }
    }

    pub(super) fn next<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Option<StartBlock> {
        while self.next < END {
            let page = Gpa::new(self.next);
            self.next = self.next.wrapping_add(PAGE_BYTES);
            if let Some(block) = read(mem, page, budget) {
                return Some(block);
            }
        }
        None
    }
}

fn read<M: PhysRead>(mem: &M, page: Gpa, budget: &mut Budget) -> Option<StartBlock> {
    if !mem.holds_data(page) {
        return None;
    }
    let mut at = |offset| {
        budget.spend(1);
        mem.load_u64(page.wrapping_add(offset)).ok()
    };
    let (mask, jump) = JUMP;
    if at(0)? & mask != jump {
        return None;
    }
    let (mask, kernel) = TARGET;
    let code = at(TARGET_AT)?;
    let cr3 = at(CR3_AT)?;
    // Blocks of processors that were never started name no table.
    if code & mask != kernel || cr3 & CR3_MASK != 0 || cr3 == 0 {
        return None;
    }
    let mode = at(CR4_AT).filter(|cr4| cr4 & CR4_PAE != 0 && cr4 >> 32 == 0).map(PagingMode::from_cr4);
    Some(StartBlock { root: Cr3::new(cr3), code: Gva::new(code), mode })
}
