//! The bare copies and loads that are the limits, and the peers over the same memory.
//!
//! Nothing here may be held against the library: these functions read a mapping that no guest writes while they run,
//! with known pointers and no checks, because that is what a limit is.

#![allow(unsafe_code, reason = "with `writer` the one module of this crate that may")]

use std::io;

use core::arch::x86_64::{_mm_clflush, _mm_mfence};
use memflow::architecture::x86::x64;
use memflow::connector::MappedPhysicalMemory;
use memflow::mem::MemoryMap;
use memflow::types::{Address, umem};
use vm_memory::MmapRegion;
use x86_64::structures::paging::{OffsetPageTable, PageTable, Translate};
use x86_64::{PhysAddr, VirtAddr};

use crate::writer::Writer;

/// Guest RAM as host memory at a known place: what limits and peers read.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    base: *const u8,
    len: usize,
}

impl Host {
    /// RAM that is mapped at `base` and outlives every use of this value.
    pub(crate) fn new(window: vgpu_perception::Window<'static>) -> Self {
        Self { base: window.as_ptr(), len: window.len() }
    }

    /// The host address of a guest physical one.
    pub(crate) fn at(&self, gpa: u64) -> *const u8 {
        let at = usize::try_from(gpa).expect("an address fits");
        assert!(at < self.len, "{gpa:#x} is outside of the guest");
        self.base.wrapping_add(at)
    }

    /// Loads a word without any check: the walks of the naive comparisons.
    #[inline(always)]
    pub(crate) fn word(&self, gpa: u64) -> u64 {
        let at = self.base.wrapping_add(gpa as usize).cast::<u64>();
        // SAFETY: the benchmark built every table that it follows: addresses lie in the mapping and are multiples of 8.
        unsafe { at.read_volatile() }
    }

    /// Loads half a word without any check.
    #[inline(always)]
    pub(crate) fn half(&self, gpa: u64) -> u32 {
        let at = self.base.wrapping_add(gpa as usize).cast::<u32>();
        // SAFETY: as in `word`.
        unsafe { at.read_volatile() }
    }

    /// `x86_64`'s page table over this memory.
    pub(crate) fn offset_table(&self, root: u64) -> OffsetPageTable<'static> {
        let table = self.at(root).cast_mut().cast::<PageTable>();
        // SAFETY: the table stays mapped to the end of the program; only translations are asked for, which do not
        // write.
        let table = unsafe { &mut *table };
        // SAFETY: all of the guest's physical memory lies from `base` on, and `root` is a table of the benchmark's
        // making.
        unsafe { OffsetPageTable::new(table, VirtAddr::new(self.base as u64)) }
    }

    /// memflow's connector over this memory.
    pub(crate) fn connector(&self) -> MappedPhysicalMemory<&'static [u8], MemoryMap<&'static [u8]>> {
        let mut map = MemoryMap::<(Address, umem)>::new();
        map.push(Address::from(0_u64), (Address::from(self.base as u64), self.len as umem));
        // SAFETY: the mapping stays to the end of the program, and nobody writes it while memflow reads.
        unsafe { MappedPhysicalMemory::from_addrmap(map) }
    }

    /// vm-memory's region over this memory.
    pub(crate) fn region(&self) -> MmapRegion {
        let (read, shared) = (1, 1);
        // SAFETY: the mapping stays to the end of the program and has these rights; the region does not own it.
        unsafe { MmapRegion::build_raw(self.base.cast_mut(), self.len, read, shared) }.expect("a region")
    }
}

/// memflow's translator for the tables at `root`.
pub(crate) fn memflow_translator(root: u64) -> impl memflow::mem::VirtualTranslate3 {
    x64::new_translator(Address::from(root))
}

/// `x86_64`'s translation.
#[inline(always)]
pub(crate) fn offset_translate(table: &OffsetPageTable<'_>, gva: u64) -> u64 {
    table.translate_addr(VirtAddr::new(gva)).map_or(0, PhysAddr::as_u64)
}

/// The library's `memcpy`, called once for every piece of `step` bytes with its pointer known.
pub(crate) fn memcpy_pieces(pieces: &[*const u8], step: usize, dst: &mut [u8]) {
    assert!(pieces.len() * step >= dst.len(), "as many pieces as the buffer has");
    for (piece, to) in pieces.iter().zip(dst.chunks_mut(step)) {
        // SAFETY: a piece has `step` mapped bytes, and `to` is at most as long.
        unsafe { core::ptr::copy_nonoverlapping(*piece, to.as_mut_ptr(), to.len()) };
    }
}

/// Reads `len` bytes once, as fast as a sum can.
pub(crate) fn stream(src: *const u8, len: usize) -> u64 {
    // SAFETY: the caller measures memory that is mapped, and that nobody writes meanwhile.
    let bytes = unsafe { core::slice::from_raw_parts(src, len) };
    consume(bytes)
}

/// Reads a buffer once. The same code for every variant: inlined it was a quarter slower in some of them than in
/// others.
#[inline(never)]
pub(crate) fn consume(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    for line in bytes.chunks_exact(64) {
        for (sum, word) in sums.iter_mut().zip(line.chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("eight bytes")));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// Throws pages of a guest out of all caches, of every core. They go by the guest's own mapping, which no reader reads
/// through: a flush fetches the translations of what it flushes, and those of a reader stay cold.
pub(crate) fn flush_pages(guest: &Writer, pages: &[u64]) {
    for line in pages.iter().flat_map(|page| (*page..page + 4096).step_by(64)) {
        // SAFETY: the instruction, which every processor with the one that `flush` uses and AVX2 has, changes no bytes;
        // the line is mapped, since `at` gives nothing else.
        unsafe {
            core::arch::asm!("clflushopt [{at}]", at = in(reg) guest.at(line, 64), options(nostack, preserves_flags));
        }
    }
    // SAFETY: a fence.
    unsafe { _mm_mfence() };
}

/// Throws lines out of all caches.
pub(crate) fn flush(lines: &[*const u8]) {
    for line in lines {
        // SAFETY: the line is mapped; the instruction changes no bytes.
        unsafe { _mm_clflush(*line) };
    }
    // SAFETY: a fence.
    unsafe { _mm_mfence() };
}

/// A piece of another process's memory.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Remote(libc::iovec);

impl Remote {
    pub(crate) const fn new(addr: usize, len: usize) -> Self {
        Self(libc::iovec { iov_base: core::ptr::without_provenance_mut(addr), iov_len: len })
    }
}

/// Copies pieces of a process with nothing around the system call; as many in a call as one takes.
pub(crate) fn copy_of_process(pid: u32, pieces: &[Remote], piece: usize, dst: &mut [u8]) {
    for (pieces, dst) in pieces.chunks(1024).zip(dst.chunks_mut(1024 * piece)) {
        let local = libc::iovec { iov_base: dst.as_mut_ptr().cast(), iov_len: dst.len() };
        let (from, count) = (pieces.as_ptr().cast::<libc::iovec>(), pieces.len() as libc::c_ulong);
        // SAFETY: `local` is all of `dst`, which is exclusive; `Remote` is an `iovec`, of which there are `count`; the
        // kernel checks the addresses in them, which are the other process's.
        let copied = unsafe { libc::process_vm_readv(pid.cast_signed(), &raw const local, 1, from, count, 0) };
        assert_eq!(usize::try_from(copied), Ok(dst.len()), "{}", io::Error::last_os_error());
    }
}
