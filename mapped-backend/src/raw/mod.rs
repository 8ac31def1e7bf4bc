//! The one module with `unsafe`: mappings of RAM files, and every load from them.
//!
//! What makes the loads sound although another machine writes the bytes meanwhile:
//!
//! * The memory is none of Rust's: it comes from `mmap`, no Rust object lies in it, nothing here ever makes a reference
//!   into it, and no other part of this program writes it (the mapping is read-only, and so is its file descriptor). The
//!   language sees it only through the loads below.
//! * Words are relaxed atomic loads; an atomic load may race with any store of the same size. Of stores of other sizes the
//!   language says nothing; on the machines that this crate is for, an aligned load is one access whatever the stores are.
//! * Copies on x86-64 are assembly: the compiler knows only that memory changed, and an instruction cannot have a data
//!   race. Elsewhere they are relaxed atomic loads.
//! * What was loaded is bytes and integers, which have no invalid values.

#![allow(unsafe_code, reason = "the one module of this crate that may")]

#[cfg(any(miri, not(target_arch = "x86_64")))]
mod atomic;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod bursts;
mod copy;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod lines;
mod piece;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod plain;
mod sigbus;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod turn;
mod view;

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vgpu_perception::{CopyHint, CopyPolicy, Gpa, PhysError, PhysErrorKind, PhysRun, Window};
use volatile::VolatilePtr;
use zerocopy::FromBytes;

use crate::plan::{self, Chooser, Copying, Cpu, Method, Shape};
use piece::Piece;

pub(crate) use sigbus::{Full, Watch};
pub use sigbus::{MAX_GUARDED, SigbusGuard};
pub use view::{MappedView, ViewList};

/// A whole file, mapped `MAP_SHARED` and `PROT_READ`.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    watch: Option<Watch>,
}

// SAFETY: a mapping belongs to the process, not to a thread, and nothing in this type is tied to one.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` there are only atomic loads, assembly loads, and `madvise` for reading; none of them needs
// exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, `len` not 0.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: with a null hint and no MAP_FIXED the kernel picks a free range, so that no memory in use is replaced.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, watch: None })
    }

    /// Bytes of it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Has the signal handler watch this mapping, together with those of the same guest that are watched already.
    pub(crate) fn guard(&mut self, guard: SigbusGuard, others: &[Self]) -> Result<(), Full> {
        let leader = others.iter().find_map(|other| other.watch.as_ref());
        self.watch = Some(guard.watch(self.base, self.len, leader)?);
        Ok(())
    }

    /// Advises the kernel on `offset .. offset + len`, which has to lie in the mapping.
    fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        if offset > self.len || len > self.len - offset {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self.base.as_ptr().wrapping_add(offset).cast::<c_void>();
        // SAFETY: the range lies in this mapping (just checked), and the two kinds of advice that callers in this module
        // pass (populate for reading, huge pages) change neither its bytes nor its rights.
        unsafe { rustix::mm::madvise(start, len, advice) }?;
        Ok(())
    }

    /// Maps the pages of a range in for reading (`MADV_POPULATE_READ`, Linux 5.14).
    pub(crate) fn populate_read(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, Advice::LinuxPopulateRead)
    }

    /// Says that huge pages are welcome in a range (`MADV_HUGEPAGE`).
    pub(crate) fn want_huge(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, Advice::LinuxHugepage)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The handler must forget the range before the kernel may give it to somebody else.
        self.watch = None;
        // SAFETY: the range was mapped by `new`, is unmapped once, and whatever could load from it borrows from `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "the range is the one that mmap gave");
    }
}

/// A segment as the loads need it: guest physical memory and where it is mapped.
#[derive(Clone, Copy)]
struct Span {
    gpa: u64,
    len: u64,
    /// Where guest physical 0 would be mapped if the segment reached that far down: adding an address of the segment to it
    /// gives the host's. This keeps the comparison out of the way of the load.
    zero: *const u8,
}

impl Span {
    /// Covers nothing: no offset is below a length of 0.
    const NOWHERE: Self = Self { gpa: 0, len: 0, zero: ptr::null() };
}

/// Where a segment lies, as the safe part of the crate says it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) gpa: Gpa,
    pub(crate) len: u64,
    pub(crate) map: usize,
    pub(crate) offset: u64,
}

