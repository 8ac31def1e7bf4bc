//! The search as one state machine: the kernel first, then every process that it leads to.

use core::fmt;

use super::workspace::{Parts, Workspace};
use crate::addr::Cr3;
use crate::budget::Budget;
use crate::paging::PagingMode;
use crate::phys::{PhysError, PhysRead};
use crate::process::guest::{FoundProcesses, GuestAttach, GuestKernel, GuestPaging, GuestSearch};
use crate::process::nt::{KernelPulse, NtError, NtKernel};
use crate::process::roots::{RootCandidate, RootError};
use crate::process::{Process, Step};
use crate::scan::{Candidate, Discovery, Progress, ScanScratch, ScanStats};

/// Finds candidates in a guest: its kernel, then each process, then each place that reads like a region.
///
/// Without further words it finds the kernel by itself. [`root`](Self::root), [`hint`](Self::hint) and
/// [`kernel`](Self::kernel) save that search.
///
/// # Bound
/// That of [`GuestSearch`] and, where a root was given, of [`GuestAttach`]; then that of [`Discovery`]. A step
/// overdraws its budget by [`Budget::PIECE`] loads at most.
#[derive(Debug)]
pub struct Finder<'w> {
    start: Start,
    mode: Option<PagingMode>,
    windows: bool,
    stage: Stage<'w>,
    kernel: Option<GuestKernel>,
    not_windows: Option<NtError>,
}

/// Where the search for the kernel starts.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a search, and it must not allocate")]
enum Start {
    Nothing,
    Root(Cr3),
    Hint(Cr3),
    Kernel(GuestKernel),
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a search, and it must not allocate")]
enum Stage<'w> {
    /// Nothing was read yet.
    Ready(Parts<'w>),
    /// The root that was given, or hinted at, is followed.
    Attach {
        attach: GuestAttach,
        parts: Parts<'w>,
    },
    /// The kernel is looked for with nothing known, and `fallback` is what the hint led to.
    Search {
        search: GuestSearch<'w>,
        scan: ScanScratch<'w, GuestPaging>,
        fallback: Option<GuestKernel>,
    },
    Scan(Discovery<'w, FoundProcesses<'w>>),
    End(ScanStats),
}

/// What a search is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindPhase {
    /// It looks for the kernel.
    Kernel,
    /// It scans processes.
    Scan,
    /// It has ended.
    End,
}

/// How far a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FindProgress {
    /// What it is doing.
    pub phase: FindPhase,
    /// How far the scan is; all zeros before it.
    pub scan: Progress,
    /// What the scan has looked at so far.
    pub stats: ScanStats,
}

/// Why a search could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindError {
    /// Guest memory as a whole could not be read.
    Memory(PhysError),
    /// The page-table root that was given cannot serve.
    Root(RootError),
    /// No page of RAM reads like the top page table of a process.
    NoKernel,
}

impl From<PhysError> for FindError {
    fn from(error: PhysError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "{error}"),
            Self::Root(error) => write!(f, "{error}; give another page-table root (CR3), or none"),
            Self::NoKernel => f.write_str(
                "no page of this RAM reads like the top page table of a process; is it a 64-bit guest that has \
                 booted, and is the map of its RAM right?",
            ),
        }
    }
}

impl core::error::Error for FindError {}

/// Loads of a look at a clock, at most.
const WALK: u64 = 16;

/// Whether a Windows kernel is what the boot before left behind: its clock stood still all the while, and some
/// processor runs another system.
fn is_left_behind<M: PhysRead>(mem: &M, found: &NtKernel, hint: Option<&GuestKernel>) -> bool {
    matches!(hint, Some(GuestKernel::Roots(groups)) if groups.is_linux()) && found.pulse(mem) == Ok(KernelPulse::Still)
}

