//! A Windows kernel that was found, and the check whether it still runs.

use super::attach::KernelAttach;
use super::eprocess::Object;
use super::error::NtError;
use super::layout::{FieldName, Layout};
use super::list::ProcessList;
use super::memory::{pointer, word};
use super::paging::{KernelPaging, NtPaging};
use super::pe::KernelImage;
use super::shared_data::{Version, interrupt_time};
use crate::addr::{Cr3, Gva};
use crate::budget::Budget;
use crate::paging::{AddressSpace, PageWalker, PagingMode};
use crate::phys::PhysRead;
use crate::process::Step;

/// The first build whose absent entries can be swizzled.
const SWIZZLING_BUILD: u32 = 17763;

/// How the first root of a kernel was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootOrigin {
    /// The caller gave it.
    Given,
    /// The processor start block in low memory names it.
    StartBlock,
    /// A page of RAM reads like a top table that names itself.
    SelfMap,
    /// The largest set of pages that share a kernel half has it.
    Roots,
}

impl core::fmt::Display for RootOrigin {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Given => "the root that was given",
            Self::StartBlock => "the processor start block",
            Self::SelfMap => "a top table that names itself",
            Self::Roots => "the roots that share one kernel half",
        })
    }
}

/// A Windows kernel in a guest: where its processes are, and how their objects are laid out. A plain value of a few
/// hundred bytes; it holds addresses and offsets, no content of guest memory and no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NtKernel {
    /// The System process's own tables: `kcr3`.
    pub root: Cr3,
    /// Levels of the tables.
    pub mode: PagingMode,
    /// The root that led here; it can be another process's, or the loader's.
    pub found: Cr3,
    /// How that was found.
    pub origin: RootOrigin,
    /// The kernel's image.
    pub image: KernelImage,
    /// The System process's object.
    pub system: Gva,
    /// Which Windows it says it is. Nothing but the reading of swizzled entries depends on it.
    pub version: Option<Version>,
    /// The time since the kernel's start when it was found, or looked at last, in units of 100 ns; `None` where it
    /// could not be read. A
    /// kernel of the boot before, whose memory is still there, has a clock that stands still.
    pub interrupt_time: Option<u64>,
    /// The layout of process objects.
    pub layout: Layout,
}

/// Whether the clock of a kernel went on since it was found, or looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelPulse {
    /// It did: the kernel runs.
    Moved,
    /// It did not: the guest is paused, the look came within a tick (15.6 ms) of the other, or the kernel is what a
    /// reboot left behind. A running guest whose kernel stands still for a second has another one: search anew.
    Still,
    /// There is no clock to read.
    Unknown,
}

impl NtKernel {
    /// The kernel that `root` maps: the System process's root, any other process's, or a loader's that maps the same
    /// kernel half. `mode` is the depth of the tables where it is known.
    ///
    /// # Bound
    /// At most 2^25 loads to find an image, and one inference of the layout for each image that calls itself the
    /// kernel's; some 140,000 in all where the guest is what it should be. A caller that cannot wait so long takes
    /// [`KernelAttach`].
    ///
    /// # Errors
    /// The [`NtError`] of the way that led furthest.
    pub fn attach<M: PhysRead>(mem: &M, root: Cr3, mode: Option<PagingMode>) -> Result<Self, NtError> {
        let mut attach = KernelAttach::new(root, mode);
        loop {
            match attach.step(mem, &mut Budget::unlimited()) {
                Step::Found(kernel) => return Ok(kernel),
                Step::Pending => {}
                Step::Done => return Err(attach.failure().unwrap_or(NtError::NoSharedData { root })),
            }
        }
    }

    /// Whether this is still the kernel that runs: its System process is where it was, under the same root, and leads
    /// to the list, and its clock did not go back. What the pulse says is the caller's to weigh against the time that
    /// went by. Cheap enough for every use of a kernel that was kept.
    ///
    /// # Bound
    /// One object of 3072 bytes and three walks.
    ///
    /// # Errors
    /// [`NtError`] where it is not.
    pub fn revalidate<M: PhysRead>(&self, mem: &M) -> Result<KernelPulse, NtError> {
        self.check(mem)?;
        self.pulse(mem)
    }

