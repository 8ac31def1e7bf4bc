//! From a guest virtual address to guest physical memory: x86-64 paging, walked by ourselves on every call.
//!
//! Nothing here is remembered from one call to the next. What a caller keeps (a [`Trail`]) it has to re-validate.

mod ahead;
mod blocks;
mod error;
mod leaf_cursor;
mod leaves;
mod level;
mod not_present;
mod pieces;
mod pte;
mod rights;
mod runs;
mod space;
mod table;
mod together;
mod trail;
mod walk;

pub(crate) use blocks::{BLOCK, Blocks, ENTRIES, KERNEL_HALF, WHOLE, all_entries, all_pairs, each_entry};
pub use error::{WalkError, WalkErrorKind};
pub use leaf_cursor::LeafCursor;
pub use leaves::{Leaf, LeafStep};
pub use level::{Level, PagingMode};
pub use not_present::{Hardware, NotPresentEntry, NotPresentResolver, Resolution, Resolved};
pub use pte::Pte;
pub use rights::Rights;
pub(crate) use rights::{Grants, Need};
pub use runs::RunList;
pub use space::{AddressSpace, Residence, Translation};
pub(crate) use table::TableRead;
pub use table::{LeafEntries, LeafTable};
pub use trail::Trail;
pub use walk::PageWalker;