impl<'w> Finder<'w> {
    /// A search that works in `workspace` and knows nothing of the guest.
    #[must_use]
    pub fn new<A, B, C>(workspace: &'w mut Workspace<A, B, C>) -> Self
    where
        A: AsMut<[RootCandidate]>,
        B: AsMut<[Process<GuestPaging>]>,
        C: AsMut<[u64]>,
    {
        Self {
            start: Start::Nothing,
            mode: None,
            windows: true,
            stage: Stage::Ready(workspace.parts()),
            kernel: None,
            not_windows: None,
        }
    }

    /// Starts from a page-table root that is known to be one of the guest's. Where it cannot serve, the search fails.
    #[must_use]
    pub const fn root(mut self, root: Cr3) -> Self {
        self.start = Start::Root(root);
        self
    }

    /// Starts from a root that some processor had loaded. It is tried first; since it may be one of user mode alone,
    /// with hardly any kernel half, the search goes on without it where it does not lead to a Windows kernel. Where it
    /// leads to a Linux kernel's code, a Windows kernel whose clock stands still is not taken: the boot before left it.
    #[must_use]
    pub const fn hint(mut self, root: Cr3) -> Self {
        self.start = Start::Hint(root);
        self
    }

    /// Starts from a kernel that was found before. The caller has [revalidated](GuestKernel::revalidate) it.
    #[must_use]
    pub const fn kernel(mut self, kernel: GuestKernel) -> Self {
        self.start = Start::Kernel(kernel);
        self
    }

    /// Says how deep the guest's page tables are, where that is known.
    #[must_use]
    pub const fn mode(mut self, mode: Option<PagingMode>) -> Self {
        self.mode = mode;
        self
    }

    /// Takes no Windows kernel that it comes across in RAM: see [`GuestSearch::without_windows`].
    #[must_use]
    pub const fn without_windows(mut self) -> Self {
        self.windows = false;
        self
    }

    /// The kernel, once it is found. It may be kept for the next search.
    #[must_use]
    pub const fn found_kernel(&self) -> Option<&GuestKernel> {
        self.kernel.as_ref()
    }

    /// Why the guest is not Windows, by the root that led furthest; `None` before the kernel is found, and where it is.
    #[must_use]
    pub const fn not_windows(&self) -> Option<NtError> {
        self.not_windows
    }

    /// The scan's source of processes, once there is one.
    #[must_use]
    pub const fn source(&self) -> Option<&FoundProcesses<'w>> {
        match &self.stage {
            Stage::Scan(scan) => Some(scan.source()),
            _ => None,
        }
    }

    /// What the scan has looked at so far.
    #[must_use]
    pub fn stats(&self) -> ScanStats {
        match &self.stage {
            Stage::Ready(_) | Stage::Attach { .. } | Stage::Search { .. } => ScanStats::default(),
            Stage::Scan(scan) => scan.stats(),
            Stage::End(stats) => *stats,
        }
    }

    /// How far the search is.
    #[must_use]
    pub fn progress(&self) -> FindProgress {
        let nothing = Progress { pass: 0, done: 0, total: 0 };
        let (phase, scan) = match &self.stage {
            Stage::Ready(_) | Stage::Attach { .. } | Stage::Search { .. } => (FindPhase::Kernel, nothing),
            Stage::Scan(scan) => (FindPhase::Scan, scan.progress()),
            Stage::End(_) => (FindPhase::End, nothing),
        };
        FindProgress { phase, scan, stats: self.stats() }
    }

