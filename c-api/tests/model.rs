//! The handle table under a model checker: the file that ships, with loom's atomics in place of the processor's.
//!
//! The two halves of its fence are a full fence each here, as `membarrier` makes of them. Each defect below leaves one
//! thing out, and a model has to notice.
#![allow(unsafe_code, dead_code, unreachable_pub, reason = "the included file is a part of another crate")]

#[path = "../src/ffi/table.rs"]
mod table;

/// What the table is built from, and what a defect takes away.
mod sync {
    use core::sync::atomic::{AtomicU8, Ordering as Plain};

    pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

    pub(super) const HAZARDS: usize = 2;
    pub(super) const CHUNK_BITS: u32 = 2;
    pub(super) const INDEX_BITS: u32 = 3;

    /// 0 none, 1 no fence in calls, 2 no fence in closing.
    pub(super) static DEFECT: AtomicU8 = AtomicU8::new(0);

    pub(super) fn light() {
        if DEFECT.load(Plain::Relaxed) != 1 {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    pub(super) fn paid() {
        light();
    }

    pub(super) fn heavy() -> bool {
        if DEFECT.load(Plain::Relaxed) != 2 {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
        true
    }
}

use std::sync::Mutex;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use sync::{AtomicPtr, AtomicU32, AtomicU64, DEFECT};
use table::{Closed, Entry, Open, Record, Table};

const KIND: u8 = 3;

/// An object: loom watches who reads it while it is released.
struct Object(UnsafeCell<u32>);

/// Where a token led.
#[derive(Clone, Copy)]
struct Known {
    token: u64,
    entry: *const Entry,
    object: *mut (),
}

// SAFETY: what it leads to is shared as the table shares it.
unsafe impl Send for Known {}

struct World {
    table: Table,
    records: Vec<*mut Record>,
    released: AtomicU32,
}

// SAFETY: the records are shared as the table shares them.
unsafe impl Send for World {}
// SAFETY: the same.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<Self> {
        let table = Table {
            chunks: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            len: AtomicU32::new(0),
            free: AtomicU64::new(0),
            records: AtomicPtr::new(core::ptr::null_mut()),
        };
        let mut records = Vec::new();
        for _ in 0..2 {
            let record = Box::into_raw(Box::new(Record::new()));
            table.join(|| Some(record)).unwrap();
            records.push(record);
        }
        Arc::new(Self { table, records, released: AtomicU32::new(0) })
    }

    fn open(&self) -> u64 {
        let object = Box::into_raw(Box::new(Object(UnsafeCell::new(7))));
        self.table.insert(object.cast(), KIND).unwrap()
    }

    fn hazard(&self, thread: usize) -> &AtomicU64 {
        // SAFETY: a record lives as long as the world.
        &unsafe { &*self.records[thread] }.hazards[0]
    }

    /// A call of `thread`: what it read of the object, if the handle was open.
    fn call(&self, thread: usize, token: u64) -> Option<u32> {
        let hazard = self.hazard(thread);
        match self.table.pin(hazard, token) {
            Ok((entry, object)) => {
                // SAFETY: the table says that it is there until `unpin`; loom notices where that is wrong.
                let object = unsafe { &*object.cast::<Object>() };
                // SAFETY: nobody writes while calls read.
                let value = object.0.with(|value| unsafe { *value });
                self.release(self.table.unpin(hazard, entry, token), token);
                Some(value)
            }
            Err(last) => {
                self.release(last, token);
                None
            }
        }
    }

    /// An open handle, as a thread knows it from a call before.
    fn known(&self, token: u64) -> Known {
        let hazard = self.hazard(0);
        let (entry, object) = self.table.pin(hazard, token).unwrap();
        assert_eq!(self.table.unpin(hazard, entry, token), None);
        Known { token, entry, object }
    }

    /// A call of `thread` on two handles that it knows: whether both were open.
    fn call_two(&self, thread: usize, known: [Known; 2]) -> bool {
        // SAFETY: a record lives as long as the world.
        let [first, second] = &unsafe { &*self.records[thread] }.hazards;
        // SAFETY: entries live as long as the table.
        let entries = known.map(|known| unsafe { &*known.entry });
        let (hazards, tokens) = ([first, second], known.map(|known| known.token));
        let open = tokens.map(Open::of);
        let both = self.table.pin_two(hazards, entries, tokens, open);
        for known in known.iter().filter(|_| both) {
            // SAFETY: the table says that it is there until `unpin_two`; loom notices where that is wrong.
            let object = unsafe { &*known.object.cast::<Object>() };
            // SAFETY: nobody writes while calls read.
            assert_eq!(object.0.with(|value| unsafe { *value }), 7);
        }
        if !self.table.unpin_two(hazards, entries, open) {
            for (entry, token) in entries.into_iter().zip(tokens) {
                self.release(self.table.ended(entry, token), token);
            }
        }
        both
    }

    fn close(&self, token: u64) -> bool {
        match self.table.close(token) {
            Closed::Unknown => return false,
            Closed::InUse => {}
            Closed::Release(object) => self.release(Some(object), token),
        }
        true
    }

    fn release(&self, object: Option<*mut ()>, token: u64) {
        let Some(object) = object else { return };
        // SAFETY: the table gives it to one caller alone.
        let object = unsafe { Box::from_raw(object.cast::<Object>()) };
        // SAFETY: nobody reads any more; loom notices where that is wrong.
        object.0.with_mut(|value| unsafe { *value = 0 });
        drop(object);
        self.released.fetch_add(1, sync::Ordering::Relaxed);
        self.table.released(token);
    }

    fn released(&self) -> u32 {
        self.released.load(sync::Ordering::Relaxed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for record in self.records.drain(..) {
            // SAFETY: each came from a box, and the world ends.
            drop(unsafe { Box::from_raw(record) });
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// One thread calls, another closes: the call reads a whole object or is refused, and the object is released once.
fn close_in_use() {
    let world = World::new();
    let token = world.open();
    let other = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            if let Some(value) = world.call(1, token) {
                assert_eq!(value, 7);
            }
        })
    };
    assert!(world.close(token));
    other.join().unwrap();
    assert_eq!(world.released(), 1, "released by whoever was last");
    assert_eq!(world.call(0, token), None);
    assert!(!world.close(token));
}

/// Both threads call, and one closes between: whoever is last releases.
fn two_calls() {
    let world = World::new();
    let token = world.open();
    let other = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let _ = world.call(1, token);
        })
    };
    let hazard = world.hazard(0);
    let (entry, object) = world.table.pin(hazard, token).unwrap();
    assert!(world.close(token), "from inside a call");
    // SAFETY: this call has not ended.
    let value = unsafe { &*object.cast::<Object>() }.0.with(|value| unsafe { *value });
    assert_eq!(value, 7);
    world.release(world.table.unpin(hazard, entry, token), token);
    other.join().unwrap();
    assert_eq!(world.released(), 1);
}

