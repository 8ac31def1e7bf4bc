//! Find a vgpu region in the memory of a guest, prove that its producer lives, and read consistent snapshots of it.
//!
//! A program in a virtual machine, the producer, publishes the screen in shared memory of its own. This crate reads
//! that memory from the host: it walks the guest's page tables, finds every region, and copies frames, the cursor and
//! the geometry. It never writes, waits, allocates or calls the operating system. You bring the bytes of guest physical
//! memory, as a [`PhysRead`] or as a function ([`CallbackRam`]).
//!
//! To attach to a guest by its name, take `vgpu-perception-host`, which is built on this crate.
//!
//! # The way to a frame
//!
//! | step | with | gives |
//! | --- | --- | --- |
//! | memory | [`PhysRead`], [`CallbackRam`] | bytes, words and table entries at a guest physical address |
//! | find | [`find::Finder`] over a [`find::Workspace`] | the kernel, then each candidate in each process |
//! | wait | your own clock | at least [`abi::HEARTBEAT_PERIOD_MS`] milliseconds |
//! | confirm | [`Reader::confirm_alive`] | [`Alive`](region::Liveness::Alive), if the heartbeat moved in one session |
//! | read | [`Reader::frame`], [`cursor`](Reader::cursor), [`geometry`](Reader::geometry) | a [`Sample`](region::Sample) |
//!
//! ```
//! use vgpu_perception::find::{Finder, Workspace, WorkspaceSize};
//! use vgpu_perception::region::{Liveness, Reader, Sample};
//! use vgpu_perception::{Budget, CallbackRam, Extent, Gpa, Step};
//! # use vgpu_perception::PhysRead as _;
//! # let guest = vgpu_perception_testkit::standard_linux(Default::default());
//! # let memory = &guest.guest.ram;
//! # let map = memory.segments();
//! # let read_guest_memory = |gpa: Gpa, dst: &mut [u8]| memory.read(gpa, dst).is_ok();
//!
//! // Where the guest has RAM, and a function that copies it: 0, or an error of your own.
//! let ram = CallbackRam::new(&map, |gpa, dst| if read_guest_memory(gpa, dst) { 0 } else { -1 });
//! let size = WorkspaceSize::for_ram(map.last().map_or(Gpa::new(0), |last| last.end()));
//! let mut workspace = Workspace::new(
//!     vec![Default::default(); size.roots],
//!     vec![Default::default(); size.processes],
//!     vec![0; size.page_bitmap],
//! );
//! let mut finder = Finder::new(&mut workspace);
//! let mut frames = 0;
//! while let Step::Found(candidate) = finder.step(&ram, &mut Budget::unlimited())? {
//!     // Wait a heartbeat period here.
//! #   guest.region.tick(memory);
//!     let mut reader = Reader::new(&ram, candidate.region());
//!     let mut picture = vec![0; 3840 * 2160 * 4];
//!     if let Liveness::Alive(_) = reader.confirm_alive(candidate.found.pulse)?
//!         && let Sample::Fresh(frame) = reader.frame(&mut picture)?
//!     {
//!         println!("frame {}: {} x {}", frame.desc.frame_id, frame.desc.width, frame.desc.height);
//!         frames += 1;
//!     }
//! }
//! assert_eq!(frames, 1, "any process can forge a region; only one has a producer behind it");
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Words
//!
//! | word | means |
//! | --- | --- |
//! | *region* | the 98 MiB of shared memory that a producer writes; it has no magic number and is known by its structure ([`structure`]) |
//! | *producer* | the program in the guest that writes it |
//! | *frame* | a picture. Physical memory has *pages* |
//! | *slot* | the place of one frame in the region's ring of three |
//! | *candidate* | an address in a process that reads like a region; any process can forge one |
//! | *heartbeat* | a counter that a living producer advances every 250 ms at least |
//! | *session* | the frames under one `run_epoch`; a producer that begins anew begins another |
//! | *stale* | said of a region whose heartbeat stands still |
//! | *sample* | what a read gives: [`Fresh`](region::Sample::Fresh), or a [`Skip`](region::Sample::Skip) with its reason |
//! | *root* | the physical address of a top page table, what CR3 holds ([`Cr3`]) |
//! | *kernel (upper) half* | the half of an address space that all processes of a guest share |
//! | *gap* | guest physical addresses without RAM; reading there is an error |
//! | *hole* | RAM of a sparse file that was never written; it reads as zeros |
//! | *budget* | how many loads a step may make before it gives control back ([`Budget`]) |
//!
//! # What every operation promises
//!
//! Any guest memory gives a result or a typed error, in work that the operation's documentation bounds as a number of
//! loads. Nothing that was read is used before it was judged, no translation is kept from one call to the next, and a
//! frame is one publish whole. `SECURITY.md` in the project names the test of each promise.
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
    CallbackRam, CopyHint, CopyMethod, CopyOptions, CopyPolicy, Extent, Extents, Line, NextUse, PageKind, PhysError,
    PhysErrorKind, PhysRead, PhysRun, Window, next_in,
};
pub use process::{Process, ProcessName, ProcessSource, Step};
pub use region::{Reader, Region};
pub use scan::Discovery;
