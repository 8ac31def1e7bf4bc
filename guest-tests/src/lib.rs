//! Real Linux guests: Debian's cloud kernel under QEMU's software emulation, with the reference producer as an ordinary
//! process among others.
//!
//! [`Guest::boot`] needs what `.ci/guest/setup` and `.ci/guest/image` put into `target/guest`, and says so where it is
//! missing. The scenarios are in the program `vgpu-guest`; `.ci/guest/run` does all of it.

mod assets;
pub mod attach;
mod gdb;
mod guest;
mod qmp;

pub use assets::Assets;
pub use gdb::Gdb;
pub use guest::{Guest, HUGE, Machine, Memory, Options, Ready};
pub use qmp::{Qmp, QmpError};

/// What goes wrong with a guest, in words.
pub type Error = Box<dyn core::error::Error + Send + Sync>;

/// A result of this crate.
pub type Result<T> = core::result::Result<T, Error>;
