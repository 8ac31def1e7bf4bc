//! The way from one root to a kernel: image, exported variable, layout.

use super::charged::Charged;
use super::error::NtError;
use super::find_image::ImageSearch;
use super::infer::{Inference, Inferred};
use super::kernel::{NtKernel, RootOrigin, may_swizzle};
use super::memory::{pointer, word};
use super::paging::KernelPaging;
use super::pe::{Exports, KernelImage};
use super::shared_data::{Version, interrupt_time, version};
use crate::addr::{Cr3, Gva};
use crate::budget::Budget;
use crate::paging::{AddressSpace, PageWalker, PagingMode};
use crate::phys::PhysRead;
use crate::process::Step;

/// The way from one root to a Windows kernel, in steps: what [`NtKernel::attach`] does at once.
///
/// # Bound
/// In all that of [`NtKernel::attach`]; a step overdraws its budget by [`Budget::PIECE`] loads at most.
#[derive(Clone, Copy, Debug)]
pub struct KernelAttach {
    root: Cr3,
    mode: Option<PagingMode>,
    attempt: Option<Attempt>,
}

impl KernelAttach {
    /// The way from `root`, with tables of `mode` where that is known. Nothing is read yet.
    #[must_use]
    pub const fn new(root: Cr3, mode: Option<PagingMode>) -> Self {
        Self { root, mode, attempt: None }
    }

    /// Goes on until the kernel is found or the budget is spent; `Done` where this root leads to none:
    /// [`failure`](Self::failure) says why.
    pub fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Step<NtKernel> {
        let (root, mode) = (self.root, self.mode);
        let attempt = self.attempt.get_or_insert_with(|| {
            budget.spend(BEGINNING);
            Attempt::new(mem, root, mode, None, RootOrigin::Given)
        });
        attempt.step(mem, budget)
    }

    /// What is in the way so far; `None` before the first step.
    #[must_use]
    pub const fn failure(&self) -> Option<NtError> {
        match &self.attempt {
            Some(attempt) => Some(attempt.error),
            None => None,
        }
    }
}

/// Loads with which a way begins: the shared page under two readings of the tables, and its clock.
pub(super) const BEGINNING: u64 = 64;

/// The exported variable that holds the address of the System process's object.
const INITIAL_SYSTEM_PROCESS: &str = "PsInitialSystemProcess";

/// What is done with an image that calls itself the kernel's.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one an attempt, and it must not allocate")]
enum Work {
    /// No image yet.
    Image,
    Export(Exports),
    Layout(KernelImage, Inference),
}

/// The way from one root to a kernel: resumable.
///
/// # Bound
/// A step overdraws its budget by [`Budget::PIECE`] loads at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    space: AddressSpace<KernelPaging>,
    version: Option<Version>,
    interrupt_time: Option<u64>,
    search: Option<ImageSearch>,
    work: Work,
    found: Cr3,
    origin: RootOrigin,
    /// What is known to be in the way.
    pub(super) error: NtError,
}

impl Attempt {
    /// The way from `root`; `code` is an address that may be in the image.
    pub(super) fn new<M: PhysRead>(
        mem: &M,
        root: Cr3,
        mode: Option<PagingMode>,
        code: Option<Gva>,
        origin: RootOrigin,
    ) -> Self {
        let space = AddressSpace::new(root).with_resolver(KernelPaging);
        let read = |mode| version(&PageWalker::new(mem, space.with_mode(mode)));
        // The shared page is found under one reading of the tables only, and so tells how deep they are.
        let modes = match mode {
            Some(mode) => [mode, mode],
            None => [PagingMode::FourLevel, PagingMode::FiveLevel],
        };
        let found = modes.into_iter().find_map(|mode| Some((mode, read(mode)?)));
        let (mode, version) = match found {
            Some((mode, version)) => (mode, Some(version)),
            None => (modes[0], None),
        };
        // The start block's word counts without the page as well.
        let go_on = version.is_some() || origin == RootOrigin::StartBlock;
        Self {
            space: space.with_mode(mode),
            version,
            interrupt_time: interrupt_time(&PageWalker::new(mem, space.with_mode(mode))),
            search: go_on.then(|| ImageSearch::new(code)),
            work: Work::Image,
            found: root,
            origin,
            error: if go_on { NtError::NoImage { root } } else { NtError::NoSharedData { root } },
        }
    }

    /// Goes on; `Done` where this root leads to no kernel, for the reason in `error`.
    pub(super) fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Step<NtKernel> {
        loop {
            let done = match &mut self.work {
                Work::Image => {
                    let Some(search) = &mut self.search else { return Step::Done };
                    match search.step(&PageWalker::new(mem, self.space), budget) {
                        Step::Pending => return Step::Pending,
                        Step::Done => {
                            self.search = None;
                            return Step::Done;
                        }
                        Step::Found(image) => {
                            self.work = Work::Export(Exports::new(image, INITIAL_SYSTEM_PROCESS.as_bytes()));
                            Ok(None)
                        }
                    }
                }
                Work::Export(exports) => {
                    if budget.is_spent() {
                        return Step::Pending;
                    }
                    let charged = Charged::new(mem, Budget::PIECE);
                    let walker = PageWalker::new(&charged, self.space);
                    let found = exports.step(&walker);
                    let image = exports.image();
                    let system = match found {
                        Step::Pending => Ok(None),
                        Step::Done | Step::Found(None) => {
                            Err(NtError::NoExport { image: image.base, name: INITIAL_SYSTEM_PROCESS })
                        }
                        Step::Found(Some(variable)) => word(&walker, variable)
                            .ok()
                            .and_then(|value| pointer(self.space.mode, value))
                            .map(Some)
                            .ok_or(NtError::NoSystem { variable }),
                    };
                    budget.spend(charged.spent().max(1));
                    system.map(|system| {
                        if let Some(system) = system {
                            let swizzle = may_swizzle(self.version);
                            self.work = Work::Layout(image, Inference::new(self.space, image, swizzle, system));
                        }
                        None
                    })
                }
                Work::Layout(image, inference) => match inference.step(mem, budget) {
                    Ok(Step::Pending) => return Step::Pending,
                    Ok(Step::Found(inferred)) => Ok(Some((*image, inference.system(), inferred))),
                    Ok(Step::Done) => Ok(None),
                    Err(error) => Err(error),
                },
            };
            match done {
                Ok(None) => {}
                Ok(Some((image, system, inferred))) => {
                    self.search = None;
                    self.work = Work::Image;
                    return Step::Found(self.kernel(image, system, inferred));
                }
                Err(error) => {
                    self.work = Work::Image;
                    if error.progress() >= self.error.progress() {
                        self.error = error;
                    }
                }
            }
        }
    }

    const fn kernel(&self, image: KernelImage, system: Gva, inferred: Inferred) -> NtKernel {
        let Inferred { layout, root } = inferred;
        NtKernel {
            root,
            mode: self.space.mode,
            found: self.found,
            origin: self.origin,
            image,
            system,
            version: self.version,
            interrupt_time: self.interrupt_time,
            layout,
        }
    }
}
