//! What everybody shares who shows a guest's screen: [`Feed`] follows a producer and counts, [`Picture`] is one frame
//! that can be scaled and written as PNG, JPEG, PPM or as a frame of a Y4M stream, and [`mod@pointer`] draws the cursor
//! into it.
//!
//! Nothing here sleeps, starts a thread, or knows where the bytes go.
//!
//! ```
//! use vgpu_perception_view::Picture;
//!
//! // Two pixels, blue and red, as a frame has them: blue, green, red, alpha.
//! let pixels = [255, 0, 0, 255, 0, 0, 255, 255];
//! let mut ppm = Vec::new();
//! Picture::new(2, 1, &pixels)?.ppm(&mut ppm)?;
//! assert!(ppm.ends_with(&[0, 0, 255, 255, 0, 0]));
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).
#![forbid(unsafe_code)]

mod feed;
mod picture;
pub mod pointer;
pub mod y4m;

pub use feed::{Condition, Counters, Feed, Taken};
pub use picture::{Picture, PictureError, fit};
