//! Guest RAM that no file holds, read out of the VMM's process: the [`PhysRead`](vgpu_perception::PhysRead) of
//! `vgpu-perception` for QEMU without a shared backend (the default of `qemu -m`, libvirt and Proxmox), Firecracker,
//! and whatever else keeps a guest's memory in private memory of its own.
//!
//! ```no_run
//! use vgpu_perception::{Gpa, PhysRead};
//! use vgpu_perception_process::{Piece, Process, ProcessOptions, ProcessRam};
//!
//! let process = Process::open(4711)?;
//! // Where the VMM has the guest's RAM: from its monitor (`gpa2hva`), or from its memory map.
//! let host_addr = process.maps()?.iter().max_by_key(|area| area.len()).map_or(0, |area| area.start);
//! let pieces = [Piece { gpa: Gpa::new(0), len: 1 << 30, host_addr }];
//! let ram = ProcessRam::new(process, &pieces, ProcessOptions::new())?;
//! let word = ram.load_u64(Gpa::new(0x1000))?;
//! # let _ = word;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).
//!
//! # What is weaker than with a mapped file
//!
//! A mapped file is read by loads of this program. Here the kernel copies, and it promises no more than `memcpy` does:
//! an aligned word that the guest stores while it is copied may arrive with some bytes of the old value and some of the
//! new. What still holds:
//!
//! * **Single words** ([`load_u32`](vgpu_perception::PhysRead::load_u32),
//!   [`load_u64`](vgpu_perception::PhysRead::load_u64)) are whole. Each is copied twice in one call, and again until
//!   both copies agree. One store cannot tear two copies that follow each other: if it falls into the first, the second
//!   has all of the new value. Two stores could only if the second put back what the first took away, within the
//!   nanoseconds between the copies. A word that is stored to between the copies 64 times in a row is given as it was
//!   copied last, whole or not.
//! * **Snapshots** are whole. Sequence numbers are single words; what lies between two reads of the same even number
//!   was not written meanwhile, however it was copied. A copy that a store tore is void like any other that it
//!   overtook.
//! * **Order** holds: the copy is made by this thread before the call returns, so that a fence after the call stands
//!   between it and every later copy.
//! * **Table entries** that are read many at a time ([`load_words`](vgpu_perception::PhysRead::load_words),
//!   [`load_lines`](vgpu_perception::PhysRead::load_lines)) may be torn. A frame's are read again after the copy, and a
//!   torn entry differs then; a scan judges what an entry led to by every rule before it reports it.
//! * A counter outside a seqlock that is read with others (heartbeat and session of a first look) may be torn; the
//!   liveness proof reads it again.
//!
//! # Which process
//!
//! A number of a process is given to another one as soon as the first is gone. [`Process`] holds a descriptor of the
//! process itself (a pidfd), and no copy counts unless that process still lives after the copy was made: its number
//! cannot have been anybody else's then. What the process has mapped at the guest's addresses is compared with what it
//! was when the RAM was opened, at every [`revalidate`](ProcessRam::revalidate) and after every copy that fails.
//!
//! # What it does to the VMM
//!
//! Nothing is opened for writing, and the VMM is never stopped. Memory that the guest never touched is not touched
//! either: the kernel would give the VMM page tables, or with huge pages memory, for it. Such pages are told apart
//! through `/proc/PID/pagemap`, are left out of passes, and read as the zeros that they are.
#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("this backend reads whole guests through Linux interfaces: it needs 64-bit Linux");

mod areas;
mod error;
mod pagemap;
mod place;
mod process;
mod ram;
mod raw;
mod read;
mod window;

pub use areas::{Area, parse_area};
pub use error::OpenError;
pub use process::Process;
pub use ram::{Piece, ProcessOptions, ProcessRam};
