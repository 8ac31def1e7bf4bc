//! What a `vmie_win32` is: a guest's kernel, as far as it gives address spaces.

use vgpu_perception::paging::{AbsentEntry, AbsentResolver, Hardware, Meaning};
use vgpu_perception::process::roots::{Agreement, RootCandidate, SharedHalf, guess_mode};
use vgpu_perception::{AddressSpace, Budget, Cr3, PagingMode, PhysError, PhysRead, Process, ProcessSource, Step};

use crate::failure::{Failure, code};
use crate::ffi::{Handle, Object, Scratch};
use crate::memory::{MemHandle, Ram};

/// A `vmie_win32`.
#[derive(Debug)]
pub(crate) struct Win32 {
    pub(crate) mem: MemHandle,
    pub(crate) kernel: Kernel,
    pub(crate) scratch: Scratch,
}

impl Object for Win32 {
    const MAGIC: u64 = u64::from_le_bytes(*b"vmiewin3");
    const NAME: &'static str = "vmie_win32";
    const STORAGE: usize = 1024;
}

/// A handle on a [`Win32`].
pub(crate) type Win32Handle = Handle<Win32>;

impl Win32 {
    /// Finds the kernel, and tells the memory how this guest's tables are read.
    pub(crate) fn attach(mem: MemHandle, kcr3: u64, mut scratch: Scratch) -> Result<Self, Failure> {
        let kernel = mem.read(|mem| {
            let kernel = Kernel::find(mem.ram(), kcr3, &mut scratch)?;
            mem.learn(kernel.space());
            Ok(kernel)
        })?;
        Ok(Self { mem, kernel, scratch })
    }
}

/// What absent entries mean in this guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Paging {
    /// Nothing.
    #[default]
    Hardware,
}

impl AbsentResolver for Paging {
    const RESOLVES: bool = false;

    fn resolve<M: PhysRead>(&self, mem: &M, absent: &AbsentEntry) -> Result<Meaning, PhysError> {
        match self {
            Self::Hardware => Hardware.resolve(mem, absent),
        }
    }
}

/// A kernel that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    /// None that is known by name: the roots that share this one's kernel half.
    Roots(AddressSpace<Hardware>),
}

impl Kernel {
    fn find(ram: &Ram, kcr3: u64, scratch: &mut Scratch) -> Result<Self, Failure> {
        if kcr3 == 0 { Self::find_roots(ram, scratch) } else { Self::from_root(ram, Cr3::new(kcr3)) }
    }

    fn from_root(ram: &Ram, root: Cr3) -> Result<Self, Failure> {
        let mode = guess_mode(ram, root).unwrap_or(PagingMode::FourLevel);
        let space = AddressSpace::new(root).with_mode(mode);
        SharedHalf::check(ram, &space).map_err(Failure::read)?;
        Ok(Self::Roots(space))
    }

    fn find_roots(ram: &Ram, scratch: &mut Scratch) -> Result<Self, Failure> {
        let (candidates, _) = scratch.split(Agreement::CANDIDATES, RootCandidate::default(), 0_u8);
        let mut agreement = Agreement::new(None, candidates);
        // One is enough: all others are found from it whenever they are wanted.
        let first = agreement.next_process(ram, &mut Budget::unlimited()).map_err(Failure::read)?;
        match (first, agreement.reference()) {
            (Step::Found(_), Some(reference)) => Ok(Self::Roots(reference)),
            _ => Err(Failure::new(
                code::NOT_FOUND,
                format_args!(
                    "no page-table roots in guest memory: is the guest booted, and is the map of its RAM right?"
                ),
            )),
        }
    }

    /// The kernel's own address space.
    pub(crate) fn space(&self) -> AddressSpace<Paging> {
        match self {
            Self::Roots(space) => space.with_absent(Paging::Hardware),
        }
    }

    /// All its processes.
    pub(crate) const fn processes(&self) -> Source {
        match self {
            Self::Roots(space) => Source::Roots(SharedHalf::new(*space)),
        }
    }
}

/// The processes of a [`Kernel`].
#[derive(Debug)]
pub(crate) enum Source {
    Roots(SharedHalf),
}

impl ProcessSource for Source {
    type Absent = Paging;

    fn next_process<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<Process<Paging>>, PhysError> {
        Ok(match self {
            Self::Roots(source) => match source.next_process(mem, budget)? {
                Step::Found(process) => Step::Found(with_paging(process, Paging::Hardware)),
                Step::Pending => Step::Pending,
                Step::Done => Step::Done,
            },
        })
    }
}

fn with_paging<R>(process: Process<R>, paging: Paging) -> Process<Paging> {
    let Process { space, user_root, pid, ppid, name, eprocess, peb } = process;
    Process { space: space.with_absent(paging), user_root, pid, ppid, name, eprocess, peb }
}