/// The RAM of one guest: its mappings, and its segments by guest physical address.
pub(crate) struct Space {
    /// The segment at guest physical 0 again, and the one after it: all that most machines have. They need no search.
    low: Span,
    high: Span,
    /// Set once bytes are lost, where the mappings are watched for `SIGBUS`.
    lost: Option<&'static AtomicBool>,
    cpu: Cpu,
    chooser: Chooser,
    spans: Box<[Span]>,
    maps: Box<[Mapping]>,
}

// SAFETY: the pointers in the spans lie in `maps`, which is owned here and is Send.
unsafe impl Send for Space {}
// SAFETY: as for `Mapping`: `&Space` only loads, and loads of memory that others write are what this module is for.
unsafe impl Sync for Space {}

/// A guest physical address that was found: its host address and how many bytes follow in its segment, at least 1.
#[derive(Clone, Copy)]
struct Place {
    host: *const u8,
    room: u64,
}

impl Place {
    #[inline(always)]
    fn new(span: &Span, gpa: u64, skip: u64) -> Self {
        Self { host: span.zero.wrapping_add(gpa as usize), room: span.len - skip }
    }
}

impl Space {
    /// Places `segments`, ascending and disjoint, made of whole 4 KiB pages and at multiples of 8 in `maps`; `None` where one
    /// lies outside.
    pub(crate) fn new(maps: Vec<Mapping>, segments: &[Placed]) -> Option<Self> {
        let mut spans = Vec::with_capacity(segments.len());
        for segment in segments {
            let map = maps.get(segment.map)?;
            let len = usize::try_from(segment.len).ok()?;
            let offset = usize::try_from(segment.offset).ok()?;
            let pages = (segment.gpa.get() | segment.len).is_multiple_of(4096) && offset.is_multiple_of(8);
            if !pages || offset > map.len || len > map.len - offset {
                return None;
            }
            let gpa = segment.gpa.get();
            let zero = map.base.as_ptr().wrapping_add(offset).wrapping_sub(usize::try_from(gpa).ok()?);
            spans.push(Span { gpa, len: segment.len, zero: zero.cast_const() });
        }
        let low = spans.first().copied().filter(|span| span.gpa == 0);
        let high = spans.get(usize::from(low.is_some())).copied().unwrap_or(Span::NOWHERE);
        let low = low.unwrap_or(Span::NOWHERE);
        let lost = maps.iter().find_map(|map| map.watch.as_ref()).map(Watch::lost);
        Some(Self {
            low,
            high,
            lost,
            cpu: Cpu::this(),
            chooser: Chooser::new(Cpu::this()),
            spans: spans.into(),
            maps: maps.into(),
        })
    }

    pub(crate) fn maps(&self) -> &[Mapping] {
        &self.maps
    }

    #[inline(always)]
    fn find(&self, gpa: u64) -> Option<Place> {
        if gpa < self.low.len {
            return Some(Place { host: self.low.zero.wrapping_add(gpa as usize), room: self.low.len - gpa });
        }
        self.find_high(gpa)
    }

    /// Cold and inlined: off the fast path, and still no call.
    #[cold]
    #[inline(always)]
    fn find_high(&self, gpa: u64) -> Option<Place> {
        let skip = gpa.wrapping_sub(self.high.gpa);
        if skip < self.high.len { Some(Place::new(&self.high, gpa, skip)) } else { self.search(gpa) }
    }

    /// As `find`, in any segment.
    #[cold]
    #[inline(never)]
    fn search(&self, gpa: u64) -> Option<Place> {
        let after = self.spans.partition_point(|span| span.gpa <= gpa);
        let span = self.spans.get(after.checked_sub(1)?)?;
        let skip = gpa - span.gpa;
        (skip < span.len).then(|| Place::new(span, gpa, skip))
    }

    /// After a copy from `gpa` on: `Lost` once the file shrank under its mapping.
    #[inline(always)]
    fn still_there(&self, gpa: u64) -> Result<(), PhysError> {
        match self.lost {
            None => Ok(()),
            Some(lost) => not_lost(lost, gpa),
        }
    }

    /// After a load of one word. What was lost reads as zeros, so that a word with a bit was there. The lowest bit is the one
    /// to ask: it is P in a table's entry, and a walk branches on it anyway.
    #[inline(always)]
    fn word_there(&self, gpa: u64, word: u64) -> Result<u64, PhysError> {
        if word & 1 == 0 {
            rarely();
            self.still_there(gpa)?;
        }
        Ok(word)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some_and(|lost| lost.load(Ordering::Relaxed))
    }

