//! The reference producer: writes a vgpu region, as a capture program in a guest would.
//!
//! It is the only code of the workspace that writes one. The offsets are those of [`vgpu_perception::abi`]; the order
//! of the stores is in [`Producer`]. Memory is reached through [`RegionWrite`], word by word, so that a model checker
//! runs the same stores as the program in a real guest.
//!
//! | part | for |
//! | --- | --- |
//! | [`Producer`], [`RegionWrite`] | the protocol; `no_std` |
//! | [`pattern`] | pictures, cursors and geometries that tell every mixture of two; `no_std` |
//! | `mapped` | regions in shared memory, or pieced together from a RAM file (feature `mapped`) |
//! | `program` | what the program `vgpu-producer` does (feature `mapped`) |

#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "mapped")]
extern crate std;

#[cfg(feature = "mapped")]
mod chaos;
#[cfg(feature = "mapped")]
pub mod mapped;
pub mod pattern;
mod producer;
#[cfg(feature = "mapped")]
pub mod program;
mod slot;
mod write;

pub use producer::{CursorState, GeometryState, Lifecycle, Producer, Start};
pub use slot::{BadFrame, FrameMeta, SlotWrite};
pub use write::RegionWrite;
