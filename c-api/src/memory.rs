//! What a `vmie_mem` is: guest memory of one kind or another, and what was learnt about the guest through it.

#[cfg(feature = "std")]
use vgpu_perception_mapped::GuestRam;

use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::{
    AddressSpace, CopyHint, Cr3, Extent, Gpa, Gva, Line, PageKind, PageWalker, PhysError, PhysRead, PhysRun, Window,
};

use crate::choice::Seen;
use crate::ffi::{Handle, Object, Spin};
use crate::kernel::{Paging, space_of_process};
use crate::reader::Reader;

/// A `vmie_mem`.
#[derive(Debug)]
pub(crate) struct Mem {
    ram: Ram,
    facts: Spin<Facts>,
}

impl Object for Mem {
    const MAGIC: u64 = u64::from_le_bytes(*b"vmie_mem");
    const NAME: &'static str = "vmie_mem";
    const STORAGE: usize = 4096;
}

/// What later calls know about the guest.
#[derive(Debug)]
struct Facts {
    /// The kernel that the last `vmie_win32_open` found.
    kernel: GuestKernel,
    seen: Seen,
}

impl Mem {
    pub(crate) const fn new(ram: Ram) -> Self {
        // Until one is found: tables of four levels, and no list.
        let kernel = GuestKernel::Roots(AddressSpace::new(Cr3::new(0)));
        Self { ram, facts: Spin::new(Facts { kernel, seen: Seen::new() }) }
    }

    pub(crate) const fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Remembers the guest's kernel.
    pub(crate) fn learn(&self, kernel: GuestKernel) {
        self.facts.with(|facts| facts.kernel = kernel);
    }

    /// The address space at `cr3`, as far as this guest is known.
    pub(crate) fn space(&self, cr3: u64) -> AddressSpace<Paging> {
        self.facts.with(|facts| facts.kernel.space()).at_root(Cr3::new(cr3))
    }

    /// The address space of the process at `cr3`: where the guest lists its processes, with all that is known of it.
    pub(crate) fn process_space(&self, cr3: u64) -> AddressSpace<Paging> {
        let kernel = self.facts.with(|facts| facts.kernel);
        space_of_process(&self.ram, &kernel, Cr3::new(cr3)).unwrap_or_else(|| self.space(cr3))
    }

    pub(crate) fn walker(&self, cr3: u64) -> PageWalker<&Ram, Paging> {
        PageWalker::new(&self.ram, self.space(cr3))
    }

    /// Asks or tells what is known about the liveness of candidates.
    pub(crate) fn seen<R>(&self, work: impl FnOnce(&mut Seen) -> R) -> R {
        self.facts.with(|facts| work(&mut facts.seen))
    }

    /// The key under which candidates are remembered.
    pub(crate) const fn place(cr3: u64, base: Gva) -> (Gpa, Gva) {
        (Cr3::new(cr3).table(), base)
    }
}

/// A handle on a [`Mem`].
pub(crate) type MemHandle = Handle<Mem>;

/// Where the bytes come from.
#[derive(Debug)]
#[cfg_attr(
    feature = "std",
    expect(clippy::large_enum_variant, reason = "there are few, and a build without a heap cannot box")
)]
pub(crate) enum Ram {
    #[cfg(feature = "std")]
    Mapped(Box<GuestRam>),
    Reader(Reader),
}

#[cfg(feature = "std")]
impl Ram {
    /// Where the highest RAM ends, whether it holds data yet or not.
    pub(crate) fn end(&self) -> Result<u64, PhysError> {
        match self {
            Self::Mapped(ram) => {
                let last = ram.map().segments().last();
                Ok(last.map_or(0, |segment| segment.gpa.get().saturating_add(segment.len)))
            }
            Self::Reader(ram) => ram.end(),
        }
    }
}

macro_rules! either {
    ($self:ident, $ram:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "std")]
            Ram::Mapped($ram) => $call,
            Ram::Reader($ram) => $call,
        }
    };
}

impl PhysRead for Ram {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        either!(self, ram => ram.read(gpa, dst))
    }

    #[inline]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        either!(self, ram => ram.load_u32(gpa))
    }

    #[inline]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        either!(self, ram => ram.load_u64(gpa))
    }

    #[inline]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        either!(self, ram => ram.load_words(gpa, dst))
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        either!(self, ram => ram.read_runs(runs, dst, hint))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        either!(self, ram => ram.next_extent(from))
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        either!(self, ram => ram.load_lines(at, lines))
    }

    fn batch(&self) -> usize {
        either!(self, ram => ram.batch())
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        either!(self, ram => ram.page_kind(page))
    }

    fn is_cancelled(&self) -> bool {
        either!(self, ram => ram.is_cancelled())
    }

    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        either!(self, ram => ram.window(gpa, len))
    }

    fn prefetch(&self, gpa: Gpa) {
        either!(self, ram => ram.prefetch(gpa));
    }
}
