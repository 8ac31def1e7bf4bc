//! Which handles are open, and which calls use them: without a lock, and without a store that two threads share.
//!
//! A handle is a *token*: the number of an entry, the entry's generation, the kind. A call writes the token to a place
//! of its own thread (a *hazard*) and then looks whether the entry is still of that generation; closing changes the
//! entry's state and then looks at the hazards of all threads. So one of the two sees the other: a call that began is
//! seen by whoever closes, and the object is then released by the last call that used it, when it ends. Both sides put
//! a fence between their store and their look; calls are many and closing is rare, so the calls' half costs nothing and
//! the closing half is a system call (`sync::light`, `sync::heavy`).
//!
//! Entries and records of threads are never given back, so looking at one needs no care. A generation is used once: a
//! closed token is refused for ever, whatever the allocator does with the memory that it led to.
//!
//! `tests/model.rs` runs this file under loom.

use super::sync::{AtomicPtr, AtomicU32, AtomicU64, CHUNK_BITS, HAZARDS, INDEX_BITS, Ordering, heavy, light, paid};

/// Chunks of entries.
pub(super) const CHUNKS: usize = 1 << (INDEX_BITS - CHUNK_BITS);

/// In the low bits of every token; storage of callers is aligned, so it has zeros there, and so has NULL.
const TAG: u64 = 0xd;

// Phases of an entry, in the place that the tag has in a token. The rest of an entry's state is the token that leads to
// it, and of a free one the next generation.
const FREE: u64 = 0;
const LIVE: u64 = 1;
/// Closed, and perhaps still used by calls.
const CLOSING: u64 = 2;
/// Closed, and somebody is releasing the object.
const GOING: u64 = 3;

/// A place for a handle.
pub(super) struct Entry {
    state: AtomicU64,
    object: AtomicPtr<()>,
    next_free: AtomicU32,
}

/// What the calls of one thread use. In cache lines, and pairs of them, that no other thread writes.
#[repr(align(128))]
pub(super) struct Record {
    pub(super) hazards: [AtomicU64; HAZARDS],
    owned: AtomicU32,
    next: AtomicPtr<Self>,
}

/// All handles of the program.
pub(super) struct Table {
    pub(super) chunks: [AtomicPtr<Entry>; CHUNKS],
    /// Entries that were ever handed out.
    pub(super) len: AtomicU32,
    /// Entries that can be handed out again: a count that makes each value of this word new, and the first one's number
    /// + 1.
    pub(super) free: AtomicU64,
    pub(super) records: AtomicPtr<Record>,
}

/// What became of a handle that was closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It was none, or was closed before.
    Unknown,
    /// Calls use it: the last of them releases the object.
    InUse,
    /// The caller of `close` releases the object now, and then calls [`Table::released`].
    Release(*mut ()),
}

const fn generation(token: u64) -> u64 {
    token >> 32
}

/// All of the token counts: one with another kind, or of another entry, was never handed out.
const fn state(token: u64, phase: u64) -> u64 {
    token & !0xf | phase
}

const fn index(token: u64) -> u32 {
    (token >> 8 & 0xff_ffff) as u32
}

/// Whether `word` reads like a token of `kind`, 0 to 15.
pub(super) const fn is_token(word: u64, kind: u8) -> bool {
    word & 0xff == TAG | (kind as u64) << 4 && generation(word) > 0
}

/// The chunk of entry `index`, and its place in there.
const fn place(index: u32) -> (usize, usize) {
    (index as usize >> CHUNK_BITS, index as usize & ((1 << CHUNK_BITS) - 1))
}

/// What the state of an entry is as long as a token of it is open.
#[derive(Clone, Copy)]
pub(super) struct Open(u64);

impl Open {
    pub(super) const fn of(token: u64) -> Self {
        Self(state(token, LIVE))
    }
}

#[inline(always)]
fn both_open([first, second]: [&Entry; 2], [a, b]: [Open; 2], ordering: Ordering) -> bool {
    first.state.load(ordering) == a.0 && second.state.load(ordering) == b.0
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            hazards: core::array::from_fn(|_| AtomicU64::new(0)),
            owned: AtomicU32::new(1),
            next: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Gives the record back when its thread ends.
    pub(super) fn leave(&self) {
        self.owned.store(0, Ordering::Release);
    }
}

