//! A guest of a few words, for a model checker: real page tables, and loom atomics where the producer and the reader
//! meet.
//!
//! The core's own functions read it through [`LoomRam`], the reference producer's own functions write it through
//! [`LoomWrite`]: nothing of either is copied here. Words that a model does not watch are constants, so that the
//! checker spends its executions where the protocol is.
//!
//! What loom explores is bounded: by the preemption bound that a model names, and by the seven newest stores that it
//! keeps of each word. It does not explore load buffering, and takes sequentially consistent accesses for acquire and
//! release ones; neither occurs here.

pub mod chooser;
mod model;
mod ram;
pub mod scenario;

pub use model::{Outcomes, breaks, check, explore};
pub use ram::{BASE, Guest, LoomRam, LoomWrite, ReaderFault, WriterFault, region};
