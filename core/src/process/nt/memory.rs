//! Kernel memory, as the code of this module reads it.

use zerocopy::{FromBytes, IntoBytes};

use crate::addr::Gva;
use crate::paging::{NotPresentResolver, PageWalker, PagingMode, WalkError, WalkErrorKind};
use crate::phys::PhysRead;

/// The little-endian `u64` at `gva`: one load where it is aligned.
pub(super) fn word<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<M, R>, gva: Gva) -> Result<u64, WalkError> {
    if gva.get().is_multiple_of(8) {
        let found = walker.translate(gva)?;
        return walker.mem().load_u64(found.gpa).map_err(|error| WalkErrorKind::Page { error }.at(gva));
    }
    let mut bytes = [0; 8];
    walker.read(gva, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A structure at `gva`, copied.
pub(super) fn wire<T: FromBytes + IntoBytes, M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<M, R>,
    gva: Gva,
) -> Result<T, WalkError> {
    let mut copy = T::new_zeroed();
    walker.read(gva, copy.as_mut_bytes())?;
    Ok(copy)
}

/// Takes `value` for a pointer into the kernel half: canonical, in the upper half, and a multiple of 8.
pub(super) const fn pointer(mode: PagingMode, value: u64) -> Option<Gva> {
    let gva = Gva::new(value);
    if gva.is_in_kernel_half() && value & 7 == 0 && gva.is_canonical(mode.address_bits()) { Some(gva) } else { None }
}
