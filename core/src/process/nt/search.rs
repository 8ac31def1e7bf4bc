//! Finds a Windows kernel from the guest's RAM alone.

use heapless::Vec;

use super::attach::{Attempt, BEGINNING};
use super::error::NtError;
use super::kernel::{KernelPulse, NtKernel, RootOrigin};
use super::self_map::is_self_mapped;
use super::start_block::StartBlocks;
use crate::addr::{Cr3, Gpa};
use crate::budget::Budget;
use crate::paging::PagingMode;
use crate::phys::{PhysError, PhysRead};
use crate::process::kernel_half::shares_kernel_half;
use crate::process::roots::{RootCandidate, RootElection, RootGroups};
use crate::process::{ProcessSource, Step};

/// Roots of one kind that are followed to the end.
const ATTEMPTS: u32 = 16;
/// Kernels that are put aside: those of so many boots.
const ASIDE: usize = 4;
/// Loads after which the clock of a kernel that was put aside is looked at again, and what that costs for each.
const LOOK_AGAIN: u64 = 1 << 14;
const PULSE: u64 = 6;
/// Loads to see that a root has a self-reference and the page shared with user mode.
const FOLLOW: u64 = 320;
/// Loads to compare a table's kernel half with those of the kernels that were put aside.
const HALVES: u64 = 768 * ASIDE as u64;

/// Whether a kernel's clock went on since it was found, or there is none to tell by.
fn moves<M: PhysRead>(mem: &M, kernel: &NtKernel) -> bool {
    matches!(kernel.pulse(mem), Ok(KernelPulse::Moved | KernelPulse::Unknown))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    StartBlocks,
    SelfMaps,
    Roots,
    End,
}

/// Looks for a Windows kernel: by the processor start block in low memory; then by top tables that name themselves,
/// first the lowest, in all of RAM; then by the roots that share a kernel half. What is found says by which of them.
///
/// A warm reboot leaves the kernel of the boot before in RAM, whole. What tells them apart is what moves: a kernel
/// whose clock did not go on while it was looked at is put aside, and the search goes on until its clock moves, another
/// kernel's does, or there is no more RAM. Where nothing moves (a paused guest, a dump), the first that was found is
/// given then.
///
/// # Bound
/// 256 pages of low memory; one pass over the pages of RAM that hold data, which looks for both kinds of roots as
/// [`RootElection`] does, with 774 loads more for a page that could be one; and for at most 16 roots of each kind that
/// have the page shared with user mode what [`NtKernel::attach`] reads. A step overdraws its budget by
/// [`Budget::PIECE`] loads at most, in whatever garbage.
///
/// ```
/// use vgpu_perception::process::nt::{KernelSearch, NtKernel};
/// use vgpu_perception::process::roots::RootCandidate;
/// use vgpu_perception::{Budget, PhysError, PhysRead, Step};
/// fn windows(ram: &impl PhysRead, scratch: &mut [RootCandidate]) -> Result<Option<NtKernel>, PhysError> {
///     let mut search = KernelSearch::new(None, scratch);
///     loop {
///         match search.step(ram, &mut Budget::new(1 << 18))? {
///             Step::Found(kernel) => return Ok(Some(kernel)),
///             Step::Pending => {} // do something else
///             Step::Done => return Ok(None),
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct KernelSearch<'s> {
    mode: Option<PagingMode>,
    stage: Stage,
    attempt: Option<Attempt>,
    attempts: u32,
    blocks: StartBlocks,
    roots: RootElection<'s>,
    best: Option<NtError>,
    /// Whether roots are followed to a Windows kernel at all.
    follows: bool,
    /// Kernels whose clocks stood still while they were looked at, in the order in which they were found.
    aside: Vec<NtKernel, ASIDE>,
}

impl<'s> KernelSearch<'s> {
    /// A search; `mode` is the depth of the tables where it is known, `scratch` has [`RootElection::CANDIDATES`]
    /// places.
    #[must_use]
    pub fn new(mode: Option<PagingMode>, scratch: &'s mut [RootCandidate]) -> Self {
        Self {
            mode,
            stage: Stage::StartBlocks,
            attempt: None,
            attempts: 0,
            blocks: StartBlocks::new(),
            roots: RootElection::new(mode, scratch),
            best: None,
            follows: true,
            aside: Vec::new(),
        }
    }

    /// The same, which only collects the [`groups`](Self::groups) of roots and looks for no Windows kernel.
    pub(in crate::process) const fn without_windows(mut self) -> Self {
        self.stage = Stage::Roots;
        self.follows = false;
        self
    }

    /// Goes on without the Windows that was found, and only collects the groups: it takes no other pass over RAM, if
    /// that one came to its end.
    pub(in crate::process) fn leave_windows(&mut self) {
        self.aside.clear();
        self.attempt = None;
        self.follows = false;
        self.stage = Stage::Roots;
    }

    /// Why there is no kernel, by the root that led furthest; `None` where no page read like a root.
    #[must_use]
    pub const fn failure(&self) -> Option<NtError> {
        self.best
    }

    /// Where there is no Windows kernel: the groups of roots that this guest has.
    #[must_use]
    pub const fn groups(&self) -> &RootGroups {
        self.roots.groups()
    }

