//! From a guest virtual address to guest physical memory: x86-64 paging, walked by ourselves on every call.
//!
//! Nothing here is remembered from one call to the next. What a caller keeps (a [`Trail`]) it has to re-validate.

mod absent;
mod entry;
mod leaves;
mod runs;
mod walk;

pub use absent::{AbsentEntry, AbsentResolver, Hardware, Meaning};
pub use entry::{Level, PagingMode, Pte, Rights};
pub use leaves::{Leaf, LeafCursor, LeafStep, LeafTable};
pub use walk::{AddressSpace, PageWalker, Residence, Trail, Translation, WalkError};
