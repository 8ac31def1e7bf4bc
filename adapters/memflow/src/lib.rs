//! A memflow connector as the [`PhysRead`] of `vgpu-perception`: qemu, kvm, pcileech, coredump and the others.
//!
//! What it can promise is what its connector does:
//!
//! * **Atomicity.** A word is one request of its size. A connector over mapped memory answers it with one load in
//!   practice; one over a file, a debugger or DMA may not, and then a 64-bit field that is not under a seqlock is a
//!   best effort.
//! * **Ordering.** Requests are made one after the other, and a request's bytes are there when it returns.
//! * **Holes.** What a connector says that it could not read is an error. One that fills holes with zeros itself cannot
//!   be told apart: give the guest's RAM as extents.
//! * **Caches.** Take the connector itself. Under memflow's `CachedPhysicalMemory` nothing here is true.
//!
//! ```
//! use memflow::connector::{CloneFile, FileIoMemory};
//! use memflow::mem::MemoryMap;
//! use memflow::types::{Address, umem};
//! use vgpu_perception::{Extent, Gpa, PhysRead};
//! use vgpu_perception_memflow::Memflow;
//!
//! # let path = std::env::temp_dir().join(format!("vgpu-memflow-doc-{}", std::process::id()));
//! # std::fs::write(&path, [7; 8192])?;
//! // A RAM file of two pages, the second of them at 4 GiB.
//! let mut map = MemoryMap::new();
//! map.push_remap(Address::from(0_u64), 4096, Address::from(0_u64));
//! map.push_remap(Address::from(4_u64 << 30), 4096, Address::from(4096_u64));
//! let connector = FileIoMemory::with_mem_map(CloneFile::from(std::fs::File::open(&path)?), map)?;
//!
//! let page = |start| Extent { start: Gpa::new(start), len: 4096 };
//! let ram = Memflow::new(connector, vec![page(0), page(4 << 30)])?;
//! assert_eq!(ram.load_u32(Gpa::new(4 << 30)), Ok(0x0707_0707));
//! assert!(ram.load_u32(Gpa::new(1 << 30)).is_err());
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use core::fmt;
use std::sync::{Mutex, PoisonError};

use memflow::cglue::result::IntError as _;
use memflow::cglue::{CSliceMut, CTup2};
use memflow::mem::mem_data::ReadData;
use memflow::mem::{MemOps, PhysicalMemory};
use memflow::types::{Address, PhysicalAddress};
use vgpu_perception::{CopyHint, Extent, Gpa, PhysError, PhysErrorKind, PhysRead, PhysRun, next_in};
use zerocopy::IntoBytes;

/// The RAM of a guest behind a memflow connector.
///
/// Connectors read through `&mut`, so one request at a time is made; a handle can be shared by threads all the same.
pub struct Memflow<M> {
    connector: Mutex<M>,
    extents: Vec<Extent>,
}

impl<M> fmt::Debug for Memflow<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memflow").field("extents", &self.extents).finish_non_exhaustive()
    }
}

impl<M: PhysicalMemory> Memflow<M> {
    /// Reads through `connector`, for a guest whose RAM lies at `extents`.
    ///
    /// # Errors
    /// [`ExtentError`] where they are empty, do not ascend, or overlap.
    pub fn new(connector: M, extents: Vec<Extent>) -> Result<Self, ExtentError> {
        let mut end = 0;
        for extent in &extents {
            let after = extent.start.get().checked_add(extent.len);
            match after {
                Some(after) if extent.len > 0 && extent.start.get() >= end => end = after,
                _ => return Err(ExtentError(*extent)),
            }
        }
        Ok(Self { connector: Mutex::new(connector), extents })
    }

    /// Reads through `connector`, for a guest whose RAM is all of the connector's addresses: a connector does not tell
    /// where its holes are.
    #[must_use]
    pub fn flat(connector: M) -> Self {
        let len = connector.metadata().max_address.to_umem().saturating_add(1);
        Self { connector: Mutex::new(connector), extents: vec![Extent { start: Gpa::new(0), len }] }
    }

