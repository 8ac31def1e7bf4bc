//! Values that several threads use and nobody waits for.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Copies that a [`Latest`] keeps: the one that is shown, and some for writers and late readers.
const SEATS: usize = 4;
/// In a seat's count: somebody writes it, or may be about to.
const WRITER: u32 = 1 << 31;
/// How often a writer looks for a free seat.
const TRIES: usize = 64;

/// The latest of several values. Reading and writing never wait: a thread that stops in the middle stops nobody.
pub(crate) struct Latest<T> {
    /// A count that makes every value of this word new, and the seat that is shown.
    shown: AtomicU64,
    seats: [Seat<T>; SEATS],
}

struct Seat<T> {
    users: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: values are copied in by one writer that has the seat for itself, and copied out by readers that keep writers
// away.
unsafe impl<T: Copy + Send> Sync for Latest<T> {}

impl<T> fmt::Debug for Latest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").finish_non_exhaustive()
    }
}

impl<T: Copy> Latest<T> {
    pub(crate) const fn new(value: T) -> Self {
        let seats = [Seat::new(value), Seat::new(value), Seat::new(value), Seat::new(value)];
        Self { shown: AtomicU64::new(0), seats }
    }

    fn seat(&self, shown: u64) -> &Seat<T> {
        let [a, b, c, d] = &self.seats;
        match shown & 3 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        }
    }

    /// A copy of the latest value.
    pub(crate) fn get(&self) -> T {
        self.look().1
    }

    fn look(&self) -> (u64, T) {
        loop {
            let shown = self.shown.load(Ordering::Acquire);
            let seat = self.seat(shown);
            seat.users.fetch_add(1, Ordering::Acquire);
            if self.shown.load(Ordering::Acquire) == shown {
                // SAFETY: a writer takes a seat whose count is 0, and then writes only if the shown seat is another.
                // This seat was shown after it was counted here. So whoever took it before saw or will see that it is
                // shown, and writes nothing.
                let value = unsafe { *seat.value.get() };
                seat.users.fetch_sub(1, Ordering::Release);
                return (shown, value);
            }
            // Another value was shown meanwhile.
            seat.users.fetch_sub(1, Ordering::Release);
        }
    }

    /// Shows what `change` makes of the latest value, with nobody else's change in between; `None` leaves it. False
    /// where threads that stopped in the middle hold all seats: then nothing changed.
    pub(crate) fn update(&self, mut change: impl FnMut(T) -> Option<T>) -> bool {
        for number in 0..TRIES {
            let (shown, old) = self.look();
            let Some(new) = change(old) else { return true };
            let to = (shown & 3).wrapping_add(1 + (number as u64) % 3) & 3;
            let seat = self.seat(to);
            if seat.users.compare_exchange(0, WRITER, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            let mut done = false;
            if self.shown.load(Ordering::Acquire) == shown {
                // SAFETY: the count was 0 and is `WRITER`: no other writer takes the seat, and readers that count
                // themselves now find that another seat is shown. It cannot be shown before this writer shows it.
                unsafe { *seat.value.get() = new };
                let next = (shown >> 2).wrapping_add(1) << 2 | to;
                done = self.shown.compare_exchange(shown, next, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            }
            seat.users.fetch_sub(WRITER, Ordering::Release);
            if done {
                return true;
            }
        }
        false
    }

    /// Shows `value`.
    pub(crate) fn set(&self, value: T) -> bool {
        self.update(|_| Some(value))
    }
}

impl<T> Seat<T> {
    const fn new(value: T) -> Self {
        Self { users: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }
}

/// A value that is found out once.
pub(crate) struct Once<T> {
    phase: AtomicU8,
    value: UnsafeCell<Option<T>>,
}

const EMPTY: u8 = 0;
const SETTING: u8 = 1;
const SET: u8 = 2;

// SAFETY: the value is written by the one thread that took the phase from `EMPTY`, and read only after it was `SET`.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl<T> Once<T> {
    pub(crate) const fn new(value: Option<T>) -> Self {
        let phase = if value.is_some() { SET } else { EMPTY };
        Self { phase: AtomicU8::new(phase), value: UnsafeCell::new(value) }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.phase.load(Ordering::Acquire) != SET {
            return None;
        }
        // SAFETY: it is `SET`, so nobody writes it any more.
        unsafe { &*self.value.get() }.as_ref()
    }

    /// Keeps `value`, unless there is one or another thread is about to set one.
    pub(crate) fn set(&self, value: T) {
        if self.phase.compare_exchange(EMPTY, SETTING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // SAFETY: the phase was `EMPTY` and is `SETTING`: nobody else reads or writes it.
            unsafe { *self.value.get() = Some(value) };
            self.phase.store(SET, Ordering::Release);
        }
    }
}

/// A value that one call at a time has; another call that comes meanwhile does without.
pub(crate) struct TryLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a `Taken` exists only while `taken` is set by it, so one thread at a time reaches the value.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> fmt::Debug for TryLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryLock").finish_non_exhaustive()
    }
}

impl<T> TryLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub(crate) fn take(&self) -> Option<Taken<'_, T>> {
        // Not `then_some`: a guard that is made and dropped would give up what another call has.
        (!self.taken.swap(true, Ordering::Acquire)).then(|| Taken(self))
    }
}

/// The value of a [`TryLock`]; given up when dropped.
pub(crate) struct Taken<'l, T>(&'l TryLock<T>);

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard set `taken`, which stays set until it is dropped.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the same, and `&mut self` lets nobody else through this guard.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}
