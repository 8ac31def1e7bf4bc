//! The front door of the core: from guest memory to candidates, in the order in which a caller should take them.
//!
//! [`Workspace`] is all the scratch memory of a search, as one value of the caller's. [`Finder`] finds the kernel, then
//! scans every process; it stops at any budget and goes on where it stopped. [`Rank`] orders candidates, for every
//! front end alike. What is found is read through a [`Reader`](crate::region::Reader).
//!
//! ```
//! use vgpu_perception::find::{FindError, Finder, Workspace, WorkspaceSize};
//! use vgpu_perception::region::Reader;
//! use vgpu_perception::{Budget, Gpa, PhysRead, Step};
//!
//! fn count(ram: &impl PhysRead, end: Gpa) -> Result<usize, FindError> {
//!     let size = WorkspaceSize::for_ram(end);
//!     let mut workspace = Workspace::new(
//!         vec![Default::default(); size.roots],
//!         vec![Default::default(); size.processes],
//!         vec![0; size.page_bitmap],
//!     );
//!     let mut finder = Finder::new(&mut workspace);
//!     let mut found = 0;
//!     loop {
//!         match finder.step(ram, &mut Budget::new(1 << 18))? {
//!             Step::Found(candidate) => {
//!                 let reader = Reader::new(ram, candidate.region());
//!                 let _ = reader; // keep it: frames come from here
//!                 found += 1;
//!             }
//!             Step::Pending => {} // do something else, or show `finder.progress()`
//!             Step::Done => return Ok(found),
//!         }
//!     }
//! }
//! # let ram = vgpu_perception_testkit::standard_linux(Default::default());
//! # assert!(count(&ram.guest.ram, Gpa::new(8 << 30)).unwrap() > 0);
//! ```

mod finder;
mod ranking;
mod workspace;

pub use finder::{FindError, FindPhase, FindProgress, Finder};
pub use ranking::{Rank, Verdict};
pub use workspace::{Workspace, WorkspaceSize};
