//! From a guest's name to its frames: attach, survey, confirm, read, watch.
//!
//! [`Guest::attach`] takes the name of a guest: a VM's, a process, a monitor's socket, RAM files, a core file.
//! [`Guest::survey`] finds the candidates for regions in its processes. The caller waits as long as [`Survey::wait`]
//! says; [`Survey::confirm`] then gives the producers whose heartbeat moved, each as a [`Live`] from which frames are
//! taken. A [`Watch`] does all of that in steps, and goes on after a producer has restarted or the guest has rebooted.
//!
//! ```no_run
//! use vgpu_perception_host::{FrameBuffer, Guest, Sample};
//!
//! let guest = Guest::attach("win11")?;
//! let mut survey = guest.survey()?;
//! std::thread::sleep(survey.wait());
//! let mut picture = FrameBuffer::new(3840 * 2160 * 4);
//! for mut live in survey.confirm()? {
//!     if let Sample::Fresh(frame) = live.frame(&mut picture)? {
//!         println!("frame {}: {} x {}", frame.desc.frame_id, frame.desc.width, frame.desc.height);
//!     }
//! }
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! Nothing here sleeps, starts a thread or writes to the guest.
//!
//! The words used here are explained in [`vgpu_perception`](vgpu_perception#words).
#![forbid(unsafe_code)]

pub mod attach;
mod buffer;
mod error;
mod guest;
mod kept;
mod live;
mod memory;
mod ram;
mod survey;
mod watch;

pub use buffer::FrameBuffer;
pub use error::SurveyError;
pub use guest::{FoundKernel, Guest, Refresh, RefreshError, Refreshed};
pub use live::Live;
pub use memory::Shared;
pub use ram::Ram;
pub use survey::{Limits, Sighting, Survey, TooEarly};
pub use vgpu_perception::region::Sample;
pub use watch::{Event, Watch};

/// The program in the project's README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
