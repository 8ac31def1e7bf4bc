//! Whether a guest's page tables have 4 or 5 levels, if the caller does not say.

use crate::addr::{Cr3, Gva};
use crate::paging::{AddressSpace, Hardware, PageWalker, PagingMode, WalkError, WalkErrorKind};
use crate::phys::PhysRead;

/// Tells 4-level from 5-level tables where nobody says: by whether the last 2 GiB, where Linux has
/// its kernel's image, hold executable kernel pages under either reading. `None` where neither reading shows any.
///
/// A table of a 4-level guest that is read one level too deep ends in a large page with reserved bits, or in bytes that
/// are no table; a table of a 5-level guest that is read as a 4-level one looks whole, so five levels are tried first.
/// The answer is a guess from structure: an embedder that knows `CR4` uses [`PagingMode::from_cr4`].
///
/// # Bound
/// 1024 translations for each reading: 9216 loads.
#[must_use]
pub fn guess_mode<M: PhysRead>(mem: &M, root: Cr3) -> Option<PagingMode> {
    [PagingMode::FiveLevel, PagingMode::FourLevel].into_iter().find(|mode| {
        let space = AddressSpace { root, mode: *mode, phys_bits: 52, resolver: Hardware };
        let walker = PageWalker::new(mem, space);
        kernel_leads_to_code(&walker)
    })
}

/// Whether the last 2 GiB of the address space, looked at in 2 MiB steps, have executable supervisor pages.
fn kernel_leads_to_code<M: PhysRead>(walker: &PageWalker<&M, Hardware>) -> bool {
    const STEP: u64 = 2 << 20;
    const STEPS: u64 = 1024;
    let mut good = 0_u32;
    let mut bad = 0_u32;
    for step in 1..=STEPS {
        let gva = Gva::new(0_u64.wrapping_sub(step.wrapping_mul(STEP)));
        match walker.translate(gva) {
            Ok(found) if found.rights.executable && !found.rights.user => good = good.wrapping_add(1),
            Ok(_) | Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. }) => {}
            Err(_) => bad = bad.wrapping_add(1),
        }
    }
    good > bad
}