    /// Where guest memory is low, which is where page tables are in most guests, the address goes straight into the load:
    /// joined with the other ways it would be one step later, four times in a walk.
    #[inline(always)]
    pub(crate) fn load_u64(&self, gpa: u64) -> Result<u64, PhysError> {
        if gpa & 7 != 0 {
            return Err(misaligned(gpa));
        }
        let word = if gpa < self.low.len {
            // SAFETY: the address lies in the segment, which lies inside a live mapping. Segments are whole pages of the
            // guest and start at a multiple of 8 in the host, so a multiple of 8 is one there too and 8 bytes follow.
            unsafe { word_at(self.low.zero.wrapping_add(gpa as usize)) }
        } else {
            let Some(place) = self.find_high(gpa) else { return Err(hole(gpa)) };
            // SAFETY: as above, with the segment that was found.
            unsafe { word_at(place.host) }
        };
        self.word_there(gpa, word)
    }

    #[inline(always)]
    pub(crate) fn load_u32(&self, gpa: u64) -> Result<u32, PhysError> {
        if gpa & 3 != 0 {
            return Err(misaligned(gpa));
        }
        let Some(place) = self.find(gpa) else { return Err(hole(gpa)) };
        // SAFETY: as in `word_at`, with 4 for 8: `find` gave an address in a segment.
        let word = unsafe { AtomicU32::from_ptr(place.host.cast_mut().cast()) }.load(Ordering::Relaxed);
        self.still_there(gpa)?;
        Ok(u32::from_le(word))
    }

    #[inline]
    pub(crate) fn load_words(&self, gpa: u64, dst: &mut [u64]) -> Result<(), PhysError> {
        if gpa & 7 != 0 {
            return Err(misaligned(gpa));
        }
        let bytes = (dst.len() as u64).wrapping_mul(8);
        match self.find(gpa) {
            Some(place) if bytes <= place.room => {
                for (index, word) in dst.iter_mut().enumerate() {
                    let at = place.host.wrapping_add(index * 8);
                    // SAFETY: `find` gave an address in a segment, a multiple of 8 as `gpa` is; the whole of `dst` fits behind
                    // it, so this word does.
                    *word = unsafe { word_at(at) };
                }
                self.still_there(gpa)
            }
            _ => self.load_words_apart(gpa, dst),
        }
    }

    /// As `load_words`, over the edge of a segment.
    #[cold]
    fn load_words_apart(&self, gpa: u64, dst: &mut [u64]) -> Result<(), PhysError> {
        let mut at = gpa;
        for word in dst {
            *word = self.load_u64(at)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    pub(crate) fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), PhysError> {
        let mut at = gpa;
        let mut rest = dst;
        while !rest.is_empty() {
            let Some(place) = self.find(at) else { return Err(hole(at)) };
            let len = usize::try_from(place.room).unwrap_or(usize::MAX).min(rest.len());
            let (head, tail) = rest.split_at_mut(len);
            // SAFETY: `find` gave an address inside a live mapping with at least `head.len()` bytes behind it.
            unsafe { copy::copy(self.cpu, place.host, head) };
            at = at.wrapping_add(len as u64);
            rest = tail;
        }
        self.still_there(gpa)
    }

    /// Copies several ranges, in order, into `dst`, whose length is the sum of theirs.
    pub(crate) fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        let shape = Shape::of(runs, dst);
        let copying = match hint.policy {
            CopyPolicy::Auto => self.chooser.begin(shape, hint),
            _ => None,
        };
        match (copying, hint.policy) {
            (Some(copying), _) => self.read_measured(runs, dst, &copying),
            (None, CopyPolicy::Fixed(method)) => self.read_by(runs, dst, plan::fixed(self.cpu, method)),
            _ => self.read_in_order(runs, dst),
        }
    }

    /// Copies `runs` with one method.
    fn read_by(&self, runs: &[PhysRun], dst: &mut [u8], method: Method) -> Result<(), PhysError> {
        let mut from = Runs::new(runs);
        let mut rest = dst;
        let mut batch = Batch::new();
        while !rest.is_empty() {
            self.gather(&mut from, rest.len(), &mut batch)?;
            rest = self.copy_batch(method, &mut batch, rest);
        }
        self.end(runs, &from)
    }

