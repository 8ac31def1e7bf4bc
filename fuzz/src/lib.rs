//! The fuzz targets, as plain functions: the bins for libFuzzer and the stable harness run the same ones.
//!
//! A target takes bytes, makes a guest of them, and panics where a property does not hold.

#![deny(unsafe_code)]

mod capi;
mod core_files;
mod guest;
mod linux;
mod maps;
mod nt;
mod peers;
mod requests;
mod resolver;
mod roots;
mod scan;
mod snapshots;
mod walk;

pub use capi::capi;
pub use core_files::core_files;
pub use maps::maps;
pub use nt::nt;
pub use peers::{api, monitor, process};
pub use requests::requests;
pub use resolver::{differential, resolver};
pub use roots::roots;
pub use scan::scan;
pub use snapshots::snapshots;
pub use walk::walk;

/// A target: bytes in, a panic where a property is broken.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("scan", scan),
    ("walk", walk),
    ("roots", roots),
    ("snapshots", snapshots),
    ("maps", maps),
    ("nt", nt),
    ("resolver", resolver),
    ("differential", differential),
    ("capi", capi),
    ("monitor", monitor),
    ("process", process),
    ("api", api),
    ("requests", requests),
    ("core_files", core_files),
];
