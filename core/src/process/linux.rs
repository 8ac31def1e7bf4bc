//! What entries without P mean in a Linux guest: pages whose use is being sampled are still in RAM.
//!
//! Linux clears P, U and W of a page for a while to see who uses it (automatic NUMA balancing), and for good where a
//! program asks for no access at all. Such an entry has bit 8 set (`_PAGE_PROTNONE`), and its page number inverted
//! against L1TF (`arch/x86/include/asm/pgtable.h`, `pgtable-invert.h`). What user mode may do with the page stands
//! elsewhere, in the kernel's list of mappings. Every other entry that is not empty is a swap entry, or a page on its
//! way to another place.

use crate::addr::PAGE_BYTES;
use crate::budget::Budget;
use crate::paging::{Level, NotPresentEntry, NotPresentResolver, Pte, Resolution, Resolved};
use crate::phys::{PhysError, PhysRead};

/// `_PAGE_PROTNONE`: the processor would take it for G.
const PROTECTION_NONE: u64 = 1 << 8;

/// The meaning of entries without P in the processes of a Linux guest. It loads nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinuxPaging;

impl LinuxPaging {
    /// What an entry of the user half means.
    fn meaning(asked: &NotPresentEntry) -> Resolution {
        let NotPresentEntry { gva, level, entry, .. } = *asked;
        if entry == 0 {
            return Resolution::NotMapped;
        }
        // A large page that is being split has neither bit for a moment.
        let is_page = match level {
            Level::Pt => entry & PROTECTION_NONE != 0,
            Level::Pd | Level::Pdpt => entry & Pte::PAGE != 0,
            Level::Pml4 | Level::Pml5 => false,
        };
        match level.page_size().filter(|_| is_page) {
            Some(size) => {
                let page = Pte::new(!entry).frame(size);
                let skip = gva.offset_in(size) & !PAGE_BYTES.wrapping_sub(1);
                Resolution::Page { gpa: page.wrapping_add(skip), rights: None }
            }
            None => Resolution::NotResident,
        }
    }
}

impl NotPresentResolver for LinuxPaging {
    const LOADS: u64 = 0;
    type Lookup = ();

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        asked: &NotPresentEntry,
        _lookup: &mut (),
        _cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        // The kernel's own half has no such pages.
        if asked.gva.is_in_kernel_half() {
            return Ok(Resolved::for_entry(Resolution::NotMapped));
        }
        Ok(match Self::meaning(asked) {
            // A swap entry of a kernel that keeps them otherwise leads nowhere, nor does a garbage table's: and of a
            // large page that is not all RAM nothing is meant.
            Resolution::Page { gpa, .. } if !mem.is_ram(gpa) => Resolved::for_entry(Resolution::NotResident),
            Resolution::Page { gpa, rights } => Resolved::for_page(asked.gva, Resolution::Page { gpa, rights }),
            nothing => Resolved::for_entry(nothing),
        })
    }
}
