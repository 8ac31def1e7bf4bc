//! Synthetic guests with real x86-64 page tables: what the tests, the fuzzers and the demo run against.
//!
//! A guest is a [`Ram`] that a [`GuestBuilder`] filled with tables, and that any number of threads may read and write
//! at once. [`naive`] is a second page walker, written from the manual and kept simple, against which the real one is
//! checked.
//!
//! This crate panics on misuse: it is for tests.
//!
//! ```
//! use vgpu_perception::{Gva, PhysRead};
//! use vgpu_perception_testkit::{GuestBuilder, Placement, Ram, flags, naive};
//! let mut guest = GuestBuilder::new(Ram::flat(64 << 20), 1);
//! let space = guest.new_space();
//! let pages = guest.map_new(space, Gva::new(0x40_0000), 8192, Placement::Scattered, flags::USER_RW);
//! guest.ram.write_u64(pages[1].gpa, 7);
//! let found = naive::translate(&guest.ram, space.naive(), 0x40_1000).unwrap();
//! assert_eq!(guest.ram.load_u64(vgpu_perception::Gpa::new(found.gpa)), Ok(7));
//! ```
//!
//! [`RunningGuest`] is one in a RAM file with a producer that publishes: what examples attach to.
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).
#![forbid(unsafe_code)]

mod builder;
mod counting;
mod faulty;
mod file;
pub mod flags;
mod frames;
pub mod hostile;
pub mod linux;
pub mod naive;
mod ram;
pub mod region;
mod rng;
mod running;
mod search;
pub mod windows;

pub use builder::{GuestBuilder, MappedPage, Space};
pub use counting::{Counting, Counts};
pub use faulty::{Flaky, Hooked, Mutating, ReadEvent};
pub use file::FileSegment;
pub use frames::{FrameAllocator, Placement};
pub use linux::{LinuxOptions, StandardLinux, standard_linux};
pub use ram::Ram;
pub use region::{Field, Region, RegionImage, RegionInRam, Ring};
pub use rng::Rng;
pub use running::RunningGuest;
pub use search::candidates;
