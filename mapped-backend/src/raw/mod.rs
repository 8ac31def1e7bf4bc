//! The one module with `unsafe`: mappings of RAM files, and every load from them.
//!
//! What makes the loads sound although another machine writes the bytes meanwhile:
//!
//! * The memory is none of Rust's: it comes from `mmap`, no Rust object lies in it, nothing here ever makes a reference
//!   into it, and no other part of this program writes it (the mapping is read-only, and so is its file descriptor).
//!   The language sees it only through the loads below.
//! * Words are relaxed atomic loads; an atomic load may race with any store of the same size. Of stores of other sizes
//!   the language says nothing; on the machines that this crate is for, an aligned load is one access whatever the
//!   stores are.
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
mod mapping;
mod piece;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod plain;
mod runs;
mod sigbus;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod turn;
mod view;

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use vgpu_perception::{Gpa, PhysError, PhysErrorKind, Window};
use volatile::VolatilePtr;
use zerocopy::FromBytes;

use crate::plan::{Chooser, Cpu};

pub(crate) use mapping::Mapping;
use sigbus::Watch;
pub use sigbus::{MAX_GUARDED, SigbusGuard};
pub use view::{MappedView, ViewList};

/// A segment as the loads need it: guest physical memory and where it is mapped.
#[derive(Clone, Copy)]
struct Span {
    gpa: u64,
    len: u64,
    /// Where guest physical 0 would be mapped if the segment reached that far down: adding an address of the segment to
    /// it gives the host's. This keeps the comparison out of the way of the load.
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
    /// Places `segments`, ascending and disjoint, made of whole 4 KiB pages and at multiples of 8 in `maps`; `None`
    /// where one lies outside.
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

    /// After a load of one word. What was lost reads as zeros, so that a word with a bit was there. The lowest bit is
    /// the one to ask: it is P in a table's entry, and a walk branches on it anyway.
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

    /// A word in one of the two segments that are looked at first; `None` where it is elsewhere, or where it could be
    /// one that was lost.
    #[inline(always)]
    pub(crate) fn load_at_once(&self, gpa: u64) -> Option<u64> {
        if gpa & 7 != 0 {
            return None;
        }
        let at = if gpa < self.low.len { self.low.zero.wrapping_add(gpa as usize) } else { self.in_high(gpa)? };
        // SAFETY: as for `load_u64`, of which these are two cases.
        let word = unsafe { word_at(at) };
        if word & 1 == 0 {
            rarely();
            if self.lost.is_some() {
                return None;
            }
        }
        Some(word)
    }

    /// As `find_high`, without a search.
    #[cold]
    #[inline(always)]
    fn in_high(&self, gpa: u64) -> Option<*const u8> {
        let skip = gpa.wrapping_sub(self.high.gpa);
        (skip < self.high.len).then(|| Place::new(&self.high, gpa, skip).host)
    }

    /// Where guest memory is low, which is where page tables are in most guests, the address goes straight into the
    /// load: joined with the other ways it would be one step later, four times in a walk.
    #[inline(always)]
    pub(crate) fn load_u64(&self, gpa: u64) -> Result<u64, PhysError> {
        if gpa & 7 != 0 {
            return Err(misaligned(gpa));
        }
        let word = if gpa < self.low.len {
            // SAFETY: the address lies in the segment, which lies inside a live mapping. Segments are whole pages of
            // the guest and start at a multiple of 8 in the host, so a multiple of 8 is one there too and 8 bytes
            // follow.
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
        // As in `load_u64`; a `Place` that a call may have given would lie in memory.
        let skip = gpa.wrapping_sub(self.high.gpa);
        let from = if gpa < self.low.len && bytes <= self.low.len - gpa {
            self.low.zero.wrapping_add(gpa as usize)
        } else if skip < self.high.len && bytes <= self.high.len - skip {
            self.high.zero.wrapping_add(gpa as usize)
        } else {
            return self.load_words_apart(gpa, dst);
        };
        for (index, word) in dst.iter_mut().enumerate() {
            // SAFETY: `from` is the address of `gpa` in a segment, a multiple of 8 as `gpa` is; the whole of `dst` fits
            // behind it, so this word does.
            *word = unsafe { word_at(from.wrapping_add(index * 8)) };
        }
        self.still_there(gpa)
    }

    /// As `load_words`, over the edge of a segment or in a third one.
    #[cold]
    #[inline(never)]
    fn load_words_apart(&self, gpa: u64, dst: &mut [u64]) -> Result<(), PhysError> {
        let mut at = gpa;
        for word in dst {
            *word = self.load_u64(at)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    /// Two words of each `stride` bytes.
    #[inline]
    pub(crate) fn load_columns(&self, at: [u64; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        let [low, high] = if at[0] <= at[1] { at } else { [at[1], at[0]] };
        let rows = (dst.len() as u64).wrapping_sub(1);
        let reach = stride.checked_mul(rows).and_then(|rows| rows.checked_add(high - low)?.checked_add(8));
        match self.find(low).zip(reach) {
            Some((place, reach)) if reach <= place.room && (low | high | stride) & 7 == 0 => {
                let mut one = place.host.wrapping_add((at[0] - low) as usize);
                let mut other = place.host.wrapping_add((at[1] - low) as usize);
                let ahead = if dst.len() < MANY_ROWS { 0 } else { (stride as usize).wrapping_mul(dst.len()) };
                for [first, second] in dst {
                    if ahead > 0 {
                        prefetch_far(one.wrapping_add(ahead));
                        prefetch_far(other.wrapping_add(ahead));
                    }
                    // SAFETY: `find` gave the address of the lower word in a segment; both are multiples of 8, as what
                    // they were found for and `stride` are. The higher word of the last row ends `reach` bytes behind
                    // it, inside the segment.
                    *first = unsafe { word_at(one) };
                    // SAFETY: as above.
                    *second = unsafe { word_at(other) };
                    (one, other) = (one.wrapping_add(stride as usize), other.wrapping_add(stride as usize));
                }
                self.still_there(low)
            }
            _ => self.load_columns_apart(at, stride, dst),
        }
    }

    /// As `load_columns`, over the edge of a segment or where something is wrong.
    #[cold]
    fn load_columns_apart(&self, at: [u64; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        let [mut one, mut other] = at;
        for [first, second] in dst {
            *first = self.load_u64(one)?;
            *second = self.load_u64(other)?;
            (one, other) = (one.wrapping_add(stride), other.wrapping_add(stride));
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
        // Every bit pattern is a `T` (`FromBytes`), so that whatever the guest has written is one. Reads are volatile,
        // and volatile reads of memory outside all Rust allocations have the effect of the machine's own loads.
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

/// Rows from which on a pass is likely to want as many more: those are prefetched.
const MANY_ROWS: usize = 16;

/// Asks for a line that is wanted in a while, into the second level of cache.
#[inline(always)]
fn prefetch_far(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint, it cannot fault whatever the address is.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Loads a word of guest memory.
///
/// # Safety
/// `host` is a multiple of 8, and 8 bytes behind it are mapped.
#[inline(always)]
unsafe fn word_at(host: *const u8) -> u64 {
    // SAFETY: the caller's own promise. The load is relaxed, which std allows on memory that is mapped read-only
    // ("Atomic accesses to read-only memory"), and the reference that `from_ptr` gives is to an atomic and dies at
    // once.
    u64::from_le(unsafe { AtomicU64::from_ptr(host.cast_mut().cast()) }.load(Ordering::Relaxed))
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
    // The handler raises the flag before it puts zeros under the mapping: a load that saw them is followed, after this
    // fence, by a load that sees the flag.
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
