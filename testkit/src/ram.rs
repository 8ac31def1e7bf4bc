//! Guest RAM in host memory: sparse, shared, and written while it is read.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use vgpu_perception::{Extent, Gpa, PageKind, PhysError, PhysErrorKind, PhysRead};

const PAGE: u64 = vgpu_perception::PAGE_BYTES;
const PAGES_PER_CHUNK: u64 = 512;
const CHUNK: u64 = PAGE * PAGES_PER_CHUNK;

type Page = [AtomicU64; 512];
type Chunk = [OnceLock<Box<Page>>];

struct Segment {
    extent: Extent,
    chunks: Vec<OnceLock<Box<Chunk>>>,
}

/// The RAM of a guest. Pages that were never written hold no memory, read as zero and are no data extent; addresses
/// outside the declared segments are holes.
///
/// A clone is another handle on the same bytes, for another thread; [`deep_copy`](Self::deep_copy) makes another guest.
#[derive(Clone)]
pub struct Ram {
    segments: Arc<[Segment]>,
}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ram").field("segments", &self.segments()).finish_non_exhaustive()
    }
}

impl Ram {
    /// RAM at `segments`.
    ///
    /// # Panics
    /// Where they are not whole pages, ascending and apart.
    #[must_use]
    pub fn new(segments: &[Extent]) -> Self {
        let mut end = 0;
        let segments = segments.iter().map(|extent| {
            let start = extent.start.get();
            assert!(start.is_multiple_of(PAGE) && extent.len.is_multiple_of(PAGE), "{extent:?} is not whole pages");
            assert!(start >= end && extent.len > 0, "{extent:?} is empty or does not ascend");
            end = start.checked_add(extent.len).expect("a segment ends below 2^64");
            let chunks = (0..extent.len.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
            Segment { extent: *extent, chunks }
        });
        Self { segments: segments.collect() }
    }

    /// One segment from address 0.
    #[must_use]
    pub fn flat(bytes: u64) -> Self {
        Self::new(&[Extent { start: Gpa::new(0), len: bytes }])
    }

    /// RAM as a PC has it: the part above `below_4g` bytes continues at 4 GiB.
    #[must_use]
    pub fn split(bytes: u64, below_4g: u64) -> Self {
        if bytes <= below_4g {
            return Self::flat(bytes);
        }
        Self::new(&[
            Extent { start: Gpa::new(0), len: below_4g },
            Extent { start: Gpa::new(4 << 30), len: bytes - below_4g },
        ])
    }

    /// The declared segments.
    #[must_use]
    pub fn segments(&self) -> Vec<Extent> {
        self.segments.iter().map(|segment| segment.extent).collect()
    }

    /// A guest of its own with the same bytes.
    #[must_use]
    pub fn deep_copy(&self) -> Self {
        let copy = Self::new(&self.segments());
        for gpa in self.present_pages() {
            if let Ok(Some(page)) = self.page(gpa) {
                for (to, from) in copy.page_made(gpa).iter().zip(page) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        }
        copy
    }

    /// The pages that were written, ascending.
    pub fn present_pages(&self) -> impl Iterator<Item = Gpa> + '_ {
        self.segments.iter().flat_map(|segment| {
            let chunks = segment.chunks.iter().enumerate().filter_map(|(n, chunk)| Some((n as u64, chunk.get()?)));
            chunks.flat_map(move |(n, chunk)| {
                let pages = chunk.iter().enumerate().filter(|(_, page)| page.get().is_some());
                pages.map(move |(m, _)| segment.extent.start.wrapping_add(n * CHUNK + m as u64 * PAGE))
            })
        })
    }

    /// Whether `gpa` lies in a declared segment.
    #[must_use]
    pub fn contains(&self, gpa: Gpa) -> bool {
        self.segment(gpa).is_some()
    }

    fn segment(&self, gpa: Gpa) -> Option<(&Segment, u64)> {
        self.segments.iter().find_map(|segment| {
            let skip = gpa.get().checked_sub(segment.extent.start.get())?;
            (skip < segment.extent.len).then_some((segment, skip))
        })
    }

    fn page(&self, gpa: Gpa) -> Result<Option<&Page>, PhysError> {
        let (segment, skip) = self.segment(gpa).ok_or(PhysError::new(gpa, PhysErrorKind::Gap))?;
        let chunk = segment.chunks[index(skip / CHUNK)].get();
        Ok(chunk.and_then(|chunk| chunk[index(skip / PAGE % PAGES_PER_CHUNK)].get()).map(|page| &**page))
    }

    fn page_made(&self, gpa: Gpa) -> &Page {
        let Some((segment, skip)) = self.segment(gpa) else { panic!("no RAM at guest physical {gpa} to write") };
        let chunk = segment.chunks[index(skip / CHUNK)]
            .get_or_init(|| (0..PAGES_PER_CHUNK).map(|_| OnceLock::new()).collect::<Vec<_>>().into_boxed_slice());
        chunk[index(skip / PAGE % PAGES_PER_CHUNK)].get_or_init(|| Box::new([const { AtomicU64::new(0) }; 512]))
    }

    fn word_made(&self, gpa: Gpa) -> &AtomicU64 {
        &self.page_made(gpa)[index(gpa.get() % PAGE / 8)]
    }

    /// Stores the aligned `value` at `gpa`, with release ordering: as a store of an x86-64 guest.
    ///
    /// # Panics
    /// Where there is no RAM, or `gpa` is not a multiple of eight.
    pub fn write_u64(&self, gpa: Gpa, value: u64) {
        self.store_u64(gpa, value, Ordering::Release);
    }

    /// Stores the aligned `value` at `gpa`, with release ordering: as a store of an x86-64 guest.
    ///
    /// # Panics
    /// Where there is no RAM, or `gpa` is not a multiple of four.
    pub fn write_u32(&self, gpa: Gpa, value: u32) {
        self.store_u32(gpa, value, Ordering::Release);
    }

    /// Stores `value` with an ordering of one's own.
    ///
    /// # Panics
    /// As [`write_u64`](Self::write_u64).
    pub fn store_u64(&self, gpa: Gpa, value: u64, ordering: Ordering) {
        assert!(gpa.get().is_multiple_of(8), "a u64 at guest physical {gpa} is not aligned");
        self.word_made(gpa).store(value, ordering);
    }

    /// Stores `value` with an ordering of one's own.
    ///
    /// # Panics
    /// As [`write_u32`](Self::write_u32).
    pub fn store_u32(&self, gpa: Gpa, value: u32, ordering: Ordering) {
        assert!(gpa.get().is_multiple_of(4), "a u32 at guest physical {gpa} is not aligned");
        let shift = gpa.get() % 8 * 8;
        let mask = u64::from(u32::MAX) << shift;
        let merge = |old| Some(old & !mask | u64::from(value) << shift);
        let _ = self.word_made(gpa).fetch_update(ordering, Ordering::Relaxed, merge);
    }

    /// Stores bytes at any address, word by word, with release ordering.
    ///
    /// # Panics
    /// Where there is no RAM.
    pub fn write_u8s(&self, gpa: Gpa, bytes: &[u8]) {
        self.store_u8s(gpa, bytes, Ordering::Release);
    }

    /// Stores bytes with an ordering of one's own: each aligned word of eight in one store.
    ///
    /// # Panics
    /// Where there is no RAM.
    pub fn store_u8s(&self, gpa: Gpa, bytes: &[u8], ordering: Ordering) {
        let mut at = gpa.get();
        let mut rest = bytes;
        while !rest.is_empty() {
            let page = self.page_made(Gpa::new(at));
            let count = rest.len().min(index(PAGE - at % PAGE));
            let (head, tail) = rest.split_at(count);
            copy_in(page, index(at % PAGE), head, ordering);
            at += count as u64;
            rest = tail;
        }
    }

    /// Makes every page of a range present, without changing what it holds: now it is a data extent.
    ///
    /// # Panics
    /// Where there is no RAM.
    pub fn touch(&self, gpa: Gpa, len: u64) {
        for page in (gpa.get() / PAGE)..(gpa.get() + len).div_ceil(PAGE) {
            self.page_made(Gpa::new(page * PAGE));
        }
    }

    /// Reads bytes.
    ///
    /// # Panics
    /// Where there is no RAM.
    #[must_use]
    pub fn bytes(&self, gpa: Gpa, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(gpa, &mut bytes).expect("the bytes are in RAM");
        bytes
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("an index of a host's vector fits")
}

impl PhysRead for Ram {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        let mut at = gpa.get();
        let mut rest = dst;
        while !rest.is_empty() {
            let in_page = at % PAGE;
            let count = rest.len().min(index(PAGE - in_page));
            let (head, tail) = rest.split_at_mut(count);
            match self.page(Gpa::new(at))? {
                None => head.fill(0),
                Some(page) => copy_out(page, index(in_page), head),
            }
            // Wrapping: nothing lies beyond the last page of the address space, and the next round says so.
            at = at.wrapping_add(count as u64);
            rest = tail;
        }
        Ok(())
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        if !gpa.get().is_multiple_of(4) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let word = self.load_u64(Gpa::new(gpa.get() & !7)).map_err(|error| PhysError { gpa, ..error })?;
        Ok(u32::try_from(word >> (gpa.get() % 8 * 8) & 0xffff_ffff).expect("32 bits fit"))
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let page = self.page(gpa)?;
        Ok(page.map_or(0, |page| page[index(gpa.get() % PAGE / 8)].load(Ordering::Relaxed)))
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        match self.page(page) {
            Ok(Some(_)) => PageKind::Data,
            Ok(None) => PageKind::Hole,
            Err(_) => PageKind::Gap,
        }
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        let present = |gpa: u64| matches!(self.page(Gpa::new(gpa)), Ok(Some(_)));
        for segment in self.segments.iter() {
            let end = segment.extent.end().get();
            let mut at = from.get().max(segment.extent.start.get());
            while at < end {
                let skip = at - segment.extent.start.get();
                if segment.chunks[index(skip / CHUNK)].get().is_none() {
                    at = segment.extent.start.get() + (skip / CHUNK + 1) * CHUNK;
                } else if present(at) {
                    let mut stop = (at / PAGE + 1) * PAGE;
                    while stop < end && present(stop) {
                        stop += PAGE;
                    }
                    return Ok(Some(Extent { start: Gpa::new(at), len: stop - at }));
                } else {
                    at = (at / PAGE + 1) * PAGE;
                }
            }
        }
        Ok(None)
    }
}

fn copy_out(page: &Page, start: usize, dst: &mut [u8]) {
    let mut at = start;
    let mut rest = dst;
    while !rest.is_empty() {
        let word = page[at / 8].load(Ordering::Relaxed).to_le_bytes();
        let count = rest.len().min(8 - at % 8);
        let (head, tail) = rest.split_at_mut(count);
        head.copy_from_slice(&word[at % 8..at % 8 + count]);
        at += count;
        rest = tail;
    }
}

fn copy_in(page: &Page, start: usize, src: &[u8], ordering: Ordering) {
    let mut at = start;
    let mut rest = src;
    while !rest.is_empty() {
        let first = at % 8;
        let count = rest.len().min(8 - first);
        let (head, tail) = rest.split_at(count);
        let word = &page[at / 8];
        if let Ok(whole) = head.try_into() {
            word.store(u64::from_le_bytes(whole), ordering);
        } else {
            let _ = word.fetch_update(ordering, Ordering::Relaxed, |old| {
                let mut merged = old.to_le_bytes();
                merged[first..first + count].copy_from_slice(head);
                Some(u64::from_le_bytes(merged))
            });
        }
        at += count;
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untouched_ram_reads_as_zero_and_is_no_data() {
        let ram = Ram::split(6 << 30, 3 << 30);
        assert_eq!(ram.load_u64(Gpa::new(0x1000)), Ok(0));
        assert_eq!(ram.next_extent(Gpa::new(0)), Ok(None));
        assert!(ram.load_u64(Gpa::new(3 << 30)).is_err());
        assert!(ram.read(Gpa::new((3 << 30) - 8), &mut [0; 16]).is_err());
        ram.write_u64(Gpa::new(0x5008), 1);
        ram.write_u8s(Gpa::new(0x5ffe), b"over");
        ram.write_u32(Gpa::new(5 << 30), 2);
        let first = ram.next_extent(Gpa::new(0x10)).unwrap().unwrap();
        assert_eq!(first, Extent { start: Gpa::new(0x5000), len: 0x2000 });
        let clipped = ram.next_extent(Gpa::new(0x5123)).unwrap().unwrap();
        assert_eq!((clipped.start, clipped.end()), (Gpa::new(0x5123), first.end()));
        let second = ram.next_extent(first.end()).unwrap().unwrap();
        assert_eq!(second, Extent { start: Gpa::new(5 << 30), len: 0x1000 });
        assert_eq!(ram.next_extent(second.end()), Ok(None));
        assert_eq!(ram.present_pages().count(), 3);
    }

    #[test]
    fn bytes_and_words_agree() {
        let ram = Ram::flat(0x10000);
        ram.write_u8s(Gpa::new(0xffd), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(ram.bytes(Gpa::new(0xffc), 14), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0]);
        assert_eq!(ram.load_u32(Gpa::new(0x1004)), Ok(0x0b0a_0908));
        ram.write_u32(Gpa::new(0x1004), 0xffff_ffff);
        assert_eq!(ram.load_u64(Gpa::new(0x1000)), Ok(0xffff_ffff_0706_0504));
        assert_eq!(ram.load_u32(Gpa::new(0x1002)).unwrap_err().kind, PhysErrorKind::Misaligned);
        let other = ram.deep_copy();
        other.write_u64(Gpa::new(0x1000), 0);
        assert_eq!(ram.load_u32(Gpa::new(0x1000)), Ok(0x0706_0504));
    }
}
