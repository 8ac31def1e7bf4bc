//! From a guest's name to its frames: attach, survey, confirm, read, watch.
#![forbid(unsafe_code)]

pub mod attach;
mod ram;

pub use ram::Ram;