/// Two threads close one handle, and a handle that is opened meanwhile is another one.
fn two_close() {
    let world = World::new();
    let token = world.open();
    let other = {
        let world = Arc::clone(&world);
        thread::spawn(move || (world.close(token), world.open()))
    };
    let own = (world.close(token), world.open());
    let other = other.join().unwrap();
    assert!(own.0 != other.0, "one of them closed it");
    assert!(own.1 != other.1 && own.1 != token && other.1 != token, "tokens are new");
    assert_eq!(world.released(), 1);
    assert_eq!((world.call(0, own.1), world.call(0, other.1), world.call(0, token)), (Some(7), Some(7), None));
    assert!(world.close(own.1) && world.close(other.1));
}

/// One thread calls with two handles that it knows, and another closes both: each is released once, and not before.
fn close_two_in_use() {
    let world = World::new();
    let tokens = [world.open(), world.open()];
    let known = tokens.map(|token| world.known(token));
    let other = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let _ = world.call_two(1, known);
        })
    };
    assert!(world.close(tokens[1]) && world.close(tokens[0]));
    other.join().unwrap();
    assert_eq!(world.released(), 2, "released by whoever was last");
    assert!(!world.call_two(0, known), "a closed handle is refused where it was known, too");
}

/// `DEFECT` is one for all tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn with_defect(defect: u8, model: fn()) -> bool {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    DEFECT.store(defect, core::sync::atomic::Ordering::Relaxed);
    let result = std::panic::catch_unwind(move || check(model));
    DEFECT.store(0, core::sync::atomic::Ordering::Relaxed);
    result.is_ok()
}

#[test]
fn a_handle_can_be_closed_while_a_call_uses_it() {
    assert!(with_defect(0, close_in_use));
}

#[test]
fn the_last_of_two_calls_releases() {
    assert!(with_defect(0, two_calls));
}

#[test]
fn one_of_two_closes_and_tokens_are_never_given_twice() {
    assert!(with_defect(0, two_close));
}

#[test]
fn two_handles_can_be_closed_while_one_call_uses_both() {
    assert!(with_defect(0, close_two_in_use));
}

#[test]
fn without_either_half_of_the_fence_a_model_fails() {
    assert!(!with_defect(1, close_in_use), "calls without their fence");
    assert!(!with_defect(2, close_in_use), "closing without its fence");
    assert!(!with_defect(1, close_two_in_use), "calls on two handles without their fence");
    assert!(!with_defect(2, close_two_in_use), "closing two without its fence");
}
