//! Is there a producer behind the bytes? Two readings of the heartbeat, with a wait between them that belongs to the
//! caller.

use super::{ReadError, Region, Sample, Skip, Snapshot, Try};
use crate::abi::producer;
use crate::addr::Gpa;
use crate::paging::NotPresentResolver;
use crate::phys::{PhysError, PhysRead};

/// A heartbeat and the session that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// The count.
    pub heartbeat: u64,
    /// The session.
    pub run_epoch: u32,
}

impl Pulse {
    /// What this pulse, read later, says about `before`.
    pub const fn since(self, before: Self) -> Liveness {
        let ahead = self.heartbeat.wrapping_sub(before.heartbeat);
        if self.run_epoch != before.run_epoch {
            Liveness::Restarted(self)
        } else if ahead != 0 && ahead < 1 << 63 {
            Liveness::Alive(self)
        } else {
            Liveness::Stale(self)
        }
    }
}

/// What two readings of the heartbeat say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "only `Alive` proves a producer"]
pub enum Liveness {
    /// It advanced under the same session: a producer is running.
    Alive(Pulse),
    /// It did not advance: dead, stopped, not a region, or the wait was shorter than
    /// [`HEARTBEAT_PERIOD_MS`](crate::abi::HEARTBEAT_PERIOD_MS).
    Stale(Pulse),
    /// Another session began meanwhile: nothing is proven, confirm again from this pulse.
    Restarted(Pulse),
    /// Sessions changed, or the page moved, during every try: nothing is proven.
    Unclear(Skip),
}

impl<R: NotPresentResolver> Region<R> {
    /// Reads the heartbeat together with the `run_epoch` that it belongs to.
    ///
    /// # Bound
    /// 8 tries of at most 8 loads and one walk each.
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn read_pulse<M: PhysRead>(&mut self, mem: &M) -> Result<Sample<Pulse>, ReadError> {
        self.attempt(mem, &mut Heartbeat)
    }

    /// Compares the heartbeat with an earlier one; the caller waited at least
    /// [`HEARTBEAT_PERIOD_MS`](crate::abi::HEARTBEAT_PERIOD_MS) in between.
    ///
    /// # Bound
    /// As [`read_pulse`](Self::read_pulse).
    ///
    /// # Errors
    /// [`ReadError`] where the producer page cannot be read.
    pub fn confirm_alive<M: PhysRead>(&mut self, mem: &M, before: Pulse) -> Result<Liveness, ReadError> {
        Ok(match self.read_pulse(mem)? {
            Sample::Fresh(now) => now.since(before),
            Sample::Skip(why) => Liveness::Unclear(why),
        })
    }
}

/// The heartbeat and its epoch.
struct Heartbeat;

impl Snapshot for Heartbeat {
    type Of = Pulse;

    #[inline(always)]
    fn take<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        region: &Region<R>,
        mem: &M,
        page: Gpa,
    ) -> Result<Try<Pulse>, ReadError> {
        pulse_once(mem, page).map_err(|error| ReadError::in_page(region.base, error))
    }
}

/// The epoch on both sides of the heartbeat: a session that breaks in between is seen.
#[inline(always)]
fn pulse_once<M: PhysRead>(mem: &M, page: Gpa) -> Result<Try<Pulse>, PhysError> {
    let run_epoch = mem.load_u32(page.wrapping_add(producer::RUN_EPOCH))?;
    mem.fence_acquire();
    let heartbeat = mem.load_u64(page.wrapping_add(producer::HEARTBEAT))?;
    mem.fence_acquire();
    let after = mem.load_u32(page.wrapping_add(producer::RUN_EPOCH))?;
    Ok(if after == run_epoch {
        Try::Fresh(Pulse { heartbeat, run_epoch })
    } else {
        Try::Again(Skip::Torn { seq: after })
    })
}
