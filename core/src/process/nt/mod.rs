//! Windows guests: from a root, or from nothing, to the kernel's list of processes, and to pages that were trimmed.
//!
//! ```text
//! start block ─┐
//! self map     ├─► root ─► ntoskrnl.exe ─► PsInitialSystemProcess ─► System ─► layout ─► list
//! shared half ─┘
//! ```
//!
//! Nothing here needs symbols or a table of versions. What is fixed in Windows by its public interfaces is used as such
//! (the shared data page, the image format, the name of an export, the header of a dispatcher object); where fields of
//! process objects lie is inferred from the objects of the guest at hand ([`Layout`]), each by a rule of its own, and
//! left out where the rule does not single out one place.
//!
//! [`KernelSearch`] finds a kernel in RAM of which nothing is known; [`NtKernel::attach`] starts from a root;
//! [`NtKernel::revalidate`] tells whether a kernel that was kept still runs. [`ProcessList`] is a
//! [`ProcessSource`](crate::ProcessSource), and [`NtPaging`] what absent entries mean in its processes.

mod attach;
mod charged;
mod eprocess;
mod error;
mod find_image;
mod infer;
mod kernel;
mod layout;
mod links;
mod list;
mod memory;
mod paging;
mod pe;
mod pte;
mod search;
mod section;
mod self_map;
mod shared_data;
mod start_block;
mod vad;

pub use attach::KernelAttach;
pub use error::NtError;
pub use kernel::{KernelPulse, NtKernel, RootOrigin};
pub use layout::{Field, FieldName, Layout};
pub use list::{ListStats, NtProcess, ProcessList, ProcessState, RootBy};
pub use paging::{NtLookup, NtPaging};
pub use pe::KernelImage;
pub use search::KernelSearch;
pub use shared_data::Version;
pub use vad::DescriptorShape;
