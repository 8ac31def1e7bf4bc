//! The kernel of any guest: a Windows kernel if there is one, otherwise the roots that share a kernel (upper) half.
//!
//! This gives callers one code path. A caller that knows what the guest runs can use [`nt`](super::nt) or
//! [`roots`](super::roots) directly.

use core::fmt;

use super::kernel_half::shares_kernel_half;
use super::linux::LinuxPaging;
use super::nt::{KernelAttach, KernelPulse, KernelSearch, NtError, NtKernel, NtPaging, ProcessList};
use super::roots::{GroupSource, KernelHalf, RootCandidate, RootElection, RootError, RootGroups, guess_mode};
use super::{Process, ProcessSource, Step};
use crate::addr::Cr3;
use crate::budget::Budget;
use crate::paging::{AddressSpace, ENTRIES, Hardware, NotPresentEntry, NotPresentResolver, PagingMode, Resolved};
use crate::phys::{PhysError, PhysRead};

/// What absent entries mean in a guest that may be Windows or Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestPaging {
    /// Nothing: the processor's view.
    #[default]
    Hardware,
    /// What Windows means by them.
    Nt(NtPaging),
    /// What Linux means by them.
    Linux,
}

impl NotPresentResolver for GuestPaging {
    // Linux's loads nothing.
    const LOADS: u64 = NtPaging::LOADS;
    type Lookup = <NtPaging as NotPresentResolver>::Lookup;

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        entry: &NotPresentEntry,
        lookup: &mut Self::Lookup,
        cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        match self {
            Self::Hardware => Hardware.resolve(mem, entry, &mut (), cost),
            Self::Nt(paging) => paging.resolve(mem, entry, lookup, cost),
            Self::Linux => LinuxPaging.resolve(mem, entry, &mut (), cost),
        }
    }
}

/// A kernel that was found. A plain value that may be kept: [`revalidate`](Self::revalidate) tells whether it still
/// runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKernel {
    /// Windows.
    Nt(NtKernel),
    /// Another, or none that is known by name: the roots that share the kernel half of one of these.
    Roots(RootGroups),
}

impl GuestKernel {
    /// The kernel that `root` leads to: Windows first, then any. `mode` is the depth of the tables where it is known.
    ///
    /// # Bound
    /// That of [`NtKernel::attach`], [`guess_mode`] and [`KernelHalf::check`]. A caller that cannot wait so long takes
    /// [`GuestAttach`].
    ///
    /// # Errors
    /// [`RootError`] where `root` cannot serve at all.
    pub fn attach<M: PhysRead>(mem: &M, root: Cr3, mode: Option<PagingMode>) -> Result<Self, RootError> {
        let mut attach = GuestAttach::new(root, mode);
        loop {
            if let Step::Found(kernel) = attach.step(mem, &mut Budget::unlimited())? {
                return Ok(kernel);
            }
        }
    }

    /// Whether this is still the kernel that runs, and whether its clock went on since it was found: a kernel of the
    /// boot before is whole in RAM, and its clock stands still.
    ///
    /// # Errors
    /// [`GoneError`] where it is not.
    pub fn revalidate<M: PhysRead>(&self, mem: &M) -> Result<KernelPulse, GoneError> {
        match self {
            Self::Nt(kernel) => kernel.revalidate(mem).map_err(GoneError::Nt),
            Self::Roots(groups) => Self::check(mem, groups),
        }
    }

    /// As [`revalidate`](Self::revalidate), and remembers what the clock says: the next look tells whether it went on
    /// since this one.
    ///
    /// # Errors
    /// [`GoneError`] where this is not the kernel any more.
    pub fn look_again<M: PhysRead>(&mut self, mem: &M) -> Result<KernelPulse, GoneError> {
        match self {
            Self::Nt(kernel) => kernel.look_again(mem).map_err(GoneError::Nt),
            Self::Roots(groups) => Self::check(mem, groups),
        }
    }

    /// Whether the root that any group is measured by still reads like one.
    fn check<M: PhysRead>(mem: &M, groups: &RootGroups) -> Result<KernelPulse, GoneError> {
        let mut why = Err(RootError::NoKernelHalf { root: Cr3::new(0) });
        for space in groups.references() {
            why = KernelHalf::check(mem, &space);
            if why.is_ok() {
                break;
            }
        }
        why.map(|()| KernelPulse::Unknown).map_err(GoneError::Roots)
    }

