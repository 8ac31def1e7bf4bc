//! `memmodel.h`: reads by virtual address, and the end of a memory handle.

use core::ffi::{c_int, c_void};

use vgpu_perception::Gva;

use crate::failure::Failure;
use crate::ffi::{Out, export};
use crate::memory::MemHandle;

export! {
    /// See `memmodel.h`.
    fn vmie_mem_close(m: MemHandle) {
        m.close().map(drop)
    }

    /// See `memmodel.h`.
    fn gva_read(m: MemHandle, cr3: u64, gva: u64, dst: Out<c_void>, len: usize) -> c_int {
        let dst = dst.bytes().buffer(len, "dst")?;
        m.read(|mem| mem.caught(|| mem.walker(cr3).read(Gva::new(gva), dst).map_err(Failure::read)))?;
        Ok(0)
    }

    /// See `memmodel.h`.
    fn gva_to_gpa(m: MemHandle, cr3: u64, gva: u64, out_gpa: Out<u64>) -> c_int {
        let out_gpa = out_gpa.required("out_gpa")?;
        let found = m.read(|mem| mem.caught(|| mem.walker(cr3).translate(Gva::new(gva)).map_err(Failure::read)))?;
        out_gpa.set(found.gpa.get());
        Ok(0)
    }
}
