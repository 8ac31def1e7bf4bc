//! The reference producer: writes a vgpu region, as a capture program in a guest would.
//!
//! It is the only Rust code of the workspace that writes one. The offsets are those of [`vgpu_perception::abi`]; the
//! order of the stores is in [`Producer`]. Memory is reached through [`RegionWrite`], word by word, so that a model
//! checker runs the same stores as the program in a real guest.
//!
//! | part | for |
//! | --- | --- |
//! | [`Producer`], [`RegionWrite`] | the protocol; `no_std` |
//! | [`pattern`] | pictures, cursors and geometries that tell every mixture of two; `no_std` |
//! | `mapped` | regions in shared memory, or pieced together from a RAM file (feature `mapped`) |
//! | `program` | what the program `vgpu-producer` does (feature `mapped`) |
//!
//! ```
//! use vgpu_perception::abi::{Backend, State};
//! use vgpu_perception_producer::{FrameMeta, Lifecycle, Producer, RegionWrite};
//!
//! fn capture(region: impl RegionWrite, pixels: &[u8]) -> Result<(), Box<dyn core::error::Error>> {
//!     // `region` is fresh memory, all of it zero.
//!     let mut producer = Producer::new(region);
//!     producer.set_status(&Lifecycle { status: State::CAPTURING, backend: Backend::DDA, ..Lifecycle::default() });
//!     let frame_id = producer.publish(&FrameMeta { width: 1280, height: 720, timestamp_ns: 0 }, pixels)?;
//!     assert_eq!(frame_id, 1);
//!     // At least every 250 ms, whatever else goes on.
//!     producer.beat();
//!     Ok(())
//! }
//! # struct Nowhere;
//! # impl RegionWrite for Nowhere {
//! #     fn store_u32(&self, _: u64, _: u32) {}
//! #     fn store_u64(&self, _: u64, _: u64) {}
//! # }
//! # capture(Nowhere, &[0; 1280 * 720 * 4]).unwrap();
//! ```
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).

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
