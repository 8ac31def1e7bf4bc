//! The candidates of a guest, and which of them live.
//!
//! Any process of the guest can forge candidates, as many as it likes. A survey holds a bounded number of them, some of
//! every process before many of one; what it does not hold is counted, and handed out behind.

use core::fmt;
use core::hash::BuildHasher;
use core::ops::ControlFlow;
use core::time::Duration;
use std::collections::HashSet;
use std::hash::RandomState;
use std::time::Instant;

use vgpu_perception::abi::HEARTBEAT_PERIOD_MS;
use vgpu_perception::find::{FindError, FindProgress, Finder, Rank, Verdict};
use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::process::nt::{KernelPulse, NtError};
use vgpu_perception::region::{Liveness, Pulse, ReadError};
use vgpu_perception::scan::{Candidate, ScanStats};
use vgpu_perception::{Gpa, PhysRead};

use crate::error::SurveyError;
use crate::guest::{Beginning, drive, workspace};
use crate::live::Live;
use crate::memory::Shared;

/// How many candidates a survey holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Candidates in all.
    pub candidates: usize,
    /// Candidates of one process.
    pub per_process: u32,
}

impl Default for Limits {
    /// 4096 candidates, at most 64 of one process.
    fn default() -> Self {
        Self { candidates: 4096, per_process: 64 }
    }
}

impl Limits {
    /// Limits of the caller's; at least one of each.
    #[must_use]
    pub fn new(candidates: usize, per_process: u32) -> Self {
        Self { candidates: candidates.max(1), per_process: per_process.max(1) }
    }
}

/// Which candidates a pass hands out. A process's first few come in round 0, its next few in round 1, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turn {
    round: u32,
    /// Candidates of the round that were handed out already.
    skip: u64,
}

/// A candidate, and what is known of its heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// The candidate.
    pub candidate: Candidate<GuestPaging>,
    /// What the last look at its heartbeat said; `None` before the first, and where it could not be read any more.
    pub liveness: Option<Liveness>,
    /// Why it could not be read any more.
    pub gone: Option<ReadError>,
    /// What the next reading is compared with.
    before: Pulse,
}

impl Sighting {
    /// Whether its producer was seen to live.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        matches!(self.liveness, Some(Liveness::Alive(_)))
    }

    /// Its rank by what is known.
    #[must_use]
    pub fn rank(&self) -> Rank {
        Rank::of(&self.candidate, self.verdict())
    }

    const fn verdict(&self) -> Verdict {
        match self.liveness {
            Some(Liveness::Alive(_)) => Verdict::Alive,
            Some(Liveness::Stale(_)) => Verdict::Stale,
            _ if self.gone.is_some() => Verdict::Stale,
            _ => Verdict::Unknown,
        }
    }
}

/// The candidates of a guest, best first, and which of them live: see [`Guest::survey`](crate::Guest::survey).
#[derive(Debug)]
pub struct Survey<M> {
    memory: Shared<M>,
    end: Gpa,
    limits: Limits,
    live: bool,
    kernel: GuestKernel,
    not_windows: Option<NtError>,
    stats: ScanStats,
    took: Duration,
    sightings: Vec<Sighting>,
    next: Option<Turn>,
    left: u64,
    /// When the last first reading was made.
    since: Instant,
    /// Whether a whole heartbeat period was waited for already.
    ripe: bool,
    /// Where a search begins that leaves Windows aside, once.
    otherwise: Option<Beginning>,
    hasher: RandomState,
}

/// What one pass over the guest gave.
struct Pass {
    held: Vec<Candidate<GuestPaging>>,
    /// Candidates behind those: of this round, and of later ones.
    here: u64,
    later: u64,
}

/// Counters of candidates by process. Two processes that share one take turns with each other; which do is drawn anew
/// for each survey, so that a guest cannot arrange it.
const COUNTERS: usize = 4096;

impl<M: PhysRead> Survey<M> {
    pub(crate) fn take(
        memory: Shared<M>,
        end: Gpa,
        limits: Limits,
        live: bool,
        begin: Beginning,
        progress: impl FnMut(FindProgress) -> ControlFlow<()>,
    ) -> Result<Self, SurveyError> {
        let started = Instant::now();
        let hasher = RandomState::new();
        let mut workspace = workspace(end);
        let mut finder = begin.finder(&mut workspace);
        let pass = pass(&mut finder, &memory, limits, Turn::default(), &hasher, progress)?;
        let Some(kernel) = finder.found_kernel().copied() else {
            return Err(SurveyError::Find(FindError::NoKernel));
        };
        let mut survey = Self {
            memory,
            end,
            limits,
            live,
            kernel,
            not_windows: finder.not_windows(),
            stats: finder.stats(),
            took: started.elapsed(),
            sightings: Vec::new(),
            next: None,
            left: 0,
            since: Instant::now(),
            ripe: !live,
            otherwise: begin.without_windows().filter(|_| live),
            hasher,
        };
        survey.hold(pass, Turn::default());
        Ok(survey)
    }

