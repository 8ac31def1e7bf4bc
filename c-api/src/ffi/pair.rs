//! Two handles that one call uses, as most calls do: the region, and the memory that it is read through.
//!
//! A thread mostly reads the same regions again. So it keeps where the two tokens led, and what was found there, and a
//! call begins and ends both uses at once, in the thread's first two hazards.

use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::sync::atomic::{Ordering, compiler_fence};

use super::handle::{Handle, Object};
use super::sync::closing_pays;
use super::table::{Entry, Open};
use super::threads::Own;
use super::tokens::{Hold, Slot, TABLE, release};

/// Where two tokens led when a call of this thread used both, and a value that belongs to them.
pub(crate) struct Known<A, B, K> {
    tokens: Cell<[u64; 2]>,
    open: Cell<[Open; 2]>,
    /// `None` for the tokens of nothing.
    entries: Cell<Option<[&'static Entry; 2]>>,
    slots: Cell<(*mut Slot<A>, *mut Slot<B>)>,
    /// `Some` where `entries` is.
    kept: UnsafeCell<Option<K>>,
}

impl<A, B, K> fmt::Debug for Known<A, B, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl<A: Object, B: Object, K: Copy> Known<A, B, K> {
    pub(crate) const fn new() -> Self {
        let slots = (core::ptr::null_mut(), core::ptr::null_mut());
        Self {
            tokens: Cell::new([0; 2]),
            open: Cell::new([Open::of(0); 2]),
            entries: Cell::new(None),
            slots: Cell::new(slots),
            kept: UnsafeCell::new(None),
        }
    }

    /// Keeps where two handles lead that a call holds, and `kept`: of a call that is not inside another call of its
    /// thread, and where closing pays for all of the fence.
    pub(crate) fn learn(&self, a: &Hold<'_, A>, b: &Hold<'_, B>, kept: K) {
        if a.depth == 0 && closing_pays() {
            self.tokens.set([a.token, b.token]);
            self.open.set([Open::of(a.token), Open::of(b.token)]);
            self.entries.set(Some([a.entry, b.entry]));
            self.slots.set((a.slot, b.slot));
            // SAFETY: only `hold` makes references to it, for a call that is not inside another. This call is not
            // either, and it has not ended: so there is none, and a signal handler makes none.
            unsafe { *self.kept.get() = Some(kept) };
        }
    }

    /// Runs `work` with both objects and what was kept, where this thread knows them, is in no other call, and both are
    /// open; what it says, or false.
    ///
    /// Nothing with several parts comes out of a function here: it would be moved about in other pieces than those it
    /// was stored in, and then every load waits for stores.
    #[inline(always)]
    pub(crate) fn hold(&self, own: &Own, a: Handle<A>, b: Handle<B>, work: impl FnOnce(&A, &B, &K) -> bool) -> bool {
        if !own.enter_two() {
            return false;
        }
        // A signal handler from here on is inside of this call, so it learns nothing: all are of one moment.
        compiler_fence(Ordering::SeqCst);
        let tokens = [a.token(), b.token()];
        let entries = if self.tokens.get() == tokens { self.entries.get() } else { None };
        let Some(entries) = entries else {
            own.leave_two();
            return false;
        };
        let _both = Both { own, known: self };
        if !TABLE.pin_two(own.two(), entries, tokens, self.open.get()) {
            // Dropping `_both` does what the end of a use has to do.
            return false;
        }
        let (a, b) = self.slots.get();
        // SAFETY: a `Hold` had this pointer for the same token, which leads to one object as long as it is open. It is
        // open, and until `_both` is dropped a hazard keeps the object from being released. Nobody makes a `&mut` of it
        // before.
        let a = unsafe { &(*a).value };
        // SAFETY: the same.
        let b = unsafe { &(*b).value };
        // SAFETY: `learn` alone writes it, for a call that is inside no other: not while this one lasts.
        let kept = unsafe { &*self.kept.get() };
        kept.as_ref().is_some_and(|kept| work(a, b, kept))
    }
}

/// A call's use of two objects; given up when dropped. It reads anew what is known, which stays as it is meanwhile:
/// that takes fewer registers.
struct Both<'c, A: Object, B: Object, K> {
    own: &'c Own,
    known: &'c Known<A, B, K>,
}

impl<A: Object, B: Object, K> Drop for Both<'_, A, B, K> {
    #[inline(always)]
    fn drop(&mut self) {
        let Some([first, second]) = self.known.entries.get() else { return };
        let alone = TABLE.unpin_two(self.own.two(), [first, second], self.known.open.get());
        self.own.leave_two();
        if !alone {
            let [a, b] = self.known.tokens.get();
            end::<A>(first, a);
            end::<B>(second, b);
        }
    }
}

/// Releases what was closed meanwhile, where this use was the last.
#[cold]
#[inline(never)]
fn end<T: Object>(entry: &Entry, token: u64) {
    if let Some(object) = TABLE.ended(entry, token) {
        release::<T>(object, token);
    }
}
