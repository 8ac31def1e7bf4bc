//! The scan as the commands run it: with a progress bar, and with the wait of the liveness proof.

use core::time::Duration;
use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use vgpu_perception::paging::Hardware;
use vgpu_perception::process::roots::{Agreement, RootCandidate, SharedHalf, guess_mode};
use vgpu_perception::region::Liveness;
use vgpu_perception::scan::{Candidate, Discovery, ScanScratch, ScanStats};
use vgpu_perception::{AddressSpace, Budget, Gpa, PagingMode, Process, ProcessSource, Region, Step};
use vgpu_perception_mapped::{Change, ChangeProbe, GuestRam};

use crate::attach::Attached;
use crate::failure::Failure;

/// A candidate, and what became of its heartbeat.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) candidate: Candidate<Hardware>,
    pub(crate) region: Region,
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
    pub(crate) mode: PagingMode,
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
    let (candidates, stats, mode) = match guest.root {
        Some(root) => {
            let mode = guest.mode.or_else(|| guess_mode(ram, root)).unwrap_or_default();
            let reference = AddressSpace::new(root).with_mode(mode);
            SharedHalf::check(ram, &reference)
                .map_err(|error| Failure::Guest(format!("{error}; give another --cr3, or auto")))?;
            let (candidates, stats, _) = scan(ram, SharedHalf::new(reference))?;
            (candidates, stats, mode)
        }
        None => {
            let mut scratch = vec![RootCandidate::default(); Agreement::CANDIDATES];
            let (candidates, stats, source) = scan(ram, Agreement::new(guest.mode, &mut scratch))?;
            let Some(reference) = source.reference() else {
                return Err(Failure::Nothing(
                    "no page of this RAM reads like the top page table of a process; \
                     is it a 64-bit guest that has booted, and is the map right (--machine, --map)?"
                        .into(),
                ));
            };
            (candidates, stats, reference.mode)
        }
    };
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
    Ok(Search { seen, stats, mode, took, change })
}

type Scanned<S> = (Vec<Candidate<Hardware>>, ScanStats, S);

fn scan<S: ProcessSource<Absent = Hardware>>(ram: &GuestRam, source: S) -> Result<Scanned<S>, Failure> {
    let end = ram.map().segments().iter().map(|segment| segment.gpa.get() + segment.len).max().unwrap_or(0);
    let words = usize::try_from(ScanScratch::<Hardware>::frame_words(Gpa::new(end))).unwrap_or(usize::MAX);
    let mut processes = vec![Process::default(); ScanScratch::<Hardware>::PROCESSES];
    let mut frames = vec![0; words];
    let scratch = ScanScratch { processes: &mut processes, frames: &mut frames };
    let mut discovery = Discovery::new(source, scratch);
    let bar = progress_bar();
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
            progress.pass, stats.spaces, stats.tables, stats.frames, stats.candidates
        ));
        bar.tick();
    }
    bar.finish_and_clear();
    Ok((candidates, discovery.stats(), discovery.into_source()))
}

/// A spinner on a terminal, nothing elsewhere: how much there is to do shows only as it is done.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}