    /// The candidates that it holds, best first: each with its process, and what is known of its heartbeat.
    #[must_use]
    pub fn candidates(&self) -> &[Sighting] {
        &self.sightings
    }

    /// How many candidates the guest showed beyond those that were handed out: [`more`](Self::more) goes on with them.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The guest's kernel.
    #[must_use]
    pub const fn kernel(&self) -> &GuestKernel {
        &self.kernel
    }

    /// Why the guest is not Windows, where it is not.
    #[must_use]
    pub const fn not_windows(&self) -> Option<NtError> {
        self.not_windows
    }

    /// What was looked at.
    #[must_use]
    pub const fn stats(&self) -> &ScanStats {
        &self.stats
    }

    /// How long the search took, that for the kernel included.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.took
    }

    /// The memory in which the candidates were found.
    #[must_use]
    pub const fn memory(&self) -> &Shared<M> {
        &self.memory
    }

    /// How long the caller still has to wait before [`confirm`](Self::confirm) can say that a producer does not live: a
    /// heartbeat period and a quarter from the first readings on. Nothing, where the memory stands still.
    #[must_use]
    pub fn wait(&self) -> Duration {
        if self.ripe { Duration::ZERO } else { PERIOD.saturating_sub(self.since.elapsed()) }
    }

    /// Reads every heartbeat again and gives the producers whose heartbeat moved, best first.
    ///
    /// It may be called again: a beat that came late still counts, and a producer is given again only if it has beaten
    /// again.
    ///
    /// # Errors
    /// [`TooEarly`] before [`wait`](Self::wait) is over. [`poll`](Self::poll) does not mind.
    pub fn confirm(&mut self) -> Result<Vec<Live<M>>, TooEarly> {
        let wait = self.wait();
        if !wait.is_zero() {
            return Err(TooEarly { wait });
        }
        self.ripe = true;
        Ok(self.poll())
    }

    /// As [`confirm`](Self::confirm), at any time: a heartbeat that moved is a proof however soon. Before
    /// [`wait`](Self::wait) is over, one that did not move says nothing.
    pub fn poll(&mut self) -> Vec<Live<M>> {
        let mut lives = Vec::new();
        for sighting in &mut self.sightings {
            let mut live = Live::new(self.memory.clone(), sighting.candidate);
            match live.reader_mut().confirm_alive(sighting.before) {
                Ok(liveness) => {
                    sighting.gone = None;
                    match liveness {
                        Liveness::Alive(pulse) => {
                            sighting.before = pulse;
                            sighting.liveness = Some(liveness);
                            lives.push(live.seen(pulse));
                        }
                        Liveness::Restarted(pulse) => {
                            sighting.before = pulse;
                            sighting.liveness = Some(liveness);
                        }
                        // A producer that lived a moment ago need not beat between two looks.
                        _ if sighting.is_alive() => {}
                        Liveness::Stale(_) if !self.ripe => {}
                        _ => sighting.liveness = Some(liveness),
                    }
                }
                Err(error) => {
                    sighting.liveness = None;
                    sighting.gone = Some(error);
                }
            }
        }
        self.sightings.sort_by_key(Sighting::rank);
        lives.sort_by_key(Live::rank);
        // Tables of the boot before can lead to the page of a producer that lives: its heart beats there too, but
        // hardly ever is its frame there.
        let pages: Vec<_> = lives.iter().map(|live| live.candidate().found.page).collect();
        lives.sort_by_cached_key(|live| {
            let page = live.candidate().found.page;
            pages.iter().filter(|other| **other == page).count() > 1 && !live.reaches_its_frame()
        });
        lives
    }

    /// The candidates that were not seen to live, best first.
    pub fn stale(&self) -> impl Iterator<Item = &Sighting> {
        self.sightings.iter().filter(|sighting| !sighting.is_alive())
    }

    /// A reader of a candidate, whatever its heartbeat says: for a guest that is paused, or a core file.
    #[must_use]
    pub fn open(&self, sighting: &Sighting) -> Live<M> {
        Live::new(self.memory.clone(), sighting.candidate)
    }

    /// Goes on behind the candidates that were handed out: holds the next ones in their place, with a first reading of
    /// each. False where there are no more.
    ///
    /// A Windows kernel can be what the boot before left behind, while another system runs. Where the kernel's clock
    /// stood still from the survey until now, [`wait`](Self::wait) is over and nobody was seen to live, this goes on
    /// with what the search finds without that kernel, once: [`kernel`](Self::kernel) is another then. (A guest that is
    /// paused looks the same, and is searched once more.) Where it finds nobody, the survey holds what it held.
    ///
    /// It is one pass over the guest's processes, as the survey was.
    ///
    /// # Errors
    /// [`SurveyError`]; the survey holds what it held.
    pub fn more(&mut self) -> Result<bool, SurveyError> {
        self.more_with(|_| ControlFlow::Continue(()))
    }

    /// As [`more`](Self::more), and calls `each` with the progress every few milliseconds; it may break off.
    ///
    /// # Errors
    /// As [`more`](Self::more), and [`SurveyError::Cancelled`] where `each` broke off; the survey holds what it held.
    pub fn more_with(&mut self, each: impl FnMut(FindProgress) -> ControlFlow<()>) -> Result<bool, SurveyError> {
        let Some(turn) = self.next else { return self.without_windows(each) };
        let mut workspace = workspace(self.end);
        let mut finder = Finder::new(&mut workspace).kernel(self.kernel);
        let pass = pass(&mut finder, &self.memory, self.limits, turn, &self.hasher, each)?;
        self.stats = finder.stats();
        self.hold(pass, turn);
        Ok(!self.sightings.is_empty())
    }

    /// Searches again without the Windows kernel that led to nobody, if its clock stands still.
    fn without_windows(&mut self, each: impl FnMut(FindProgress) -> ControlFlow<()>) -> Result<bool, SurveyError> {
        let stands_still = || matches!(self.kernel.revalidate(&self.memory), Ok(KernelPulse::Still));
        if !self.wait().is_zero() || self.sightings.iter().any(Sighting::is_alive) || !stands_still() {
            return Ok(false);
        }
        let Some(begin) = self.otherwise.take() else { return Ok(false) };
        let mut workspace = workspace(self.end);
        let mut finder = begin.finder(&mut workspace);
        let turn = Turn::default();
        let pass = match pass(&mut finder, &self.memory, self.limits, turn, &self.hasher, each) {
            Err(SurveyError::Cancelled) => {
                // The once is not over: it was not the search that ended.
                self.otherwise = Some(begin);
                return Err(SurveyError::Cancelled);
            }
            Err(SurveyError::Find(FindError::NoKernel)) => return Ok(false),
            pass => pass?,
        };
        let Some(kernel) = finder.found_kernel().filter(|_| !pass.held.is_empty()) else { return Ok(false) };
        self.kernel = *kernel;
        self.not_windows = finder.not_windows();
        self.stats = finder.stats();
        self.hold(pass, turn);
        Ok(true)
    }

    fn hold(&mut self, pass: Pass, turn: Turn) {
        let Pass { held, here, later } = pass;
        self.left = here + later;
        self.next = if here > 0 {
            Some(Turn { skip: turn.skip + held.len() as u64, ..turn })
        } else if later > 0 {
            Some(Turn { round: turn.round + 1, skip: 0 })
        } else {
            None
        };
        self.sightings = held
            .into_iter()
            .map(|candidate| Sighting { candidate, liveness: None, gone: None, before: candidate.found.pulse })
            .collect();
        self.sightings.sort_by_key(Sighting::rank);
        self.since = Instant::now();
        self.ripe = !self.live;
    }
}

