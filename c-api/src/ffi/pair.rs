//! Two handles that one call uses, as most calls do: the region, and the memory that it is read through.
//!
//! A thread mostly reads the same regions again. So it keeps where the two tokens led, and a call begins and ends both
//! uses at once, in the thread's first two hazards.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{Ordering, compiler_fence};

use super::handle::{Handle, Object};
use super::table::{Entry, Open};
use super::threads::Own;
use super::tokens::{Hold, Slot, TABLE, release};

/// Where two tokens led when a call of this thread used both.
pub(crate) struct Known<A, B> {
    tokens: Cell<[u64; 2]>,
    open: Cell<[Open; 2]>,
    /// `None` for the tokens of nothing.
    entries: Cell<Option<[&'static Entry; 2]>>,
    slots: Cell<(*mut Slot<A>, *mut Slot<B>)>,
}

impl<A, B> fmt::Debug for Known<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl<A: Object, B: Object> Known<A, B> {
    pub(crate) const fn new() -> Self {
        let slots = (core::ptr::null_mut(), core::ptr::null_mut());
        Self {
            tokens: Cell::new([0; 2]),
            open: Cell::new([Open::of(0); 2]),
            entries: Cell::new(None),
            slots: Cell::new(slots),
        }
    }

    /// Keeps where two handles lead that a call holds: one that is not inside another call of its thread.
    pub(crate) fn learn(&self, a: &Hold<'_, A>, b: &Hold<'_, B>) {
        if a.depth == 0 {
            self.tokens.set([a.token, b.token]);
            self.open.set([Open::of(a.token), Open::of(b.token)]);
            self.entries.set(Some([a.entry, b.entry]));
            self.slots.set((a.slot, b.slot));
        }
    }

    /// Runs `work` with both objects, where this thread knows them, is in no other call, and both are open.
    ///
    /// Nothing with several parts comes out of a function here: it would be moved about in other pieces than those it
    /// was stored in, and then every load waits for stores.
    #[inline(always)]
    pub(crate) fn hold<R>(
        &self,
        own: &Own,
        a: Handle<A>,
        b: Handle<B>,
        work: impl FnOnce(&A, &B) -> Option<R>,
    ) -> Option<R> {
        if !own.enter_two() {
            return None;
        }
        // A signal handler from here on is inside of this call, so it learns nothing: all four are of one moment.
        compiler_fence(Ordering::SeqCst);
        let tokens = [a.token(), b.token()];
        let entries = if self.tokens.get() == tokens { self.entries.get() } else { None };
        let Some(entries) = entries else {
            own.leave_two();
            return None;
        };
        let ((a, b), open) = (self.slots.get(), self.open.get());
        let _both = Both { own, tokens, open, entries, of: PhantomData::<(A, B)> };
        if !TABLE.pin_two(own.two(), entries, tokens, open) {
            // Dropping `_both` does what the end of a use has to do.
            return None;
        }
        // SAFETY: a `Hold` had this pointer for the same token, which leads to one object as long as it is open. It is
        // open, and until `_both` is dropped a hazard keeps the object from being released. Nobody makes a `&mut` of it
        // before.
        let a = unsafe { &(*a).value };
        // SAFETY: the same.
        let b = unsafe { &(*b).value };
        work(a, b)
    }
}

/// A call's use of two objects; given up when dropped.
struct Both<'c, A: Object, B: Object> {
    own: &'c Own,
    tokens: [u64; 2],
    open: [Open; 2],
    entries: [&'static Entry; 2],
    of: PhantomData<(A, B)>,
}

impl<A: Object, B: Object> Drop for Both<'_, A, B> {
    #[inline(always)]
    fn drop(&mut self) {
        let alone = TABLE.unpin_two(self.own.two(), self.entries, self.open);
        self.own.leave_two();
        if !alone {
            self.end();
        }
    }
}

impl<A: Object, B: Object> Both<'_, A, B> {
    /// Releases what was closed meanwhile, where this use was the last.
    #[cold]
    #[inline(never)]
    fn end(&self) {
        let ([first, second], [a, b]) = (self.entries, self.tokens);
        if let Some(object) = TABLE.ended(first, a) {
            release::<A>(object, a);
        }
        if let Some(object) = TABLE.ended(second, b) {
            release::<B>(object, b);
        }
    }
}
