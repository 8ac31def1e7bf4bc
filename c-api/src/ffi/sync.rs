//! The atomics of the handle table, and the two halves of its fence.
//!
//! `membarrier` (Linux 4.14) makes every thread of the process pass a full fence: then a call need only keep its own
//! store and load in program order, which costs nothing. Where the kernel has it not, calls pay for a fence themselves.
//! A program that forbids itself the system call later (seccomp) keeps the memory of handles that it closes; nothing
//! else changes.

use core::sync::atomic::{AtomicU8, compiler_fence, fence};

pub(super) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};

/// Handles that the calls of one thread can use at once: two or three a call, and calls nest in callbacks.
pub(super) const HAZARDS: usize = 32;

/// Log2 of the entries that are allocated at a time.
pub(super) const CHUNK_BITS: u32 = 8;
/// Log2 of the most handles that can be open at once.
pub(super) const INDEX_BITS: u32 = 20;

const UNKNOWN: u8 = 0;
const PLAIN: u8 = 1;
const ASYMMETRIC: u8 = 2;
static KIND: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Asks the kernel for its half of the fence; before a thread's first call.
pub(super) fn prepare() {
    if KIND.load(Ordering::Relaxed) == UNKNOWN {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        let kind = if registered { ASYMMETRIC } else { PLAIN };
        // The first answer counts: calls that are under way rely on it.
        let _ = KIND.compare_exchange(UNKNOWN, kind, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A call's half: between its store and its look.
#[inline(always)]
pub(super) fn light() {
    if KIND.load(Ordering::Relaxed) == ASYMMETRIC {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Whether the calls' half costs nothing: then it does for good.
pub(super) fn closing_pays() -> bool {
    KIND.load(Ordering::Relaxed) == ASYMMETRIC
}

/// A call's half where [`closing_pays`].
#[inline(always)]
pub(super) fn paid() {
    compiler_fence(Ordering::SeqCst);
}

/// The half of who closes. False where the kernel refuses it.
pub(super) fn heavy() -> bool {
    fence(Ordering::SeqCst);
    if KIND.load(Ordering::Relaxed) != ASYMMETRIC {
        return true;
    }
    match membarrier(MembarrierCommand::PrivateExpedited) {
        Ok(()) => true,
        // A child of `fork` may have to register anew.
        Err(Errno::PERM) => {
            membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
                && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
        }
        Err(_) => false,
    }
}
