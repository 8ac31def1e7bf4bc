//! The memory of a region, as its writer sees it.

use core::sync::atomic::{Ordering, fence};

/// Word-granular writing to memory that readers look at meanwhile.
///
/// Offsets count from the start of the region, in bytes, and are multiples of the word's size. Words are little-endian
/// in memory. The stores are relaxed: order comes from [`fence_release`](Self::fence_release) alone. The release stores
/// are made of a fence and a relaxed store, so that a memory that leaves one of them out can show which are needed.
pub trait RegionWrite {
    /// Stores a `u32`, relaxed.
    fn store_u32(&self, offset: u64, value: u32);

    /// Stores a `u64`, relaxed. Payload may take two `u32` stores instead; fields that have no seqlock may not.
    fn store_u64(&self, offset: u64, value: u64);

    /// What was stored before is seen by whoever sees what is stored after, if an acquire fence stands between their
    /// loads.
    fn fence_release(&self) {
        fence(Ordering::Release);
    }

    /// Stores a `u32` after a release fence.
    fn store_release_u32(&self, offset: u64, value: u32) {
        self.fence_release();
        self.store_u32(offset, value);
    }

    /// Stores a `u64` after a release fence.
    fn store_release_u64(&self, offset: u64, value: u64) {
        self.fence_release();
        self.store_u64(offset, value);
    }

    /// Stores pixels, relaxed: `u64` words where `offset` allows, a `u32` at either end where it does not.
    ///
    /// `offset` is a multiple of 4. Up to three bytes that do not make a pixel at the end of `bytes` are not stored.
    fn store_bytes(&self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        if !at.is_multiple_of(8)
            && let Some((head, tail)) = rest.split_first_chunk()
        {
            self.store_u32(at, u32::from_le_bytes(*head));
            at = at.wrapping_add(4);
            rest = tail;
        }
        while let Some((word, tail)) = rest.split_first_chunk() {
            self.store_u64(at, u64::from_le_bytes(*word));
            at = at.wrapping_add(8);
            rest = tail;
        }
        if let Some((last, _)) = rest.split_first_chunk() {
            self.store_u32(at, u32::from_le_bytes(*last));
        }
    }
}

impl<W: RegionWrite + ?Sized> RegionWrite for &W {
    fn store_u32(&self, offset: u64, value: u32) {
        (**self).store_u32(offset, value);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        (**self).store_u64(offset, value);
    }

    fn fence_release(&self) {
        (**self).fence_release();
    }

    fn store_release_u32(&self, offset: u64, value: u32) {
        (**self).store_release_u32(offset, value);
    }

    fn store_release_u64(&self, offset: u64, value: u64) {
        (**self).store_release_u64(offset, value);
    }

    fn store_bytes(&self, offset: u64, bytes: &[u8]) {
        (**self).store_bytes(offset, bytes);
    }
}
