//! Find a vgpu region in the memory of a guest, prove that its producer lives, and read consistent snapshots of it.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        reason = "a test that goes wrong should panic"
    )
)]

#[cfg(test)]
extern crate std;

pub mod abi;
mod addr;
mod budget;
pub mod find;
pub mod paging;
mod phys;
pub mod process;
pub mod region;
pub mod scan;
pub mod seqlock;
pub mod structure;

pub use addr::{Cr3, Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
pub use budget::Budget;
pub use paging::{AddressSpace, PageWalker, PagingMode, RunList, WalkError, WalkErrorKind};
pub use phys::{
    CallbackRam, CopyHint, CopyMethod, CopyOptions, CopyPolicy, Extent, Line, NextUse, PageKind, PhysError,
    PhysErrorKind, PhysRead, PhysRun, Window, next_in,
};
pub use process::{Process, ProcessName, ProcessSource, Step};
pub use region::{Reader, Region};
pub use scan::Discovery;
