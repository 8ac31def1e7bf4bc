//! From a root to the live region, through the front door of the host crate.

use core::time::Duration;
use std::thread::sleep;

use vgpu_perception::abi::HEARTBEAT_PERIOD_MS;
use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::scan::{Candidate, ScanStats};
use vgpu_perception::{AddressSpace, Gpa, PhysRead};
use vgpu_perception_host::{Guest, Survey};

use crate::Result;

/// A candidate of this crate's guests.
pub type Place = Candidate<GuestPaging>;

/// A region of this crate's guests.
pub type Region = vgpu_perception::Region<GuestPaging>;

/// Where the RAM of this crate's guests ends at the latest.
const END: Gpa = Gpa::new(8 << 30);

/// What a scan found.
#[derive(Debug)]
pub struct Found<M> {
    survey: Survey<M>,
}

impl<M: PhysRead> Found<M> {
    /// Every candidate.
    #[must_use]
    pub fn candidates(&self) -> Vec<Place> {
        self.survey.candidates().iter().map(|sighting| sighting.candidate).collect()
    }

    /// What was looked at.
    #[must_use]
    pub const fn stats(&self) -> &ScanStats {
        self.survey.stats()
    }

    /// The candidates whose heart beats; waits for that.
    ///
    /// # Errors
    /// None after the wait.
    pub fn alive(&mut self) -> Result<Vec<Place>> {
        wait_for_a_beat();
        Ok(self.survey.confirm()?.iter().map(|live| *live.candidate()).collect())
    }
}

/// Scans the processes whose roots share the kernel half of `reference`.
///
/// # Errors
/// What the memory says.
pub fn scan<M: PhysRead>(ram: M, reference: &AddressSpace) -> Result<Found<M>> {
    let guest = Guest::over(ram, END).with_root(reference.root).with_mode(Some(reference.mode));
    Ok(Found { survey: guest.survey()? })
}

/// Scans with nothing known but the RAM.
///
/// # Errors
/// What the memory says.
pub fn scan_unknown<M: PhysRead>(ram: M) -> Result<Found<M>> {
    Ok(Found { survey: Guest::over(ram, END).survey()? })
}

/// Waits as long as a living producer may take for two beats, and longer: the guest is emulated on a shared machine.
pub fn wait_for_a_beat() {
    sleep(Duration::from_millis(4 * u64::from(HEARTBEAT_PERIOD_MS)));
}

/// Scans until exactly one region lives, and returns its handle; each try from a new scan.
///
/// # Errors
/// Where none, or more than one, lives after several tries.
pub fn attach<M: PhysRead + Copy>(ram: M, reference: &AddressSpace) -> Result<(Region, Place, Found<M>)> {
    let mut last = 0;
    for _ in 0..5 {
        let mut found = scan(ram, reference)?;
        let living = found.alive()?;
        if let [one] = living[..] {
            return Ok((one.region(), one, found));
        }
        last = living.len();
    }
    Err(format!("{last} regions live, not one").into())
}
