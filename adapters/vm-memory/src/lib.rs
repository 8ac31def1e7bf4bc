//! Guest memory of a rust-vmm hypervisor as the [`PhysRead`] of `vgpu-perception`.
//!
//! Every byte is read through the atomic loads of `vm-memory`: no slice of guest RAM is ever made, and a word that a
//! virtual processor stores meanwhile is seen whole or not at all.
//!
//! ```
//! use vgpu_perception::{Gpa, PhysRead};
//! use vgpu_perception_vm_memory::VmMemory;
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//!
//! let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[
//!     (GuestAddress(0), 2 << 20),
//!     (GuestAddress(4 << 30), 2 << 20),
//! ])?;
//! memory.write_obj(7_u64, GuestAddress((4 << 30) + 8))?;
//!
//! let ram = VmMemory::new(&memory);
//! assert_eq!(ram.load_u64(Gpa::new((4 << 30) + 8)), Ok(7));
//! assert!(ram.load_u64(Gpa::new(3 << 30)).is_err(), "the hole stays a hole");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::Ordering;
use std::fs::File;
use std::os::fd::AsRawFd as _;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vgpu_perception::{Extent, Gpa, PageKind, PhysError, PhysErrorKind, PhysRead};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{
    Address as _, Bytes as _, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, VolatileMemoryError,
    VolatileSlice,
};

/// The RAM of a guest behind a [`GuestMemoryBackend`].
///
/// It borrows the memory: make one from each snapshot of a map that changes (`GuestMemoryAtomic`).
pub struct VmMemory<'m, B: ?Sized> {
    memory: &'m B,
    stretches: Vec<Stretch>,
}

/// A region of the memory; ascending.
struct Stretch {
    start: u64,
    len: u64,
    /// The file behind it, opened anew: asking it where it has data moves the position of a descriptor.
    file: Option<(File, u64)>,
}

impl<B: ?Sized> fmt::Debug for VmMemory<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions = self.stretches.iter().map(|stretch| (stretch.start, stretch.len, stretch.file.is_some()));
        f.debug_list().entries(regions).finish()
    }
}

impl<'m, B: GuestMemoryBackend + ?Sized> VmMemory<'m, B> {
    /// Reads `memory`.
    ///
    /// Where a region is backed by a file, its holes are left out of passes over physical memory, which would allocate
    /// them. That takes `/proc`; without it, all of the region counts as data.
    #[must_use]
    pub fn new(memory: &'m B) -> Self {
        let mut stretches: Vec<_> = memory
            .iter()
            .map(|region| Stretch {
                start: region.start_addr().raw_value(),
                len: region.len(),
                file: region.file_offset().and_then(|at| {
                    let path = format!("/proc/self/fd/{}", at.file().as_raw_fd());
                    Some((File::open(path).ok()?, at.start()))
                }),
            })
            .collect();
        stretches.sort_by_key(|stretch| stretch.start);
        Self { memory, stretches }
    }

    /// Reads the physical memory under `memory`; `None` where it does not say what that is. Page tables hold physical
    /// addresses, so an IOMMU's view is of no use.
    #[must_use]
    pub fn of<M: GuestMemory<PhysicalMemory = B> + ?Sized>(memory: &'m M) -> Option<Self> {
        memory.physical_memory().map(Self::new)
    }

    fn word<T: vm_memory::AtomicAccess>(&self, gpa: Gpa) -> Result<T, PhysError> {
        let at = gpa.get();
        if !at.is_multiple_of(size_of::<T>() as u64) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let slice = self.memory.get_slice(GuestAddress(at), size_of::<T>()).map_err(|_| hole(gpa))?;
        slice.load(0, Ordering::Relaxed).map_err(|error| refused(gpa, &error))
    }

    /// The part of `len` bytes at `gpa` that lies in one region.
    fn piece(&self, gpa: Gpa, len: usize) -> Result<usize, PhysError> {
        let after = self.stretches.partition_point(|stretch| stretch.start <= gpa.get());
        let stretch = after.checked_sub(1).and_then(|index| self.stretches.get(index)).ok_or(hole(gpa))?;
        let left = stretch.len.saturating_sub(gpa.get() - stretch.start);
        if left == 0 { Err(hole(gpa)) } else { Ok(usize::try_from(left).unwrap_or(usize::MAX).min(len)) }
    }
}

