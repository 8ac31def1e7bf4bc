//! Guest RAM in files, mapped read-only: the [`PhysRead`](vgpu_perception::PhysRead) of `vgpu-perception` for QEMU,
//! cloud-hypervisor and whatever else keeps a guest's memory in a file, a memfd or hugetlbfs.
//!
//! ```no_run
//! use vgpu_perception::{Gpa, PhysRead};
//! use vgpu_perception_mapped::{GuestRam, Machine, MachineOptions};
//!
//! let ram = GuestRam::open_machine("/dev/shm/guest.ram", Machine::Q35, MachineOptions::default())?;
//! let word = ram.load_u64(Gpa::new(0x1000))?;
//! # let _ = word;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).
#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("this backend maps whole RAM files through Linux interfaces: it needs 64-bit Linux");

mod core_file;
mod error;
mod file;
mod machine;
mod map;
mod plan;
mod populate;
mod probe;
mod ram;
mod raw;
mod size;

pub use core_file::{CoreError, CoreFile, CoreFormat, CoreLayout, Foreign, ReadAt, Registers};
pub use error::OpenError;
pub use file::RamFile;
pub use machine::{HighBase, Machine, MachineOptions, parse_machine};
pub use map::{MAX_SEGMENTS, MapError, Segment, SegmentMap, parse_number};
pub use plan::{Calibration, CalibrationError, copy_methods};
pub use populate::Populate;
pub use probe::{Change, ChangeProbe};
pub use ram::{GuestRam, RamOptions};
pub use raw::{MAX_GUARDED, MappedView, SigbusGuard, ViewList};
pub use size::bytes;
