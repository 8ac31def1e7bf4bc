//! What a `vmie_mem` is: guest memory, and what was learnt about the guest through it.

use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::process::roots::RootGroups;
use vgpu_perception::{AddressSpace, Cr3, PageWalker};

use crate::choice::Choice;
use crate::failure::Failure;
use crate::ffi::cells::Latest;
use crate::ffi::{Handle, Object};
use crate::kernel::{Paging, space_of_process};
use crate::ram::Ram;

/// A `vmie_mem`.
#[derive(Debug)]
pub(crate) struct Mem {
    ram: Ram,
    /// The kernel that the last `vmie_win32_open` found.
    kernel: Latest<GuestKernel>,
    pub(crate) choice: Latest<Choice>,
}

impl Object for Mem {
    const KIND: u8 = 1;
    const NAME: &'static str = "vmie_mem";
    const STORAGE: usize = 8192;
}

/// A handle on a [`Mem`].
pub(crate) type MemHandle = Handle<Mem>;

impl Mem {
    pub(crate) const fn new(ram: Ram) -> Self {
        // Until one is found: tables of four levels, and no list.
        let kernel = GuestKernel::Roots(RootGroups::of(AddressSpace::new(Cr3::new(0))));
        Self { ram, kernel: Latest::new(kernel), choice: Latest::new(Choice::NONE) }
    }

    pub(crate) const fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Remembers the guest's kernel.
    pub(crate) fn learn(&self, kernel: GuestKernel) {
        self.kernel.set(kernel);
    }

    /// The address space at `cr3`, as far as this guest is known.
    pub(crate) fn space(&self, cr3: u64) -> AddressSpace<Paging> {
        self.kernel.get().space().at_root(Cr3::new(cr3))
    }

    /// The address space of the process at `cr3`: where the guest lists its processes, with all that is known of it.
    pub(crate) fn process_space(&self, cr3: u64) -> AddressSpace<Paging> {
        let kernel = self.kernel.get();
        space_of_process(&self.ram, &kernel, Cr3::new(cr3), self.ram.bound()).unwrap_or_else(|| self.space(cr3))
    }

    pub(crate) fn walker(&self, cr3: u64) -> PageWalker<&Ram, Paging> {
        PageWalker::new(&self.ram, self.space(cr3))
    }

    /// Runs `work` so that a panic in it becomes a failure. Where the memory is a callback's, nothing is caught: what
    /// comes out of a callback is no panic, and goes on to the caller.
    pub(crate) fn caught<R>(&self, work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        #[cfg(feature = "std")]
        if let Ram::Mapped(_) = self.ram {
            return crate::ffi::caught(work);
        }
        work()
    }

    /// Runs a search: as [`caught`](Self::caught), and where it finds nothing because the callback failed, it says so.
    pub(crate) fn search<R>(&self, work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        let before = self.ram.failures();
        self.caught(work).map_err(|failure| self.ram.nothing_found(before, failure))
    }
}