    /// Goes on until the kernel is found, the budget is spent (`Ok(false)`), or there is none. For a caller that wants
    /// the kernel and its processes, and no scan.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_kernel<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<bool, FindError> {
        let stage = core::mem::replace(&mut self.stage, Stage::End(ScanStats::default()));
        self.stage = match stage {
            Stage::Ready(parts) => self.begin(parts),
            Stage::Attach { mut attach, parts } => {
                let step = attach.step(mem, budget);
                if let Ok(Step::Pending) = step {
                    Stage::Attach { attach, parts }
                } else {
                    self.not_windows = attach.not_windows();
                    self.attached(step, parts)?
                }
            }
            Stage::Search { mut search, scan, fallback } => {
                let step = match search.step(mem, budget) {
                    Ok(step) => step,
                    Err(error) => {
                        // A pass that failed may be tried again.
                        self.stage = Stage::Search { search, scan, fallback };
                        return Err(error.into());
                    }
                };
                match step {
                    Step::Pending => Stage::Search { search, scan, fallback },
                    Step::Found(GuestKernel::Nt(found)) if is_left_behind(mem, &found, fallback.as_ref()) => {
                        budget.spend(WALK);
                        search.leave_windows();
                        Stage::Search { search, scan, fallback }
                    }
                    Step::Found(kernel) => {
                        self.not_windows = self.not_windows.or(search.not_windows());
                        // The roots that the search came past take no other pass, if the hint is one of them.
                        budget.spend(GuestKernel::HALVES);
                        let other = fallback.filter(|hint| !kernel.shares_half_with(mem, &hint.space()));
                        match (kernel, other) {
                            (GuestKernel::Roots(_), Some(hint)) => self.scan(hint, scan),
                            _ => self.scan_of(kernel, search.into_processes(&kernel), scan),
                        }
                    }
                    Step::Done => match fallback {
                        Some(kernel) => self.scan(kernel, scan),
                        None => return Err(FindError::NoKernel),
                    },
                }
            }
            other => other,
        };
        Ok(self.kernel.is_some())
    }

    /// Goes on until there is a candidate, the budget is spent, or nothing is left.
    ///
    /// # Errors
    /// [`FindError`]. After [`FindError::Memory`] the search may go on where it was; after the others it has ended.
    pub fn step<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Candidate<GuestPaging>>, FindError> {
        loop {
            match &mut self.stage {
                Stage::End(_) => return Ok(Step::Done),
                Stage::Scan(scan) => match scan.step(mem, budget)? {
                    Step::Done => {
                        self.stage = Stage::End(scan.stats());
                        return Ok(Step::Done);
                    }
                    step => return Ok(step),
                },
                Stage::Ready(_) | Stage::Attach { .. } | Stage::Search { .. } => {
                    self.step_kernel(mem, budget)?;
                    if budget.is_spent() {
                        return Ok(Step::Pending);
                    }
                }
            }
        }
    }

    /// The first piece of work: what the caller knows decides which.
    fn begin(&mut self, parts: Parts<'w>) -> Stage<'w> {
        match self.start {
            Start::Kernel(kernel) => self.scan(kernel, parts.scan),
            Start::Root(root) | Start::Hint(root) => Stage::Attach { attach: GuestAttach::new(root, self.mode), parts },
            Start::Nothing => self.search(parts, None),
        }
    }

    /// What follows where a root led to a kernel, or to none.
    fn attached(
        &mut self,
        step: Result<Step<GuestKernel>, RootError>,
        parts: Parts<'w>,
    ) -> Result<Stage<'w>, FindError> {
        let is_hint = matches!(self.start, Start::Hint(_));
        Ok(match step {
            Ok(Step::Found(kernel @ GuestKernel::Nt(_))) => self.scan(kernel, parts.scan),
            Ok(Step::Found(kernel)) if !is_hint => self.scan(kernel, parts.scan),
            Ok(Step::Found(kernel)) => self.search(parts, Some(kernel)),
            Err(error) if !is_hint => return Err(FindError::Root(error)),
            Ok(_) | Err(_) => self.search(parts, None),
        })
    }

    fn search(&self, parts: Parts<'w>, fallback: Option<GuestKernel>) -> Stage<'w> {
        let Parts { roots, scan } = parts;
        let search = GuestSearch::new(self.mode, roots);
        let search = if self.windows { search } else { search.without_windows() };
        Stage::Search { search, scan, fallback }
    }

    fn scan(&mut self, kernel: GuestKernel, scratch: ScanScratch<'w, GuestPaging>) -> Stage<'w> {
        self.scan_of(kernel, FoundProcesses::Kernel(kernel.processes()), scratch)
    }

    fn scan_of(
        &mut self,
        kernel: GuestKernel,
        processes: FoundProcesses<'w>,
        scratch: ScanScratch<'w, GuestPaging>,
    ) -> Stage<'w> {
        if let GuestKernel::Nt(_) = kernel {
            self.not_windows = None;
        }
        self.kernel = Some(kernel);
        Stage::Scan(Discovery::new(processes, scratch))
    }
}
