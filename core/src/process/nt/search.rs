//! A kernel in a guest of which nothing is known but its RAM.

use super::attach::Attempt;
use super::error::NtError;
use super::kernel::{NtKernel, RootOrigin};
use super::self_map::SelfMapped;
use super::start_block::StartBlocks;
use crate::addr::Cr3;
use crate::budget::Budget;
use crate::paging::PagingMode;
use crate::phys::{PhysError, PhysRead};
use crate::process::roots::{RootCandidate, RootElection, RootGroups};
use crate::process::{ProcessSource, Step};

/// Roots of one kind that are followed to the end.
const ATTEMPTS: u32 = 16;
/// Loads for the start blocks of low memory.
const BLOCKS: u64 = 1 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    StartBlocks,
    SelfMaps,
    Roots,
    End,
}

/// Looks for a Windows kernel: by the processor start block in low memory; then by top tables that name themselves, first the
/// lowest, in all of RAM; then by the roots that share a kernel half. What is found says by which of them.
///
/// # Bound
/// 256 pages of low memory; two passes over the pages of RAM that hold data, the first of one line a page; and for at most 16
/// roots of each kind that have the page shared with user mode what [`NtKernel::attach`] reads. A step
/// overdraws its budget by [`Budget::PIECE`] loads at most, in whatever garbage.
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
    tables: SelfMapped,
    roots: RootElection<'s>,
    best: Option<NtError>,
}

impl<'s> KernelSearch<'s> {
    /// A search; `mode` is the depth of the tables where it is known, `scratch` has [`RootElection::CANDIDATES`] places.
    #[must_use]
    pub fn new(mode: Option<PagingMode>, scratch: &'s mut [RootCandidate]) -> Self {
        Self {
            mode,
            stage: Stage::StartBlocks,
            attempt: None,
            attempts: 0,
            blocks: StartBlocks::new(),
            tables: SelfMapped::new(),
            roots: RootElection::new(mode, scratch),
            best: None,
        }
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
                        self.stage = Stage::End;
                        return Ok(Step::Found(kernel));
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
            if self.attempts >= ATTEMPTS {
                self.next_stage();
            }
            match self.stage {
                Stage::End => return Ok(Step::Done),
                Stage::StartBlocks => match self.blocks.next(mem) {
                    Some(block) => {
                        budget.spend(BLOCKS);
                        let mode = self.mode.or(block.mode);
                        self.attempt =
                            Some(Attempt::new(mem, block.root, mode, Some(block.code), RootOrigin::StartBlock));
                    }
                    None => self.next_stage(),
                },
                Stage::SelfMaps => match self.tables.next(mem, budget)? {
                    Step::Found(table) => self.follow(mem, Cr3::new(table.get()), RootOrigin::SelfMap),
                    Step::Pending => return Ok(Step::Pending),
                    Step::Done => self.next_stage(),
                },
                Stage::Roots => match self.roots.next_process(mem, budget)? {
                    Step::Found(process) => self.follow(mem, process.space.root, RootOrigin::Roots),
                    Step::Pending => return Ok(Step::Pending),
                    Step::Done => self.next_stage(),
                },
            }
        }
    }

    fn follow<M: PhysRead>(&mut self, mem: &M, root: Cr3, by: RootOrigin) {
        self.attempt = Some(Attempt::new(mem, root, self.mode, None, by));
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