    /// Where there is no Windows kernel: the roots of these groups as a source, with no pass over RAM for those that
    /// were kept.
    #[must_use]
    pub fn into_roots(mut self) -> RootElection<'s> {
        self.roots.restart();
        self.roots
    }

    /// Goes on until the kernel is found, the budget is spent, or there is nothing more to try.
    ///
    /// # Errors
    /// [`PhysError`] where the backend cannot say what is RAM.
    pub fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<NtKernel>, PhysError> {
        loop {
            if let Some(attempt) = &mut self.attempt {
                match attempt.step(mem, budget) {
                    Step::Pending => return Ok(Step::Pending),
                    Step::Found(kernel) => {
                        self.attempt = None;
                        let known = self.aside.iter().any(|one| one.system == kernel.system && one.root == kernel.root);
                        if !known && self.aside.push(kernel).is_err() && moves(mem, &kernel) {
                            self.aside.clear();
                            self.stage = Stage::End;
                            return Ok(Step::Found(kernel));
                        }
                    }
                    Step::Done => {
                        let error = attempt.error;
                        if self.best.is_none_or(|best| error.progress() > best.progress()) {
                            self.best = Some(error);
                        }
                        // A page that only looks like a root costs little, so that decoys do not use up the attempts.
                        let counts = !matches!(error, NtError::NoSharedData { .. });
                        self.attempts = self.attempts.saturating_add(u32::from(counts));
                        self.attempt = None;
                    }
                }
            }
            budget.spend(PULSE.wrapping_mul(self.aside.len() as u64));
            let at_the_end = matches!(self.stage, Stage::Roots | Stage::End);
            let moving = self.aside.iter().find(|kernel| moves(mem, kernel)).copied();
            if let Some(kernel) = moving.or(self.aside.first().copied().filter(|_| at_the_end)) {
                self.aside.clear();
                self.stage = Stage::End;
                return Ok(Step::Found(kernel));
            }
            if self.attempts >= ATTEMPTS {
                self.next_stage();
            }
            match self.stage {
                Stage::End => return Ok(Step::Done),
                Stage::StartBlocks => match self.blocks.next(mem, budget) {
                    Some(block) => {
                        budget.spend(BEGINNING);
                        let mode = self.mode.or(block.mode);
                        self.attempt =
                            Some(Attempt::new(mem, block.root, mode, Some(block.code), RootOrigin::StartBlock));
                    }
                    None => self.next_stage(),
                },
                Stage::SelfMaps => match self.next_table(mem, budget)? {
                    Step::Found(table) => {
                        budget.spend(FOLLOW);
                        self.follow(mem, Cr3::new(table.get()), RootOrigin::SelfMap);
                    }
                    Step::Pending if budget.is_spent() => return Ok(Step::Pending),
                    Step::Pending => {}
                    Step::Done => self.next_stage(),
                },
                Stage::Roots => match self.roots.next_process(mem, budget)? {
                    Step::Found(_) if !self.follows => self.next_stage(),
                    Step::Found(process) => {
                        budget.spend(FOLLOW);
                        self.follow(mem, process.space.root, RootOrigin::Roots);
                    }
                    Step::Pending => return Ok(Step::Pending),
                    Step::Done => self.next_stage(),
                },
            }
        }
    }

    fn follow<M: PhysRead>(&mut self, mem: &M, root: Cr3, by: RootOrigin) {
        self.attempt = Some(Attempt::new(mem, root, self.mode, None, by));
    }

    /// The next table that names itself; `Pending` now and then, so that the clock of a kernel that was put aside is
    /// seen to move.
    fn next_table<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<Gpa>, PhysError> {
        if self.aside.is_empty() {
            return self.next_self_map(mem, budget);
        }
        let mut piece = Budget::new(budget.left().min(LOOK_AGAIN));
        let step = self.next_self_map(mem, &mut piece)?;
        // All of it, what was overdrawn too.
        budget.spend(piece.spent());
        let Step::Found(table) = step else { return Ok(step) };
        budget.spend(HALVES);
        // Of the same kernel there are as many roots as there are processes.
        let same = self.aside.iter().any(|one| shares_kernel_half(mem, one.root.table(), table, 52));
        Ok(if same { Step::Pending } else { Step::Found(table) })
    }

    /// The next page of RAM that reads like a top table with one self-reference. The same pass collects the roots that
    /// are handed out where there is no Windows.
    fn next_self_map<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<Gpa>, PhysError> {
        loop {
            match self.roots.next_page(mem, budget)? {
                Step::Found((page, entry)) => {
                    self.roots.consider(mem, page, entry, budget);
                    if is_self_mapped(mem, page, entry, budget) {
                        return Ok(Step::Found(page));
                    }
                }
                Step::Pending => return Ok(Step::Pending),
                Step::Done => return Ok(Step::Done),
            }
        }
    }

    const fn next_stage(&mut self) {
        self.attempts = 0;
        self.stage = match self.stage {
            Stage::StartBlocks => Stage::SelfMaps,
            Stage::SelfMaps => Stage::Roots,
            Stage::Roots | Stage::End => Stage::End,
        };
    }
}
