//! From a guest virtual address to guest physical memory: x86-64 paging, walked by ourselves on every call.
//!
//! Nothing here is remembered from one call to the next. What a caller keeps (a [`Trail`]) it has to re-validate.

mod entry;
mod error;
mod leaves;
mod not_present;
mod runs;
mod table;
mod trail;
mod walk;

pub use entry::{Level, PagingMode, Pte, Rights};
pub use error::{WalkError, WalkErrorKind};
pub use leaves::{Leaf, LeafCursor, LeafStep};
pub use not_present::{Hardware, NotPresentEntry, NotPresentResolver, Resolution, Resolved};
pub use runs::RunList;
pub(crate) use table::{BLOCK, ENTRIES, TableRead, each_entry};
pub use table::{LeafEntries, LeafTable};
pub use trail::Trail;
pub use walk::{AddressSpace, PageWalker, Residence, Translation};