const fn hole(gpa: Gpa) -> PhysError {
    PhysError::new(gpa, PhysErrorKind::Gap)
}

fn refused(gpa: Gpa, error: &VolatileMemoryError) -> PhysError {
    let kind = match error {
        VolatileMemoryError::Misaligned { .. } => PhysErrorKind::Misaligned,
        _ => PhysErrorKind::Gap,
    };
    PhysError::new(gpa, kind)
}

/// Copies all of `from`: whole words where the host's address is aligned, bytes around them.
fn copy<S: BitmapSlice>(from: &VolatileSlice<'_, S>, dst: &mut [u8]) -> Result<(), VolatileMemoryError> {
    let skew = from.ptr_guard().as_ptr().align_offset(8).min(dst.len());
    let (head, rest) = dst.split_at_mut(skew);
    let (words, tail) = rest.as_chunks_mut::<8>();
    let mut at = 0;
    for byte in head {
        *byte = from.load(at, Ordering::Relaxed)?;
        at += 1;
    }
    for word in words {
        *word = from.load::<u64>(at, Ordering::Relaxed)?.to_ne_bytes();
        at += 8;
    }
    for byte in tail {
        *byte = from.load(at, Ordering::Relaxed)?;
        at += 1;
    }
    Ok(())
}

impl<B: GuestMemoryBackend + ?Sized> PhysRead for VmMemory<'_, B> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        let mut at = gpa;
        let mut rest = dst;
        // Neighbouring regions are one stretch of RAM to the guest.
        while !rest.is_empty() {
            let len = self.piece(at, rest.len())?;
            let (head, tail) = rest.split_at_mut(len);
            let slice = self.memory.get_slice(GuestAddress(at.get()), len).map_err(|_| hole(at))?;
            copy(&slice, head).map_err(|error| refused(at, &error))?;
            at = at.wrapping_add(len as u64);
            rest = tail;
        }
        Ok(())
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.word::<u32>(gpa).map(u32::from_le)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.word::<u64>(gpa).map(u64::from_le)
    }

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        let bytes = dst.len().saturating_mul(8);
        let whole = gpa.get().is_multiple_of(8) && self.piece(gpa, bytes) == Ok(bytes);
        let slice = if whole { self.memory.get_slice(GuestAddress(gpa.get()), bytes).ok() } else { None };
        let mut at = gpa;
        for (index, word) in dst.iter_mut().enumerate() {
            *word = match &slice {
                Some(slice) => {
                    let raw = slice.load::<u64>(index * 8, Ordering::Relaxed);
                    u64::from_le(raw.map_err(|error| refused(at, &error))?)
                }
                // It crosses from one region to the next, or into a hole.
                None => self.load_u64(at)?,
            };
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        match self.next_extent(page) {
            Ok(Some(extent)) if extent.start == page => PageKind::Data,
            _ if self.piece(page, 1).is_ok() => PageKind::Hole,
            _ => PageKind::Gap,
        }
    }

    fn ram_end(&self) -> Gpa {
        self.stretches.last().map_or(Gpa::new(0), |last| Gpa::new(last.start.saturating_add(last.len)))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        for stretch in &self.stretches {
            let skip = from.get().saturating_sub(stretch.start);
            if skip >= stretch.len {
                continue;
            }
            let (start, len) = (stretch.start + skip, stretch.len - skip);
            let Some((file, offset)) = &stretch.file else {
                return Ok(Some(Extent { start: Gpa::new(start), len }));
            };
            let first = offset + skip;
            let end = offset + stretch.len;
            let failed = |errno: Errno| PhysError::new(Gpa::new(start), PhysErrorKind::Backend(errno.raw_os_error()));
            match rustix::fs::seek(file, SeekFrom::Data(first)) {
                Ok(data) if data < end => {
                    // A file always ends with a hole, so there is one.
                    let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).map_err(failed)?.min(end);
                    let extent =
                        Extent { start: Gpa::new(start + (data - first)), len: hole.saturating_sub(data).max(1) };
                    return Ok(Some(extent));
                }
                Ok(_) | Err(Errno::NXIO) => {}
                // Devices, and file systems that cannot tell: all of it.
                Err(Errno::INVAL | Errno::SPIPE | Errno::OPNOTSUPP) => {
                    return Ok(Some(Extent { start: Gpa::new(start), len }));
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(None)
    }
}