    /// The kernel's own address space; of several groups, the best one's.
    #[must_use]
    pub fn space(&self) -> AddressSpace<GuestPaging> {
        match self {
            Self::Nt(kernel) => {
                let space = kernel.space();
                let paging = GuestPaging::Nt(space.resolver);
                space.with_resolver(paging)
            }
            Self::Roots(groups) => {
                groups.best().unwrap_or(AddressSpace::new(Cr3::new(0))).with_resolver(paging_of(groups))
            }
        }
    }

    /// Loads of [`shares_half_with`](Self::shares_half_with) at most.
    pub(crate) const HALVES: u64 = super::kernel_half::COMPARISON.wrapping_mul(RootGroups::MOST as u64);

    /// Whether `other` is one of its roots, or shares the kernel half of one.
    ///
    /// # Bound
    /// 768 loads for each of its groups; none for Windows.
    #[must_use]
    pub(crate) fn shares_half_with<M: PhysRead>(&self, mem: &M, other: &AddressSpace<GuestPaging>) -> bool {
        match self {
            Self::Nt(kernel) => kernel.root.table() == other.root.table(),
            Self::Roots(groups) => groups.references().any(|reference| {
                reference.mode == other.mode
                    && shares_kernel_half(mem, reference.root.table(), other.root.table(), reference.phys_bits)
            }),
        }
    }

    /// The same, whose processes begin with those of the kernel that `root` belongs to: a heartbeat was seen to move
    /// there between two looks. Windows has one kernel.
    ///
    /// # Bound
    /// That of [`RootGroups::led_by`].
    #[must_use]
    pub fn led_by<M: PhysRead>(self, mem: &M, root: Cr3) -> Self {
        match self {
            Self::Nt(_) => self,
            Self::Roots(groups) => Self::Roots(groups.led_by(mem, root)),
        }
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> GuestProcesses {
        match self {
            Self::Nt(kernel) => GuestProcesses::Nt(kernel.processes()),
            Self::Roots(groups) => GuestProcesses::Roots(groups.processes()),
        }
    }
}

/// What entries without P mean in guests that are no Windows.
const fn paging_of(groups: &RootGroups) -> GuestPaging {
    if groups.is_linux() { GuestPaging::Linux } else { GuestPaging::Hardware }
}

/// The processes of a [`GuestKernel`]; bounded as the source that it is.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a scan, and it must not allocate")]
pub enum GuestProcesses {
    /// Those that Windows lists.
    Nt(ProcessList),
    /// Those whose roots share a kernel half.
    Roots(GroupSource),
}

impl ProcessSource for GuestProcesses {
    type Resolver = GuestPaging;

    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<GuestPaging>>, PhysError> {
        Ok(match self {
            Self::Nt(source) => match source.next_process(mem, budget)? {
                Step::Found(process) => Step::Found(process.map_resolver(GuestPaging::Nt)),
                Step::Pending => Step::Pending,
                Step::Done => Step::Done,
            },
            Self::Roots(source) => match source.next_process(mem, budget)? {
                Step::Found(process) => {
                    let paging = paging_of(source.groups());
                    Step::Found(process.map_resolver(|Hardware| paging))
                }
                Step::Pending => Step::Pending,
                Step::Done => Step::Done,
            },
        })
    }

    fn left_out(&self) -> u64 {
        match self {
            Self::Nt(source) => source.left_out(),
            Self::Roots(source) => source.left_out(),
        }
    }
}

/// The processes of a kernel that a search has just found: those that the kernel leads to, or the roots that the search
/// came past, which take no other pass over RAM.
#[derive(Debug)]
pub enum FoundProcesses<'s> {
    /// Those of the kernel.
    Kernel(GuestProcesses),
    /// The roots that were collected.
    Collected(RootElection<'s>),
}

impl ProcessSource for FoundProcesses<'_> {
    type Resolver = GuestPaging;

    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<GuestPaging>>, PhysError> {
        match self {
            Self::Kernel(source) => source.next_process(mem, budget),
            Self::Collected(roots) => Ok(match roots.next_process(mem, budget)? {
                Step::Found(process) => {
                    let paging = paging_of(roots.groups());
                    Step::Found(process.map_resolver(|Hardware| paging))
                }
                Step::Pending => Step::Pending,
                Step::Done => Step::Done,
            }),
        }
    }

    fn left_out(&self) -> u64 {
        match self {
            Self::Kernel(source) => source.left_out(),
            Self::Collected(roots) => roots.left_out(),
        }
    }
}