    /// Copies `runs` as was measured to be fastest, and measures.
    fn read_measured(&self, runs: &[PhysRun], dst: &mut [u8], copying: &Copying<'_>) -> Result<(), PhysError> {
        let mut from = Runs::new(runs);
        let mut rest = dst;
        let mut batch = Batch::new();
        while !rest.is_empty() {
            let step = copying.next(rest.len());
            let method = Method::numbered(step.method).unwrap_or(Method::Plain);
            let bytes = usize::try_from(step.limit).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(bytes);
            let begun = step.is_timed.then(Instant::now);
            let mut to = &mut *part;
            while !to.is_empty() {
                self.gather(&mut from, to.len(), &mut batch)?;
                to = self.copy_batch(method, &mut batch, to);
            }
            let copied = nanoseconds_since(begun);
            if step.is_trial && copying.reads() {
                plan::read_once(part);
            }
            let all = nanoseconds_since(begun);
            copying.learn(step, bytes, copied, all - copied);
            rest = after;
        }
        self.end(runs, &from)
    }

    /// Finds where the next of `runs` lie, at most `bytes` of them, until the batch is full.
    fn gather(&self, from: &mut Runs<'_>, bytes: usize, batch: &mut Batch) -> Result<(), PhysError> {
        while batch.bytes < bytes {
            let Some((at, len)) = from.rest() else {
                return Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength));
            };
            let Some(place) = self.find(at) else { return Err(hole(at)) };
            let len = usize::try_from(place.room).unwrap_or(usize::MAX).min(len).min(bytes - batch.bytes);
            if !batch.add(Piece { host: place.host, len }) {
                break;
            }
            from.pass(len);
        }
        Ok(())
    }

    /// After the last byte: all runs have to be used up.
    fn end(&self, runs: &[PhysRun], from: &Runs<'_>) -> Result<(), PhysError> {
        match from.rest() {
            Some((at, _)) => Err(PhysError::new(Gpa::new(at), PhysErrorKind::BadLength)),
            None => self.still_there(runs.first().map_or(0, |run| run.gpa.get())),
        }
    }

    fn read_in_order(&self, runs: &[PhysRun], dst: &mut [u8]) -> Result<(), PhysError> {
        let mut rest = dst;
        for run in runs {
            let len = usize::try_from(run.len).unwrap_or(usize::MAX);
            let Some((head, tail)) = rest.split_at_mut_checked(len) else {
                return Err(PhysError::new(run.gpa, PhysErrorKind::BadLength));
            };
            self.read(run.gpa.get(), head)?;
            rest = tail;
        }
        if rest.is_empty() { Ok(()) } else { Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength)) }
    }

    /// Copies a batch to the start of `dst`, empties it and gives the rest of `dst`.
    fn copy_batch<'d>(&self, method: Method, batch: &mut Batch, dst: &'d mut [u8]) -> &'d mut [u8] {
        let (head, tail) = dst.split_at_mut(batch.bytes);
        let pieces = batch.pieces.get(..batch.count).unwrap_or_default();
        // SAFETY: `find` gave the address of each piece, inside a mapping that lives as long as `self`, and its length.
        unsafe { copy::copy_pieces(self.cpu, method, pieces, head) };
        batch.count = 0;
        batch.bytes = 0;
        tail
    }

    pub(crate) const fn chooser(&self) -> &Chooser {
        &self.chooser
    }

    /// A view of `len` bytes that lie in one segment.
    pub(crate) fn window(&self, gpa: u64, len: usize) -> Option<Window<'_>> {
        let place = self.find(gpa)?;
        if u64::try_from(len).ok()? > place.room {
            return None;
        }
        Some(Window::new(NonNull::new(place.host.cast_mut())?, len))
    }

    /// A view of `window`, if it lies in one of the mappings.
    pub(crate) fn view<'m>(&'m self, window: Window<'m>) -> Option<MappedView<'m>> {
        MappedView::new(&self.maps, self.cpu, window)
    }

    /// A volatile read of a value that lies in one segment, aligned.
    pub(crate) fn volatile_read<T: FromBytes + Copy>(&self, gpa: u64) -> Result<T, PhysError> {
        if !gpa.is_multiple_of(align_of::<T>() as u64) {
            return Err(misaligned(gpa));
        }
        let Some(place) = self.find(gpa) else { return Err(hole(gpa)) };
        if size_of::<T>() as u64 > place.room {
            return Err(hole(gpa.wrapping_add(place.room)));
        }
        let Some(at) = NonNull::new(place.host.cast_mut().cast::<T>()).filter(|at| at.is_aligned()) else {
            return Err(misaligned(gpa));
        };
        // SAFETY: the address is aligned and `size_of::<T>()` bytes behind it stay mapped for the lifetime of `&self`.
        // Every bit pattern is a `T` (`FromBytes`), so that whatever the guest has written is one. Reads are volatile, and
        // volatile reads of memory outside all Rust allocations have the effect of the machine's own loads.
        let place = unsafe { VolatilePtr::new_read_only(at) };
        Ok(place.read())
    }

    #[inline]
    pub(crate) fn prefetch(&self, gpa: u64) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Some(place) = self.find(gpa) {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch is a hint, it cannot fault whatever the address is.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.host.cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = gpa;
    }
}

