//! What is made of a frame while it is read, without a copy of the frame.
//!
//! Each of these is a [`FrameSink`]: [`stream_frame`](vgpu_perception::region::Reader::stream_frame) passes rows
//! through a small private block, and the guest's memory is read once, and of a [sampled](Thumbnail::sampled) thumbnail
//! only the rows that hold samples. Two sinks in a tuple share that pass. What a
//! sink gives is a result only after a frame that was read whole and unchanged; until the next one, and after a read
//! that gave none, it has none.
//!
//! ```
//! use vgpu_perception::PhysRead;
//! use vgpu_perception::region::{Reader, Sample};
//! use vgpu_perception_sinks::{Colors, Damage, Nv12};
//!
//! fn encode(reader: &mut Reader<impl PhysRead>, sinks: &mut (Nv12, Damage), block: &mut [u8]) {
//!     if let Ok(Sample::Fresh(frame)) = reader.stream_frame(block, sinks) {
//!         let (nv12, damage) = sinks;
//!         if let Some(planes) = nv12.planes() {
//!             /* planes.luma, planes.chroma: to the encoder; damage.tiles(): what changed */
//!             let _ = (frame, planes, damage.tiles().count());
//!         }
//!     }
//! }
//! # let _ = (Nv12::new(Colors::default()), Damage::new(7));
//! ```
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).
#![deny(unsafe_code)]

mod damage;
mod digest;
mod hash;
mod nh;
mod planes;
mod thumbnail;

use core::fmt;

pub use damage::{Damage, TILE, Tile};
pub use digest::Digest;
pub use planes::{Colors, I420, I420Planes, Matrix, Nv12, Nv12Planes, Range};
pub use thumbnail::{Thumbnail, ThumbnailError};
#[doc(no_inline)]
pub use vgpu_perception::region::FrameSink;

/// Why a sink takes no frame like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is smaller than one pixel of the thumbnail.
    TooSmall {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixels of the frame that become one, in both directions.
        factor: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { width, height, factor } => {
                write!(
                    f,
                    "{width}x{height} pixels are fewer than the {factor}x{factor} that become one: use a smaller factor"
                )
            }
        }
    }
}

impl core::error::Error for Refusal {}
