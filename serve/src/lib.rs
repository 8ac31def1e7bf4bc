//! The screens of virtual machines in a browser: a wall of thumbnails, one guest large, stills, MJPEG and metrics.
//!
//! | path | gives |
//! | --- | --- |
//! | `/` | the wall, a plain page |
//! | `/guests` | all guests and their state, as JSON |
//! | `/guests/NAME/frame.png`, `.jpg` | the latest frame; `?width=160`, `320`, `640` or `1280` scales it down |
//! | `/guests/NAME/stream` | MJPEG; `?fps=1` to `60`, `?width=` |
//! | `/metrics` | OpenMetrics |
//!
//! A screen is shown to nobody who does not hold the token ([`Access`]). Everything is bounded: clients, guests, the
//! size of a request, the time that a client may take ([`Limits`]). A client that reads slowly gets fewer frames; the
//! server keeps one frame a guest, whatever the number of clients. While nobody looks, nothing is read from any guest.
#![forbid(unsafe_code)]

mod access;
mod guest;
mod guests;
mod listen;
mod metrics;
mod reader;
mod routes;
mod shot;
mod stall;
mod stream;

pub use access::{Access, BadToken, Token};
pub use guests::{Attach, Discover, Source};
pub use listen::{Address, Listener, Server};

/// What a server allows at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time.
    pub clients: usize,
    /// Guests; those beyond are not shown, and counted.
    pub guests: usize,
    /// Bytes of a request with all its headers.
    pub request: usize,
    /// Seconds in which a client has to send a request, and in which it has to take what it was sent.
    pub seconds: u64,
}

impl Default for Limits {
    /// 256 clients, 256 guests, 16 KiB, 20 seconds.
    fn default() -> Self {
        Self { clients: 256, guests: 256, request: 16 << 10, seconds: 20 }
    }
}

impl Limits {
    /// With so many connections at a time, at least one.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients.max(1);
        self
    }

    /// With so many seconds for a client that does nothing, at least one.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds.max(1);
        self
    }
}
