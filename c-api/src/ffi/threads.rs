//! What the library keeps for each thread that calls it: its hazards, and what its last reads found.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::table::{Record, Table};
use super::tokens::TABLE;
use super::{own, sync};
use crate::failure::Failure;
use crate::seats::Seats;

/// What belongs to one thread. Made by its first call. In cache lines, and pairs of them, that no other thread writes.
#[repr(align(128))]
pub(crate) struct Own {
    record: &'static Record,
    /// Hazards in use. A signal handler that calls the library finds it and the hazards in order.
    depth: AtomicUsize,
    pub(crate) seats: Seats,
}

std::thread_local! {
    /// Apart from the word that leads to what the thread has: a value that has to be dropped is slower to reach.
    static END: End = const { End };
}

/// Gives up what the thread had when it ends.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let own = own::get().cast_mut();
        own::set(core::ptr::null());
        if own.is_null() {
            return;
        }
        // SAFETY: `join` made it from a box for this thread, and nobody but this thread had the pointer; it is not
        // found any more.
        let own = unsafe { Box::from_raw(own) };
        // A call that was left by `longjmp` keeps its hazards, so the record stays with what they protect.
        if own.depth.load(Ordering::Relaxed) == 0 {
            own.record.leave();
        }
    }
}

/// Runs `work` with what this thread has.
///
/// # Errors
/// There is no memory for it.
#[inline(always)]
pub(crate) fn with<R>(work: impl FnOnce(&Own) -> R) -> Result<R, Failure> {
    let mut own = own::get();
    if own.is_null() {
        own = join(&TABLE)?;
    }
    // SAFETY: it is this thread's, and lives until the thread's `End` is dropped, which no call of this thread is
    // inside of.
    Ok(work(unsafe { &*own }))
}

/// The same where this thread called before; false where it did not.
#[inline(always)]
pub(crate) fn this(work: impl FnOnce(&Own) -> bool) -> bool {
    let own = own::get();
    // SAFETY: as in `with`.
    !own.is_null() && work(unsafe { &*own })
}

#[cold]
#[inline(never)]
fn join(table: &'static Table) -> Result<*const Own, Failure> {
    sync::prepare();
    let room = super::memory::room::<Own>()?;
    let record = table.join(|| super::memory::boxed(Record::new()).ok().map(Box::into_raw));
    let record = record.ok_or_else(|| Failure::memory("a thread's first call"))?;
    let own = Own { record, depth: AtomicUsize::new(0), seats: Seats::new() };
    let own: *const Own = Box::into_raw(super::memory::fill(room, own));
    own::set(own);
    // A thread that is already ending keeps its record for ever.
    let _ = END.try_with(|_| ());
    Ok(own)
}

impl Own {
    /// Takes the first two hazards, where no call of this thread has any.
    #[inline(always)]
    pub(super) fn enter_two(&self) -> bool {
        let none = self.depth.load(Ordering::Relaxed) == 0;
        if none {
            self.depth.store(2, Ordering::Relaxed);
        }
        none
    }

    /// The first two hazards.
    #[inline(always)]
    pub(super) fn two(&self) -> [&'static AtomicU64; 2] {
        let [first, second, ..] = &self.record.hazards;
        [first, second]
    }

    /// The first two hazards are free again.
    #[inline(always)]
    pub(super) fn leave_two(&self) {
        self.depth.store(0, Ordering::Relaxed);
    }

    /// The next free hazard, and what [`leave`](Self::leave) takes when its use ends. Uses end in the order of a stack.
    #[inline(always)]
    pub(super) fn enter(&self) -> Option<(&'static AtomicU64, usize)> {
        let depth = self.depth.load(Ordering::Relaxed);
        let hazard = self.record.hazards.get(depth)?;
        self.depth.store(depth + 1, Ordering::Relaxed);
        Some((hazard, depth))
    }

    /// The hazards from `depth` on are free again. It was known before, so that a call need not wait for what the call
    /// before it stored.
    #[inline(always)]
    pub(super) fn leave(&self, depth: usize) {
        debug_assert!(self.depth.load(Ordering::Relaxed) == depth + 1, "uses end in the order of a stack");
        self.depth.store(depth, Ordering::Relaxed);
    }
}
