//! `win32.h`: what a `vmie_win32` is, and the process list.

use core::ffi::c_int;

use vgpu_perception::process::ProcessName;
use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::{Budget, ProcessSource, Step};

use crate::failure::Failure;
use crate::ffi::cells::TryLock;
use crate::ffi::{Handle, Object, Out, Scratch, export};
use crate::kernel::find;
use crate::memory::{Mem, MemHandle};

/// A `vmie_win32`.
#[derive(Debug)]
pub(crate) struct Win32 {
    mem: MemHandle,
    mem_id: u64,
    pub(crate) kernel: GuestKernel,
    scratch: TryLock<Scratch>,
}

impl Object for Win32 {
    const KIND: u8 = 2;
    const NAME: &'static str = "vmie_win32";
    const STORAGE: usize = 1024;
}

/// A handle on a [`Win32`].
pub(crate) type Win32Handle = Handle<Win32>;

impl Win32 {
    /// Finds the kernel, and tells the memory how this guest's tables are read.
    pub(crate) fn attach(m: MemHandle, kcr3: u64, mut scratch: Scratch) -> Result<Self, Failure> {
        let (mem_id, kernel) = m.read_with_id(|id, mem| {
            let kernel = mem.search(|| find(mem.ram(), kcr3, &mut scratch, mem.ram().bound()))?;
            mem.learn(kernel);
            Ok((id, kernel))
        })?;
        Ok(Self::new((m, mem_id), kernel, scratch))
    }

    /// A handle's object for a kernel that was found already.
    pub(crate) fn new((mem, mem_id): (MemHandle, u64), kernel: GuestKernel, scratch: Scratch) -> Self {
        Self { mem, mem_id, kernel, scratch: TryLock::new(scratch) }
    }

    /// The memory that it was opened on, and what only that one has.
    pub(crate) const fn mem(&self) -> (MemHandle, u64) {
        (self.mem, self.mem_id)
    }

    /// Uses the memory that it was opened on; it may have been closed.
    pub(crate) fn read_mem<R>(&self, work: impl FnOnce(&Mem) -> Result<R, Failure>) -> Result<R, Failure> {
        self.mem.read_same(self.mem_id, work)
    }

    /// Uses scratch memory: its own, or where another call has that, some for this call alone.
    pub(crate) fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> Result<R, Failure>) -> Result<R, Failure> {
        match self.scratch.take() {
            Some(mut scratch) => work(&mut scratch),
            #[cfg(feature = "std")]
            None => work(&mut self.read_mem(crate::heap::scratch)?),
            #[cfg(not(feature = "std"))]
            None => Scratch::on_stack(work),
        }
    }
}

/// `process` of `win32.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessC {
    /// Root of its address space.
    pub(crate) cr3: u64,
    /// Process environment block.
    pub(crate) peb: u64,
    /// The kernel's object.
    pub(crate) eprocess: u64,
    /// Its number.
    pub(crate) pid: u32,
    /// Its name, ended by a zero.
    pub(crate) name: [u8; 16],
}

/// A name as C takes it.
pub(crate) fn name_field(name: Option<ProcessName>) -> [u8; 16] {
    let mut field = [0; 16];
    if let Some(name) = name {
        // At most 15 bytes: the last stays zero.
        for (to, from) in field.iter_mut().take(15).zip(name.as_bytes()) {
            *to = *from;
        }
    }
    field
}

/// The process list.
fn list(v: Win32Handle, out: Out<ProcessC>, cap: usize) -> Result<c_int, Failure> {
    let out = out.array(cap, "out")?;
    v.read(|win32| {
        win32.read_mem(|mem| {
            mem.caught(|| {
                let bound = mem.ram().bound();
                let mut budget = Budget::new(bound);
                let mut source = win32.kernel.processes();
                let mut count = 0_usize;
                loop {
                    match source.next_process(mem.ram(), &mut budget).map_err(Failure::read)? {
                        Step::Found(process) => {
                            out.put(
                                count,
                                ProcessC {
                                    cr3: process.space.root.get(),
                                    peb: process.peb.map_or(0, |peb| peb.get()),
                                    eprocess: process.eprocess.map_or(0, |at| at.get()),
                                    pid: process.pid.unwrap_or(0),
                                    name: name_field(process.name),
                                },
                            );
                            count = count.saturating_add(1);
                        }
                        Step::Pending if budget.is_spent() => return Err(Failure::budget(bound)),
                        Step::Pending => {}
                        Step::Done => return Ok(c_int::try_from(count).unwrap_or(c_int::MAX)),
                    }
                }
            })
        })
    })
}

export! {
    /// See `win32.h`.
    fn vmie_win32_close(v: Win32Handle) {
        v.close().map(drop)
    }

    /// See `win32.h`.
    fn vmie_win32_mem(v: Win32Handle) -> MemHandle {
        v.read(|win32| Ok(win32.mem))
    }

    /// See `win32.h`.
    fn vmie_proc_list(v: Win32Handle, out: Out<ProcessC>, cap: usize) -> c_int {
        list(v, out, cap)
    }

    /// See `win32.h`.
    fn proc_list(v: Win32Handle, out: Out<ProcessC>, cap: usize) -> c_int {
        list(v, out, cap)
    }
}
