//! What everybody shares who shows a guest's screen: [`Feed`] follows a producer and counts, [`Picture`] is one frame
//! that can be scaled and written as PNG, JPEG, PPM or as a frame of a Y4M stream, and [`mod@pointer`] draws the cursor
//! into it.
//!
//! Nothing here sleeps, starts a thread, or knows where the bytes go.
#![forbid(unsafe_code)]

mod feed;
mod picture;
pub mod pointer;
pub mod y4m;

pub use feed::{Condition, Counters, Feed, Taken};
pub use picture::{Picture, PictureError, fit};