/// A heartbeat period and a quarter: a producer ticks at least once a period, and its guest has to run meanwhile.
const PERIOD: Duration = Duration::from_millis(HEARTBEAT_PERIOD_MS as u64 * 5 / 4);

fn pass<M: PhysRead>(
    finder: &mut Finder<'_>,
    memory: &Shared<M>,
    limits: Limits,
    turn: Turn,
    hasher: &RandomState,
    progress: impl FnMut(FindProgress) -> ControlFlow<()>,
) -> Result<Pass, SurveyError> {
    let mut counters = vec![0_u32; COUNTERS];
    let mut places = HashSet::new();
    let mut pass = Pass { held: Vec::new(), here: 0, later: 0 };
    let mut seen = 0_u64;
    let each = |candidate: Candidate<GuestPaging>| {
        let root = candidate.process.space.root.table();
        // The scan may report a place twice where there are very many.
        if places.contains(&(root, candidate.base)) {
            return;
        }
        let bucket = usize::try_from(hasher.hash_one(root) % COUNTERS as u64).unwrap_or(0);
        let Some(counter) = counters.get_mut(bucket) else { return };
        let round = *counter / limits.per_process.max(1);
        *counter = counter.saturating_add(1);
        if round > turn.round {
            pass.later += 1;
        } else if round == turn.round {
            seen += 1;
            if seen > turn.skip && pass.held.len() < limits.candidates.max(1) {
                places.insert((root, candidate.base));
                pass.held.push(candidate);
            } else if seen > turn.skip {
                pass.here += 1;
            }
        }
    };
    drive(finder, memory, each, progress)?;
    Ok(pass)
}

/// [`Survey::confirm`] was called before a producer had time to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooEarly {
    /// How long to wait before calling again.
    pub wait: Duration,
}

impl fmt::Display for TooEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a producer beats every {HEARTBEAT_PERIOD_MS} ms: wait {} ms more", self.wait.as_millis())
    }
}

impl core::error::Error for TooEarly {}
