//! Finding regions in the processes of a guest, by structure alone.
//!
//! [`probe()`] judges one address. [`Discovery`] goes through all processes of a source and reports every candidate;
//! any process can forge one, so liveness ([`crate::Region::confirm_alive`]) has the last word.

mod discovery;
mod marked;
mod page_set;
mod probe;
mod report;
mod reverse;
mod rounds;
mod spans;
mod sweep;

pub use discovery::Discovery;
pub use probe::{Found, NoRegion, probe};
pub use report::{Candidate, FoundBy, Progress, ScanScratch, ScanStats};
