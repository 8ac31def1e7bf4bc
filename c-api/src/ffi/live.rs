//! Which handles are open: asked before an address is dereferenced.

pub(super) use imp::lock;

#[cfg(feature = "std")]
mod imp {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    pub(in crate::ffi) struct Live(MutexGuard<'static, BTreeMap<usize, u64>>);

    static LIVE: Mutex<BTreeMap<usize, u64>> = Mutex::new(BTreeMap::new());

    pub(in crate::ffi) fn lock() -> Live {
        // Nothing panics while it is locked; if something did, the map is still whole.
        Live(LIVE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    impl Live {
        pub(in crate::ffi) fn contains(&self, addr: usize, magic: u64) -> bool {
            self.0.get(&addr) == Some(&magic)
        }

        pub(in crate::ffi) fn insert(&mut self, addr: usize, magic: u64) -> bool {
            self.0.insert(addr, magic).is_none()
        }

        pub(in crate::ffi) fn remove(&mut self, addr: usize) {
            self.0.remove(&addr);
        }
    }
}

/// Without a heap there is no list: the mark in the storage is all that tells.
#[cfg(not(feature = "std"))]
mod imp {
    pub(in crate::ffi) struct Live;

    pub(in crate::ffi) const fn lock() -> Live {
        Live
    }

    impl Live {
        pub(in crate::ffi) const fn contains(&self, _: usize, _: u64) -> bool {
            true
        }

        pub(in crate::ffi) const fn insert(&mut self, _: usize, _: u64) -> bool {
            true
        }

        pub(in crate::ffi) const fn remove(&mut self, _: usize) {}
    }

    impl Drop for Live {
        fn drop(&mut self) {}
    }
}