    /// The connector back.
    pub fn into_connector(self) -> M {
        self.connector.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the RAM that starts at `gpa` ends, if it has `len` bytes there.
    fn check(&self, gpa: Gpa, len: usize) -> Result<(), PhysError> {
        let mut at = gpa;
        let mut left = len as u64;
        while left > 0 {
            // Neighbouring extents are one stretch of RAM to the guest.
            let extent = next_in(&self.extents, at).filter(|extent| extent.start == at);
            let Some(extent) = extent else { return Err(PhysError::new(at, PhysErrorKind::Gap)) };
            left = left.saturating_sub(extent.len);
            at = extent.end();
        }
        Ok(())
    }

    /// Makes one request of all `parts`, which have `len` bytes together.
    fn request<'d>(&self, parts: impl Iterator<Item = (Gpa, &'d mut [u8])>, len: usize) -> Result<(), PhysError> {
        let mut got = 0_usize;
        let mut refused = None;
        let take = &mut |CTup2(_, data): ReadData<'_>| {
            got = got.saturating_add(data.len());
            true
        };
        let refuse = &mut |CTup2(at, _): ReadData<'_>| {
            let at: Address = at;
            refused.get_or_insert(at);
            true
        };
        let parts = parts.map(|(gpa, part)| (PhysicalAddress::from(Address::from(gpa.get())), CSliceMut::from(part)));
        let outcome = {
            let mut connector = self.connector.lock().unwrap_or_else(PoisonError::into_inner);
            MemOps::with(parts, Some(&mut take.into()), Some(&mut refuse.into()), |ops| {
                connector.phys_read_raw_iter(ops)
            })
        };
        match (outcome, refused) {
            (_, Some(at)) => Err(PhysError::new(Gpa::new(at.to_umem()), PhysErrorKind::Gap)),
            (Err(error), None) => {
                let code = error.into_int_err().get();
                Err(PhysError::new(Gpa::new(0), PhysErrorKind::Backend(code)))
            }
            // A connector that reports neither success nor failure for a part has not read it.
            (Ok(()), None) if got != len => Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength)),
            (Ok(()), None) => Ok(()),
        }
    }

    fn word<T: IntoBytes + zerocopy::FromBytes + Default>(&self, gpa: Gpa) -> Result<T, PhysError> {
        if !gpa.get().is_multiple_of(size_of::<T>() as u64) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        // A number, not an array of bytes: aligned for a connector that copies it with one load.
        let mut word = T::default();
        self.read(gpa, word.as_mut_bytes())?;
        Ok(word)
    }
}

impl<M: PhysicalMemory> PhysRead for Memflow<M> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.check(gpa, dst.len())?;
        let len = dst.len();
        self.request(core::iter::once((gpa, dst)), len).map_err(|error| at_least(error, gpa))
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.word::<u32>(gpa).map(u32::from_le)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.word::<u64>(gpa).map(u64::from_le)
    }

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let len = size_of_val(dst);
        self.check(gpa, len)?;
        // One request, a word each.
        let words = (0_u64..).zip(dst.iter_mut()).map(|(n, word)| (gpa.wrapping_add(8 * n), word.as_mut_bytes()));
        self.request(words, len).map_err(|error| at_least(error, gpa))?;
        for word in dst {
            *word = u64::from_le(*word);
        }
        Ok(())
    }

    /// All runs are one request: a connector that has to ask a device asks once.
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], _: CopyHint) -> Result<(), PhysError> {
        let total = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.len));
        if total != dst.len() as u64 {
            let gpa = runs.first().map_or(Gpa::new(0), |run| run.gpa);
            return Err(PhysError::new(gpa, PhysErrorKind::BadLength));
        }
        let mut parts = Vec::with_capacity(runs.len());
        let len = dst.len();
        let mut rest = dst;
        for run in runs {
            // They add up to what there is, so each fits.
            let (part, tail) = rest.split_at_mut(usize::try_from(run.len).unwrap_or(rest.len()));
            self.check(run.gpa, part.len())?;
            parts.push((run.gpa, part));
            rest = tail;
        }
        let first = runs.first().map_or(Gpa::new(0), |run| run.gpa);
        self.request(parts.into_iter(), len).map_err(|error| at_least(error, first))
    }

    fn ram_end(&self) -> Gpa {
        self.extents.last().map_or(Gpa::new(0), |last| last.end())
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        Ok(next_in(&self.extents, from))
    }
}

/// Names the request where the connector named nothing.
fn at_least(error: PhysError, gpa: Gpa) -> PhysError {
    if error.gpa == Gpa::new(0) { PhysError { gpa, ..error } } else { error }
}

/// An extent that is empty, passes 2^64, or does not lie behind the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentError(pub Extent);

impl fmt::Display for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extent { start, len } = self.0;
        write!(
            f,
            "the extent of {len:#x} bytes at {start} is empty, passes 2^64, or does not lie behind the one before it"
        )
    }
}

impl core::error::Error for ExtentError {}

/// The Rust programs of the handbook, compiled: this crate has all of their dependencies for it.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct Handbook;
