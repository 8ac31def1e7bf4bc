//! Where a thread finds what it has: one word a thread.
//!
//! A shared library asks the dynamic linker for its thread-local variables, by a call that takes longer than half of
//! what a snapshot does. A word of the *static* block of each thread lies at a fixed distance from the thread's
//! register instead. glibc keeps room in that block for libraries that are loaded later, for some 200 such words;
//! elsewhere the plain variable does.

pub(super) use word::{get, set};

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod word {
    use core::arch::{asm, global_asm};

    use crate::ffi::threads::Own;

    // Hidden: each copy of the library has its own.
    global_asm!(
        ".pushsection .tbss.vgpu_perception_own, \"awT\", @nobits",
        ".globl vgpu_perception_own",
        ".hidden vgpu_perception_own",
        ".type vgpu_perception_own, @tls_object",
        ".size vgpu_perception_own, 8",
        ".p2align 3",
        "vgpu_perception_own:",
        ".zero 8",
        ".popsection",
    );

    #[inline(always)]
    pub(in crate::ffi) fn get() -> *const Own {
        let own;
        // SAFETY: the linker puts the distance of the word from the thread's register into the table of offsets; the
        // word is 8 bytes, zero when the thread begins, and nobody but this thread and this module uses it.
        unsafe {
            asm!(
                "mov {own}, qword ptr [rip + vgpu_perception_own@GOTTPOFF]",
                "mov {own}, qword ptr fs:[{own}]",
                own = out(reg) own,
                options(nostack, preserves_flags, readonly),
            );
        }
        own
    }

    pub(in crate::ffi) fn set(own: *const Own) {
        // SAFETY: as in `get`.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + vgpu_perception_own@GOTTPOFF]",
                "mov qword ptr fs:[{at}], {own}",
                at = out(reg) _,
                own = in(reg) own,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
mod word {
    use core::cell::Cell;

    use crate::ffi::threads::Own;

    std::thread_local! {
        static OWN: Cell<*const Own> = const { Cell::new(core::ptr::null()) };
    }

    #[inline(always)]
    pub(in crate::ffi) fn get() -> *const Own {
        OWN.get()
    }

    pub(in crate::ffi) fn set(own: *const Own) {
        OWN.set(own);
    }
}