impl Table {
    /// The entry that `token` names, if it was ever handed out.
    #[inline(always)]
    fn entry(&self, token: u64) -> Option<&Entry> {
        self.entry_at(index(token))
    }

    #[inline(always)]
    fn entry_at(&self, index: u32) -> Option<&Entry> {
        let (chunk, at) = place(index);
        let start = self.chunks.get(chunk)?.load(Ordering::Acquire);
        if start.is_null() {
            return None;
        }
        // SAFETY: `place` gives a place within the chunk's `1 << CHUNK_BITS` entries, which were all written before the
        // pointer to them was stored with release, and which are never given back.
        Some(unsafe { &*start.wrapping_add(at) })
    }

    /// Makes `object` reachable. `None` where there is no memory for another entry.
    pub(super) fn insert(&self, object: *mut (), kind: u8) -> Option<u64> {
        let index = match self.pop_free() {
            Some(index) => index,
            None => self.grow()?,
        };
        let entry = self.entry_at(index)?;
        entry.object.store(object, Ordering::Relaxed);
        let next = generation(entry.state.load(Ordering::Relaxed));
        let token = next << 32 | u64::from(index) << 8 | u64::from(kind) << 4 | TAG;
        entry.state.store(state(token, LIVE), Ordering::Release);
        Some(token)
    }

    /// Begins a call's use of a handle; `hazard` is a place of this thread that no other use of this thread has. Gives
    /// the entry and the object.
    ///
    /// # Errors
    /// The handle is none, or was closed. Where there is an object with it, the caller is the last who kept it from
    /// being released: it releases it, and calls [`released`](Self::released).
    #[inline(always)]
    pub(super) fn pin(&self, hazard: &AtomicU64, token: u64) -> Result<(&Entry, *mut ()), Option<*mut ()>> {
        let Some(entry) = self.entry(token) else { return Err(None) };
        hazard.store(token, Ordering::Release);
        light();
        if entry.state.load(Ordering::Acquire) == state(token, LIVE) {
            return Ok((entry, entry.object.load(Ordering::Relaxed)));
        }
        Err(self.unpin(hazard, entry, token))
    }

    /// Ends a call's use of a handle. An object: it was closed meanwhile, and the caller releases it, as in
    /// [`pin`](Self::pin).
    #[inline(always)]
    pub(super) fn unpin(&self, hazard: &AtomicU64, entry: &Entry, token: u64) -> Option<*mut ()> {
        hazard.store(0, Ordering::Release);
        light();
        self.ended(entry, token)
    }

    /// What a use that ended has to release.
    #[inline(always)]
    pub(super) fn ended(&self, entry: &Entry, token: u64) -> Option<*mut ()> {
        if entry.state.load(Ordering::Relaxed) == state(token, CLOSING) { self.reclaim(entry, token) } else { None }
    }

    /// Begins a call's use of two handles, as [`pin`](Self::pin) does of one, where closing pays for all of the
    /// fence; `entries` are what it gave for them
    /// before. Whether both are open. Either way the call ends with [`unpin_two`](Self::unpin_two).
    #[inline(always)]
    pub(super) fn pin_two(
        &self,
        hazards: [&AtomicU64; 2],
        entries: [&Entry; 2],
        tokens: [u64; 2],
        open: [Open; 2],
    ) -> bool {
        let ([first, second], [a, b]) = (hazards, tokens);
        first.store(a, Ordering::Release);
        second.store(b, Ordering::Release);
        paid();
        both_open(entries, open, Ordering::Acquire)
    }

    /// Ends a call's use of two handles. Where one of them is not open any more: false, and [`ended`](Self::ended) says
    /// of each what is to be released.
    #[inline(always)]
    pub(super) fn unpin_two(&self, hazards: [&AtomicU64; 2], entries: [&Entry; 2], open: [Open; 2]) -> bool {
        let [first, second] = hazards;
        first.store(0, Ordering::Release);
        second.store(0, Ordering::Release);
        paid();
        both_open(entries, open, Ordering::Relaxed)
    }

    /// Closes a handle: no call can begin to use it any more.
    pub(super) fn close(&self, token: u64) -> Closed {
        let Some(entry) = self.entry(token) else { return Closed::Unknown };
        let (live, closing) = (state(token, LIVE), state(token, CLOSING));
        if entry.state.compare_exchange(live, closing, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Closed::Unknown;
        }
        self.reclaim(entry, token).map_or(Closed::InUse, Closed::Release)
    }

