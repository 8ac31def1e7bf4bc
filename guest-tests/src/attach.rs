//! From a root to the live region, as an embedder does it.

use core::time::Duration;
use std::thread::sleep;

use vgpu_perception::abi::HEARTBEAT_PERIOD_MS;
use vgpu_perception::paging::Hardware;
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection};
use vgpu_perception::region::{Liveness, Sample};
use vgpu_perception::scan::{Candidate, ScanScratch, ScanStats};
use vgpu_perception::{AddressSpace, Budget, Discovery, PhysRead, Process, ProcessSource, Region, Step};

use crate::Result;

/// A candidate of this crate's guests.
pub type Place = Candidate<Hardware>;

/// What a scan found.
#[derive(Debug)]
pub struct Found {
    /// Every candidate.
    pub candidates: Vec<Place>,
    /// What was looked at.
    pub stats: ScanStats,
}

/// Scans the processes whose roots share the kernel half of `reference`.
///
/// # Errors
/// What the memory says.
pub fn scan(ram: &impl PhysRead, reference: &AddressSpace) -> Result<Found> {
    scan_all(ram, KernelHalf::new(*reference))
}

/// Scans with nothing known but the RAM.
///
/// # Errors
/// What the memory says.
pub fn scan_unknown(ram: &impl PhysRead) -> Result<Found> {
    let mut candidates = vec![RootCandidate::default(); RootElection::CANDIDATES];
    scan_all(ram, RootElection::new(None, &mut candidates))
}

fn scan_all<S: ProcessSource<Resolver = Hardware>>(ram: &impl PhysRead, source: S) -> Result<Found> {
    let mut processes = vec![Process::default(); ScanScratch::<Hardware>::PROCESSES];
    let mut frames = vec![0; (8 << 30) / 4096 / 64];
    let mut discovery = Discovery::new(source, ScanScratch { processes: &mut processes, page_bitmap: &mut frames });
    let mut found = Found { candidates: Vec::new(), stats: discovery.stats() };
    loop {
        match discovery.step(ram, &mut Budget::unlimited())? {
            Step::Found(candidate) => found.candidates.push(candidate),
            Step::Pending => {}
            Step::Done => break,
        }
    }
    found.stats = discovery.stats();
    Ok(found)
}

/// The candidates whose heart beats.
///
/// # Errors
/// None: a candidate that cannot be read any more is not alive.
pub fn alive(ram: &impl PhysRead, candidates: &[Place]) -> Vec<Place> {
    let pulses: Vec<_> = candidates
        .iter()
        .filter_map(|candidate| match candidate.region().read_pulse(ram) {
            Ok(Sample::Fresh(pulse)) => Some((*candidate, pulse)),
            Ok(Sample::Skip(_)) | Err(_) => None,
        })
        .collect();
    wait_for_a_beat();
    let beats =
        |candidate: &Place, before| matches!(candidate.region().confirm_alive(ram, before), Ok(Liveness::Alive(_)));
    pulses.into_iter().filter(|(candidate, before)| beats(candidate, *before)).map(|(candidate, _)| candidate).collect()
}

/// Waits as long as a living producer may take for two beats, and longer: the guest is emulated on a shared machine.
pub fn wait_for_a_beat() {
    sleep(Duration::from_millis(4 * u64::from(HEARTBEAT_PERIOD_MS)));
}

/// Scans until exactly one region lives, and returns its handle; each try from a new scan.
///
/// # Errors
/// Where none, or more than one, lives after several tries.
pub fn attach(ram: &impl PhysRead, reference: &AddressSpace) -> Result<(Region, Place, Found)> {
    let mut last = 0;
    for _ in 0..5 {
        let found = scan(ram, reference)?;
        let living = alive(ram, &found.candidates);
        if let [one] = living[..] {
            return Ok((one.region(), one, found));
        }
        last = living.len();
    }
    Err(format!("{last} regions live, not one").into())
}