/// Looks for a kernel in a guest of which nothing is known: as [`KernelSearch`] does, and where there is no Windows, by
/// the roots that share one kernel half.
///
/// # Bound
/// That of [`KernelSearch`].
#[derive(Debug)]
pub struct GuestSearch<'s> {
    windows: KernelSearch<'s>,
    done: bool,
}

impl<'s> GuestSearch<'s> {
    /// A search; the arguments are those of [`KernelSearch::new`].
    #[must_use]
    pub fn new(mode: Option<PagingMode>, scratch: &'s mut [RootCandidate]) -> Self {
        Self { windows: KernelSearch::new(mode, scratch), done: false }
    }

    /// The same, which takes no Windows kernel: for a guest whose Windows was seen to stand still, and may be what the
    /// boot before left behind, while another system runs. Its roots are found among the others.
    #[must_use]
    pub fn without_windows(self) -> Self {
        Self { windows: self.windows.without_windows(), ..self }
    }

    /// Goes on without the Windows kernel that it has found.
    pub(crate) fn leave_windows(&mut self) {
        self.windows.leave_windows();
        self.done = false;
    }

    /// Goes on until the kernel is found, the budget is spent, or there is nothing more to try.
    ///
    /// # Errors
    /// [`PhysError`] where the backend cannot say what is RAM.
    pub fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<GuestKernel>, PhysError> {
        if self.done {
            return Ok(Step::Done);
        }
        let kernel = match self.windows.step(mem, budget)? {
            Step::Pending => return Ok(Step::Pending),
            Step::Found(kernel) => Some(GuestKernel::Nt(kernel)),
            Step::Done => Some(*self.windows.groups()).filter(|groups| !groups.is_empty()).map(GuestKernel::Roots),
        };
        self.done = true;
        Ok(kernel.map_or(Step::Done, Step::Found))
    }

    /// The processes of `kernel`, which this search has found: the roots that it came past, where these are what there
    /// is.
    #[must_use]
    pub fn into_processes(self, kernel: &GuestKernel) -> FoundProcesses<'s> {
        match kernel {
            GuestKernel::Nt(_) => FoundProcesses::Kernel(kernel.processes()),
            GuestKernel::Roots(_) => FoundProcesses::Collected(self.windows.into_roots()),
        }
    }

    /// Why the guest is not Windows, by the root that led furthest; `None` where no page read like a root.
    #[must_use]
    pub const fn not_windows(&self) -> Option<NtError> {
        self.windows.failure()
    }
}

/// The way from a root to the guest's kernel, in steps: what [`GuestKernel::attach`] does at once.
///
/// # Bound
/// In all that of [`GuestKernel::attach`]; a step overdraws its budget by [`Budget::PIECE`] loads at most.
#[derive(Clone, Copy, Debug)]
pub struct GuestAttach {
    root: Cr3,
    mode: Option<PagingMode>,
    windows: KernelAttach,
}

impl GuestAttach {
    /// The way from `root`, with tables of `mode` where that is known. Nothing is read yet.
    #[must_use]
    pub const fn new(root: Cr3, mode: Option<PagingMode>) -> Self {
        Self { root, mode, windows: KernelAttach::new(root, mode) }
    }

    /// Goes on until the kernel is found (`Found`) or the budget is spent (`Pending`).
    ///
    /// # Errors
    /// [`RootError`] where the root cannot serve at all.
    pub fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<GuestKernel>, RootError> {
        match self.windows.step(mem, budget) {
            Step::Found(kernel) => return Ok(Step::Found(GuestKernel::Nt(kernel))),
            Step::Pending => return Ok(Step::Pending),
            Step::Done => {}
        }
        budget.spend(RootGroups::WEIGHING.wrapping_add(ENTRIES));
        let guessed = guess_mode(mem, self.root);
        let space = AddressSpace::new(self.root).with_mode(self.mode.or(guessed).unwrap_or_default());
        KernelHalf::check(mem, &space)?;
        let groups = RootGroups::of(space);
        Ok(Step::Found(GuestKernel::Roots(if guessed.is_some() { groups.of_linux() } else { groups })))
    }

    /// Why the root leads to no Windows kernel, as far as it was followed; `None` before the first step.
    #[must_use]
    pub const fn not_windows(&self) -> Option<NtError> {
        self.windows.failure()
    }
}

/// Why a kernel that was kept is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoneError {
    /// Of a Windows kernel.
    Nt(NtError),
    /// Of a root.
    Roots(RootError),
}

impl fmt::Display for GoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nt(error) => error.fmt(f),
            Self::Roots(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for GoneError {}
