//! `win32.h`: the process list, and the end of a kernel handle.

use core::ffi::c_int;

use vgpu_perception::process::ProcessName;
use vgpu_perception::{Budget, ProcessSource, Step};

use crate::failure::Failure;
use crate::ffi::{Out, export};
use crate::kernel::Win32Handle;
use crate::memory::MemHandle;

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

export! {
    /// See `win32.h`.
    fn vmie_win32_close(v: Win32Handle) {
        v.close()
    }

    /// See `win32.h`.
    fn vmie_win32_mem(v: Win32Handle) -> MemHandle {
        v.read(|win32| Ok(win32.mem))
    }

    /// See `win32.h`.
    fn proc_list(v: Win32Handle, out: Out<ProcessC>, cap: usize) -> c_int {
        let out = out.array(cap, "out")?;
        v.read(|win32| win32.mem.read(|mem| {
            let mut source = win32.kernel.processes();
            let mut count = 0_usize;
            loop {
                match source.next_process(mem.ram(), &mut Budget::unlimited()).map_err(Failure::read)? {
                    Step::Found(process) => {
                        out.put(count, ProcessC {
                            cr3: process.space.root.get(),
                            peb: process.peb.map_or(0, |peb| peb.get()),
                            eprocess: process.eprocess.map_or(0, |at| at.get()),
                            pid: process.pid.unwrap_or(0),
                            name: name_field(process.name),
                        });
                        count = count.saturating_add(1);
                    }
                    Step::Pending => {}
                    Step::Done => return Ok(c_int::try_from(count).unwrap_or(c_int::MAX)),
                }
            }
        }))
    }
}