/// Loads a word of guest memory.
///
/// # Safety
/// `host` is a multiple of 8, and 8 bytes behind it are mapped.
#[inline(always)]
unsafe fn word_at(host: *const u8) -> u64 {
    // SAFETY: the caller's own promise. The load is relaxed, which std allows on memory that is mapped read-only ("Atomic
    // accesses to read-only memory"), and the reference that `from_ptr` gives is to an atomic and dies at once.
    u64::from_le(unsafe { AtomicU64::from_ptr(host.cast_mut().cast()) }.load(Ordering::Relaxed))
}

/// How many pieces are gathered before they are copied: as many as 2 MiB of a frame can have.
const BATCH: usize = 512;

/// Pieces that were found and not copied yet.
struct Batch {
    pieces: [Piece; BATCH],
    count: usize,
    /// The sum of their lengths.
    bytes: usize,
}

impl Batch {
    const fn new() -> Self {
        Self { pieces: [Piece::NONE; BATCH], count: 0, bytes: 0 }
    }

    /// Takes a piece, or says that there is no room.
    fn add(&mut self, piece: Piece) -> bool {
        let Some(slot) = self.pieces.get_mut(self.count) else { return false };
        *slot = piece;
        self.count += 1;
        self.bytes += piece.len;
        true
    }
}

/// What is left of some runs.
struct Runs<'r> {
    runs: &'r [PhysRun],
    /// Bytes of the first that are done.
    done: u64,
}

impl<'r> Runs<'r> {
    fn new(runs: &'r [PhysRun]) -> Self {
        let mut all = Self { runs, done: 0 };
        all.pass(0);
        all
    }

    /// Where the next byte lies, and how many follow it in its run.
    fn rest(&self) -> Option<(u64, usize)> {
        let run = self.runs.first()?;
        let left = usize::try_from(run.len - self.done).unwrap_or(usize::MAX);
        Some((run.gpa.get().wrapping_add(self.done), left))
    }

    /// Passes bytes of the first run, and then every run that has none left.
    fn pass(&mut self, bytes: usize) {
        self.done += bytes as u64;
        while let Some((run, after)) = self.runs.split_first()
            && run.len <= self.done
        {
            *self = Self { runs: after, done: 0 };
        }
    }
}

/// Nanoseconds since a moment; 0 where nobody looked at the clock.
fn nanoseconds_since(begun: Option<Instant>) -> u64 {
    begun.map_or(0, |begun| u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Puts the branch that calls it off the fast path.
#[cold]
#[inline(always)]
const fn rarely() {}

#[cold]
const fn hole(gpa: u64) -> PhysError {
    PhysError::new(Gpa::new(gpa), PhysErrorKind::Gap)
}

/// Cold only so that the way without a guard stays straight.
#[cold]
#[inline]
fn not_lost(lost: &AtomicBool, gpa: u64) -> Result<(), PhysError> {
    // The handler raises the flag before it puts zeros under the mapping: a load that saw them is followed, after this fence,
    // by a load that sees the flag.
    fence(Ordering::Acquire);
    if lost.load(Ordering::Relaxed) { Err(gone(gpa)) } else { Ok(()) }
}

#[cold]
const fn gone(gpa: u64) -> PhysError {
    PhysError::new(Gpa::new(gpa), PhysErrorKind::Lost)
}

#[cold]
const fn misaligned(gpa: u64) -> PhysError {
    PhysError::new(Gpa::new(gpa), PhysErrorKind::Misaligned)
}