    /// Whether the clock went on since the kernel was found. The caller waits a tick or more in between.
    ///
    /// # Bound
    /// One walk.
    ///
    /// # Errors
    /// [`NtError::Earlier`] where the clock went back.
    pub fn pulse<M: PhysRead>(&self, mem: &M) -> Result<KernelPulse, NtError> {
        self.compare(self.clock(mem))
    }

    /// As [`revalidate`](Self::revalidate), and remembers what the clock says: the next look tells whether it went on
    /// since this one. For a kernel that is kept for long, and may be that of the boot before by now.
    ///
    /// # Bound
    /// That of [`revalidate`](Self::revalidate).
    ///
    /// # Errors
    /// [`NtError`] where it is not; what was remembered stays.
    pub fn look_again<M: PhysRead>(&mut self, mem: &M) -> Result<KernelPulse, NtError> {
        self.check(mem)?;
        let now = self.clock(mem);
        let pulse = self.compare(now)?;
        self.interrupt_time = now.or(self.interrupt_time);
        Ok(pulse)
    }

    fn clock<M: PhysRead>(&self, mem: &M) -> Option<u64> {
        interrupt_time(&PageWalker::new(mem, self.kernel_space()))
    }

    const fn compare(&self, now: Option<u64>) -> Result<KernelPulse, NtError> {
        match (self.interrupt_time, now) {
            (Some(before), Some(now)) if now < before => Err(NtError::Earlier { before, now }),
            (Some(before), Some(now)) if now == before => Ok(KernelPulse::Still),
            (Some(_), Some(_)) => Ok(KernelPulse::Moved),
            _ => Ok(KernelPulse::Unknown),
        }
    }

    /// That the System process is where it was.
    fn check<M: PhysRead>(&self, mem: &M) -> Result<(), NtError> {
        let walker = PageWalker::new(mem, self.kernel_space());
        let at = self.system;
        let object = Object::read(&walker, at).map_err(|error| NtError::System { at, error })?;
        if !object.is_process() || object.is_signaled() {
            return Err(NtError::NotAProcess { at });
        }
        if object.word(self.layout.pid.offset) != Some(4) {
            return Err(NtError::Changed { field: FieldName::UniqueProcessId });
        }
        if object.word(self.layout.table.offset) != Some(self.root.get()) {
            return Err(NtError::Changed { field: FieldName::DirectoryTableBase });
        }
        let node = at.wrapping_add(self.layout.links.offset.into());
        let next = object.word(self.layout.links.offset).and_then(|next| pointer(self.mode, next));
        match next.map(|next| word(&walker, next.wrapping_add(8))) {
            Some(Ok(back)) if back == node.get() => Ok(()),
            _ => Err(NtError::Changed { field: FieldName::ActiveProcessLinks }),
        }
    }

    /// The live processes: a [`ProcessSource`](crate::ProcessSource).
    #[must_use]
    pub const fn processes(&self) -> ProcessList {
        ProcessList::new(*self)
    }

    /// The System process's address space.
    #[must_use]
    pub fn space(&self) -> AddressSpace<NtPaging> {
        self.kernel_space().with_resolver(self.paging())
    }

    pub(super) fn paging(&self) -> NtPaging {
        NtPaging::new(&self.kernel_space(), may_swizzle(self.version))
    }

    pub(super) fn kernel_space(&self) -> AddressSpace<KernelPaging> {
        AddressSpace::new(self.root).with_mode(self.mode).with_resolver(KernelPaging)
    }
}

pub(super) fn may_swizzle(version: Option<Version>) -> bool {
    // Where nothing says how old it is, the entry has to be readable in one way only.
    version.is_none_or(|version| version.build.is_some_and(|build| build >= SWIZZLING_BUILD))
}
