//! Searches for regions: all at once, and in steps.

use vgpu_perception::process::guest::{GuestAttach, GuestKernel, GuestSearch};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::scan::{self, Candidate, Discovery, ScanScratch, ScanStats, probe};
use vgpu_perception::{Budget, Cr3, Process, Step};

use crate::choice::{Current, Round, place};
use crate::failure::{Failure, code};
use crate::ffi::cells::{Latest, Once, TryLock};
use crate::ffi::{Handle, Object, Scratch};
use crate::kernel::{Paging, Source, no_kernel};
use crate::memory::{Mem, MemHandle};
use crate::win32::Win32;

/// The words that the beginning of a search at a known root may read: [`Budget::PIECE`] more than these, 65536.
const FIRST: u64 = (1 << 16) - Budget::PIECE;

/// A `vgpux_scan`.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) mem: MemHandle,
    pub(crate) mem_id: u64,
    pub(crate) work: TryLock<Work>,
    pub(crate) progress: Latest<Progress>,
    /// Once it is found.
    pub(crate) kernel: Once<GuestKernel>,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) stats: ScanStats,
    /// Of the processes, once they are searched.
    pub(crate) scan: Option<scan::Progress>,
    pub(crate) ended: bool,
}

/// A search that is under way.
#[derive(Debug)]
pub(crate) struct Work {
    // Before the memory that it works in: fields are dropped in this order.
    stage: Stage,
    scratch: Scratch,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a search, and a build without a heap cannot box")]
enum Stage {
    /// From a root that is known.
    Attach(GuestAttach),
    Kernel(GuestSearch<'static>),
    Scan(Discovery<'static, Source>),
    End,
}

impl Object for Scan {
    const KIND: u8 = 4;
    const NAME: &'static str = "vgpux_scan";
    const STORAGE: usize = 8192;
}

/// A handle on a [`Scan`].
pub(crate) type ScanHandle = Handle<Scan>;

impl Work {
    /// The scan of a kernel's processes, in the scratch memory that is not used any more.
    fn scan(&mut self, kernel: &GuestKernel) {
        self.stage = Stage::End;
        let n = batch(self.scratch.len());
        let (processes, page_bitmap) = self.scratch.split_for_owner(n, Process::default(), 0_u64);
        self.stage = Stage::Scan(Discovery::new(kernel.processes(), ScanScratch { processes, page_bitmap }));
    }

    fn progress(&self) -> Progress {
        match &self.stage {
            Stage::Attach(_) | Stage::Kernel(_) => Progress { stats: ScanStats::default(), scan: None, ended: false },
            Stage::Scan(scan) => Progress { stats: scan.stats(), scan: Some(scan.progress()), ended: false },
            Stage::End => Progress { stats: ScanStats::default(), scan: None, ended: true },
        }
    }
}

impl Scan {
    /// A scan of a kernel that was found.
    pub(crate) fn new(win32: &Win32, scratch: Scratch) -> Self {
        let mut work = Work { stage: Stage::End, scratch };
        work.scan(&win32.kernel);
        Self::over(win32.mem(), Some(win32.kernel), work)
    }

    /// A search that begins with the kernel: at `kcr3`, or where that is 0 with nothing known.
    ///
    /// # Errors
    /// `kcr3` is seen not to serve within the first [`FIRST`] words.
    pub(crate) fn begin(id: u64, m: MemHandle, mem: &Mem, kcr3: u64, scratch: Scratch) -> Result<Self, Failure> {
        let mut work = Work { stage: Stage::End, scratch };
        if kcr3 == 0 {
            let (roots, _) = work.scratch.split_for_owner(RootElection::CANDIDATES, RootCandidate::default(), 0_u8);
            work.stage = Stage::Kernel(GuestSearch::new(None, roots));
            return Ok(Self::over((m, id), None, work));
        }
        // Nearly all roots that cannot serve are refused here, as any other wrong argument is.
        let mut attach = GuestAttach::new(Cr3::new(kcr3), None);
        let step = mem.caught(|| attach.step(mem.ram(), &mut Budget::new(FIRST)).map_err(Failure::read))?;
        let kernel = if let Step::Found(kernel) = step { Some(kernel) } else { None };
        match &kernel {
            Some(kernel) => {
                mem.learn(*kernel);
                work.scan(kernel);
            }
            None => work.stage = Stage::Attach(attach),
        }
        Ok(Self::over((m, id), kernel, work))
    }

    fn over((mem, mem_id): (MemHandle, u64), kernel: Option<GuestKernel>, work: Work) -> Self {
        let progress = Latest::new(work.progress());
        Self { mem, mem_id, work: TryLock::new(work), progress, kernel: Once::new(kernel) }
    }

    /// Goes on with a search.
    pub(crate) fn step(&self, mem: &Mem, budget: u64) -> Result<Step<Candidate<Paging>>, Failure> {
        // Another call goes on with this search: there is nothing to do for this one now.
        let Some(mut work) = self.work.take() else { return Ok(Step::Pending) };
        let stepped = mem.search(|| self.stepped(mem, &mut work, &mut Budget::new(budget)));
        let mut progress = work.progress();
        if progress.ended {
            progress.stats = self.progress.get().stats;
        }
        self.progress.set(progress);
        stepped
    }

    fn stepped(&self, mem: &Mem, work: &mut Work, budget: &mut Budget) -> Result<Step<Candidate<Paging>>, Failure> {
        loop {
            match &mut work.stage {
                Stage::Attach(attach) => match attach.step(mem.ram(), budget) {
                    Ok(Step::Found(kernel)) => {
                        mem.learn(kernel);
                        self.kernel.set(kernel);
                        work.scan(&kernel);
                    }
                    Ok(Step::Pending | Step::Done) => return Ok(Step::Pending),
                    Err(error) => {
                        work.stage = Stage::End;
                        return Err(Failure::read(error));
                    }
                },
                Stage::Kernel(search) => match search.step(mem.ram(), budget).map_err(Failure::read)? {
                    Step::Found(kernel) => {
                        mem.learn(kernel);
                        self.kernel.set(kernel);
                        work.scan(&kernel);
                    }
                    Step::Pending => return Ok(Step::Pending),
                    Step::Done => {
                        work.stage = Stage::End;
                        return Err(no_kernel());
                    }
                },
                Stage::Scan(scan) => return scan.step(mem.ram(), budget).map_err(Failure::read),
                Stage::End => return Ok(Step::Done),
            }
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
        }
    }
}

/// How many processes of a batch fit into a quarter of the scratch memory, within what guests have.
fn batch(scratch: usize) -> usize {
    const MOST: usize = ScanScratch::<Paging>::PROCESSES;
    (scratch / 4 / size_of::<Process<Paging>>()).clamp(1, MOST)
}

/// What `VGPUX_SCRATCH_BYTES(end)` computes.
#[cfg(feature = "std")]
pub(crate) fn scratch_bytes(end: u64) -> usize {
    usize::try_from(end / (8 * vgpu_perception::PAGE_BYTES)).unwrap_or(usize::MAX).saturating_add(256 << 10)
}

/// Calls `each` with every candidate.
///
/// # Errors
/// Also where the search came to the end of what one call may read; `each` was then called with what was found so far.
pub(crate) fn every(win32: &Win32, mem: &Mem, mut each: impl FnMut(&Candidate<Paging>)) -> Result<(), Failure> {
    let bound = mem.ram().bound();
    win32.with_scratch(|scratch| {
        mem.search(|| {
            let n = batch(scratch.len());
            let (processes, page_bitmap) = scratch.split(n, Process::default(), 0_u64);
            let mut discovery = Discovery::new(win32.kernel.processes(), ScanScratch { processes, page_bitmap });
            let mut budget = Budget::new(bound);
            loop {
                match discovery.step(mem.ram(), &mut budget).map_err(Failure::read)? {
                    Step::Found(candidate) => each(&candidate),
                    Step::Pending if budget.is_spent() => return Err(Failure::budget(bound)),
                    Step::Pending => {}
                    Step::Done => return Ok(()),
                }
            }
        })
    })
}

/// The candidate that a caller who takes one is given: whoever is current, as long as it is there, else whose turn it
/// is.
pub(crate) fn take(win32: &Win32, mem: &Mem) -> Result<Current, Failure> {
    let mut choice = mem.choice.get();
    if let Some(current) = choice.current {
        let at = place(&current.space, current.base);
        if let Ok(found) = probe(mem.ram(), &current.space, current.base) {
            mem.choice.update(|choice| choice.renewed(at, found.pulse));
            return Ok(current.with_pulse(found.pulse));
        }
        mem.choice.update(|choice| choice.passed_over(at));
        choice = mem.choice.get();
    }
    let mut round = Round::new(&choice);
    let before = mem.ram().failures();
    match every(win32, mem, |candidate| round.see(Current::of(candidate))) {
        // What was found within the bound has its turn.
        Err(failure) if failure.code == code::BUDGET && !round.is_empty() => {}
        searched => searched?,
    }
    let chosen = round.chosen().ok_or_else(|| {
        let text = format_args!("no process has a region: is the producer running?");
        mem.ram().nothing_found(before, Failure::new(code::NOT_FOUND, text))
    })?;
    // Another call may have chosen meanwhile: then that one is current.
    let mut current = chosen;
    mem.choice.update(|choice| match choice.current {
        Some(other) => {
            current = other;
            None
        }
        None => {
            current = chosen;
            Some(choice.taken(chosen))
        }
    });
    Ok(current)
}
