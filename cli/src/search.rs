//! The scan as the commands run it: with a progress bar, and with the wait of the liveness proof.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::region::Liveness;
use vgpu_perception::scan::{Candidate, Discovery, ScanScratch, ScanStats};
use vgpu_perception::{Budget, Gpa, Process, Region, Step};
use vgpu_perception_mapped::{Change, ChangeProbe, GuestRam};

use crate::attach::Attached;
use crate::failure::Failure;
use crate::kernel::{self, Found};
use crate::progress::spinner;

/// A candidate, and what became of its heartbeat.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) candidate: Candidate<GuestPaging>,
    pub(crate) region: Region<GuestPaging>,
    pub(crate) liveness: Option<Liveness>,
}

impl Seen {
    pub(crate) const fn is_alive(&self) -> bool {
        matches!(self.liveness, Some(Liveness::Alive(_)))
    }
}

/// What a search found, the live ones first.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) seen: Vec<Seen>,
    pub(crate) stats: ScanStats,
    pub(crate) found: Found,
    /// The whole of it, the search for the kernel included.
    pub(crate) took: Duration,
    /// Set where nothing lives: whether the RAM changes at all.
    pub(crate) change: Option<Change>,
}

/// Steps of work between two looks at the clock.
const BUDGET: u64 = 1 << 18;

/// Finds all candidates and reads each heartbeat twice, `wait` apart.
pub(crate) fn search(guest: &Attached, wait: Duration) -> Result<Search, Failure> {
    let started = Instant::now();
    let ram = &guest.ram;
    let found = kernel::find(guest)?;
    let (candidates, stats) = scan(ram, &found)?;
    let took = started.elapsed();
    let probe = ChangeProbe::new(ram, 4096)?;
    let mut seen: Vec<_> = candidates
        .into_iter()
        .map(|candidate| Seen { region: candidate.region(), candidate, liveness: None })
        .collect();
    std::thread::sleep(wait);
    for one in &mut seen {
        // A region that is gone by now has no liveness.
        one.liveness = one.region.confirm_alive(ram, one.candidate.found.pulse).ok();
    }
    seen.sort_by_key(|one| (!one.is_alive(), one.candidate.process.space.root, one.candidate.base));
    let change = if seen.iter().any(Seen::is_alive) { None } else { Some(probe.compare(ram)?) };
    Ok(Search { seen, stats, found, took, change })
}

fn scan(ram: &GuestRam, found: &Found) -> Result<(Vec<Candidate<GuestPaging>>, ScanStats), Failure> {
    let end = ram.map().segments().iter().map(|segment| segment.gpa.get() + segment.len).max().unwrap_or(0);
    let words = usize::try_from(ScanScratch::<GuestPaging>::page_bitmap_words(Gpa::new(end))).unwrap_or(usize::MAX);
    let mut processes = vec![Process::default(); ScanScratch::<GuestPaging>::PROCESSES];
    let mut frames = vec![0; words];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut discovery = Discovery::new(found.kernel.processes(), scratch);
    let bar = spinner();
    let mut candidates = Vec::new();
    loop {
        let mut budget = Budget::new(BUDGET);
        match discovery.step(ram, &mut budget)? {
            Step::Found(candidate) => candidates.push(candidate),
            Step::Pending => {}
            Step::Done => break,
        }
        let progress = discovery.progress();
        let stats = discovery.stats();
        bar.set_message(format!(
            "pass {}: {} spaces, {} tables, {} frames read, {} candidates",
            progress.pass, stats.spaces, stats.tables, stats.pages, stats.candidates
        ));
    }
    bar.finish_and_clear();
    Ok((candidates, discovery.stats()))
}