    /// The object of a closed handle, if nobody uses it any more and nobody else was given it.
    #[cold]
    #[inline(never)]
    fn reclaim(&self, entry: &Entry, token: u64) -> Option<*mut ()> {
        // Without the fence nothing is proven, and the object stays for ever: the system call is refused, see `sync`.
        if !heavy() || self.is_used(token) {
            return None;
        }
        let (closing, going) = (state(token, CLOSING), state(token, GOING));
        entry.state.compare_exchange(closing, going, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(entry.object.load(Ordering::Relaxed))
    }

    /// Says that the object of a closed handle is gone: its entry can be handed out again, under the next generation.
    pub(super) fn released(&self, token: u64) {
        let Some(entry) = self.entry(token) else { return };
        let next = generation(token) + 1;
        entry.state.store(next << 32 | FREE, Ordering::Release);
        // An entry whose generations are used up is not handed out any more.
        if next <= u64::from(u32::MAX) {
            self.push_free(entry, index(token));
        }
    }

    /// Whether an open handle leads to `object`.
    pub(super) fn leads_to(&self, object: *mut ()) -> bool {
        (0..self.len.load(Ordering::Acquire)).filter_map(|index| self.entry_at(index)).any(|entry| {
            entry.state.load(Ordering::Acquire) & 3 != FREE && entry.object.load(Ordering::Relaxed) == object
        })
    }

    fn is_used(&self, token: u64) -> bool {
        let mut at = self.records.load(Ordering::Acquire);
        // SAFETY: records are written before they are linked with release, and are never given back.
        while let Some(record) = unsafe { at.as_ref() } {
            if record.hazards.iter().any(|hazard| hazard.load(Ordering::Acquire) == token) {
                return true;
            }
            at = record.next.load(Ordering::Acquire);
        }
        false
    }

    /// A record for this thread: one that an ended thread left, or the one that `new` makes. `None` where it makes
    /// none.
    pub(super) fn join(&self, new: impl FnOnce() -> Option<*mut Record>) -> Option<&Record> {
        let mut at = self.records.load(Ordering::Acquire);
        // SAFETY: as in `is_used`.
        while let Some(record) = unsafe { at.as_ref() } {
            if record.owned.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(record);
            }
            at = record.next.load(Ordering::Acquire);
        }
        let new = new()?;
        // SAFETY: `new` made it for this, and it is never given back.
        let record = unsafe { &*new };
        let mut head = self.records.load(Ordering::Relaxed);
        loop {
            record.next.store(head, Ordering::Relaxed);
            match self.records.compare_exchange(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(record),
                Err(now) => head = now,
            }
        }
    }

    /// A new entry.
    fn grow(&self) -> Option<u32> {
        loop {
            let index = self.len.load(Ordering::Acquire);
            let chunk = self.chunks.get(place(index).0)?;
            if chunk.load(Ordering::Acquire).is_null() && !add_chunk(chunk) {
                return None;
            }
            if self.len.compare_exchange(index, index + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(index);
            }
        }
    }

    fn pop_free(&self) -> Option<u32> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let index = (head & 0xffff_ffff).checked_sub(1)?;
            let index = u32::try_from(index).ok()?;
            let next = self.entry_at(index)?.next_free.load(Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.free.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
    }

    fn push_free(&self, entry: &Entry, index: u32) {
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            entry.next_free.store((head & 0xffff_ffff) as u32, Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(index + 1);
            match self.free.compare_exchange(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

fn add_chunk(to: &AtomicPtr<Entry>) -> bool {
    let mut entries = Vec::new();
    let n = 1_usize << CHUNK_BITS;
    if entries.try_reserve_exact(n).is_err() {
        return false;
    }
    entries.extend((0..n).map(|_| Entry {
        state: AtomicU64::new(1 << 32 | FREE),
        object: AtomicPtr::new(core::ptr::null_mut()),
        next_free: AtomicU32::new(0),
    }));
    let at = entries.as_mut_ptr();
    // Of two threads that add it, one keeps its own; the other's is dropped.
    if to.compare_exchange(core::ptr::null_mut(), at, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        core::mem::forget(entries);
    }
    true
}
