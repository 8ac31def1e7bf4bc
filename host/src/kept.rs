//! A kernel that led to a living producer, kept for the next search.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception::PhysRead;
use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::process::nt::KernelPulse;

/// How long the clock of a kernel may stand still before another one is looked for: some sixty ticks. The guest may
/// just be paused; then the search is all that it costs.
const STANDS_STILL: Duration = Duration::from_secs(1);

/// A kernel that is kept, and when it was last seen to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) kernel: GuestKernel,
    seen: Instant,
}

impl Kept {
    /// A kernel that runs now.
    pub(crate) fn now(kernel: GuestKernel) -> Self {
        Self { kernel, seen: Instant::now() }
    }

    /// Whether it is still there, and runs as far as one can tell. A warm reboot leaves a kernel whole, but for its
    /// clock.
    pub(crate) fn runs<M: PhysRead>(&mut self, memory: &M) -> bool {
        match self.kernel.look_again(memory) {
            Err(_) => false,
            Ok(KernelPulse::Still) => self.seen.elapsed() < STANDS_STILL,
            Ok(KernelPulse::Moved | KernelPulse::Unknown) => {
                self.seen = Instant::now();
                true
            }
        }
    }
}
