//! What the library keeps for each thread that calls it: its hazards, and what its last reads found.

use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::sync::{self, HAZARDS};
use super::table::{Record, Table};
use super::tokens::TABLE;
use crate::failure::Failure;
use crate::seats::Seats;

/// What belongs to one thread. Made by its first call.
pub(crate) struct Own {
    record: &'static Record,
    /// Hazards in use. A signal handler that calls the library finds it and the hazards in order.
    depth: AtomicUsize,
    pub(crate) seats: Seats,
}

std::thread_local! {
    static OWN: Cell<*const Own> = const { Cell::new(core::ptr::null()) };
    /// Apart from `OWN`: a value that has to be dropped is slower to reach.
    static END: End = const { End };
}

/// Gives up what the thread had when it ends.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let own = OWN.replace(core::ptr::null()).cast_mut();
        if own.is_null() {
            return;
        }
        // SAFETY: `join` made it from a box for this thread, and nobody but this thread had the pointer; it is gone
        // from `OWN`.
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
    let mut own = OWN.get();
    if own.is_null() {
        own = join(&TABLE)?;
    }
    // SAFETY: it is this thread's, and lives until the thread's `End` is dropped, which no call of this thread is
    // inside of.
    Ok(work(unsafe { &*own }))
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
    OWN.set(own);
    // A thread that is already ending keeps its record for ever.
    let _ = END.try_with(|_| ());
    Ok(own)
}

impl Own {
    /// The next free hazard, to be given back by [`pop`](Self::pop) in the order of a stack.
    #[inline(always)]
    pub(super) fn push(&self) -> Option<&'static core::sync::atomic::AtomicU64> {
        let depth = self.depth.load(Ordering::Relaxed);
        let hazard = self.record.hazards.get(depth)?;
        self.depth.store(depth + 1, Ordering::Relaxed);
        Some(hazard)
    }

    #[inline(always)]
    pub(super) fn pop(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        debug_assert!((1..=HAZARDS).contains(&depth), "pops go with pushes");
        self.depth.store(depth.wrapping_sub(1), Ordering::Relaxed);
    }
}
