//! Guest memory behind a callback, and where it lies when nobody says.

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::fmt;

use vgpu_perception::{Extent, Gpa, PAGE_BYTES, PhysError, PhysErrorKind, PhysRead, next_in};

use crate::ffi::cells::Once;
use crate::ffi::{Context, Out};

/// The callback of `memmodel.h`.
pub(crate) type ReadFn = extern "C-unwind" fn(ctx: *mut c_void, gpa: u64, dst: *mut c_void, len: usize) -> c_int;

/// Segments that a map can have: `VGPUX_MEM_SEGMENTS`.
pub(crate) const SEGMENTS: usize = 64;

/// How far apart the questions are.
const STEP: u64 = 2 << 20;
/// RAM is looked for from 0 to here without regard to holes.
const LOW_END: u64 = 4 << 30;
/// A hole of this size above [`LOW_END`] ends the search.
const WIDEST_HOLE: u64 = 64 << 30;
/// The most questions before edges are searched.
const QUESTIONS: u64 = 1 << 20;

/// RAM in ascending stretches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    extents: [Extent; SEGMENTS],
    len: usize,
}

impl Map {
    pub(crate) const EMPTY: Self = Self { extents: [Extent { start: Gpa::new(0), len: 0 }; SEGMENTS], len: 0 };

    /// Adds a stretch; false where the map is full.
    pub(crate) fn push(&mut self, extent: Extent) -> bool {
        match self.extents.get_mut(self.len) {
            Some(slot) => {
                *slot = extent;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        self.extents.get(..self.len).unwrap_or_default()
    }

    /// Sorts the stretches; the two that overlap, where some do.
    pub(crate) fn sort(&mut self) -> Result<(), (Extent, Extent)> {
        let extents = Cell::from_mut(self.extents.get_mut(..self.len).unwrap_or_default()).as_slice_of_cells();
        // At most 64, and the library's sort would bring panics into a build that has none.
        for _ in extents {
            for (lower, upper) in extents.iter().zip(extents.iter().skip(1)) {
                if lower.get().start > upper.get().start {
                    lower.swap(upper);
                }
            }
        }
        for (lower, upper) in extents.iter().zip(extents.iter().skip(1)) {
            let (lower, upper) = (lower.get(), upper.get());
            if upper.start.get() - lower.start.get() < lower.len {
                return Err((lower, upper));
            }
        }
        Ok(())
    }
}

/// Guest memory behind a callback.
pub(crate) struct Reader {
    call: ReadFn,
    ctx: Context,
    /// Whether the caller said where RAM is: then nothing else is asked for.
    told: bool,
    /// Found when it is needed.
    map: Once<Map>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(call: ReadFn, ctx: Out<c_void>, map: Option<Map>) -> Self {
        Self { call, ctx: Context::new(ctx), told: map.is_some(), map: Once::new(map) }
    }

    fn ask(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        if self.told && !self.is_ram(gpa, dst.len()) {
            return Err(PhysError::new(gpa, PhysErrorKind::Gap));
        }
        match (self.call)(self.ctx.get(), gpa.get(), dst.as_mut_ptr().cast(), dst.len()) {
            0 => Ok(()),
            code => Err(PhysError::new(gpa, PhysErrorKind::Backend(code))),
        }
    }

    fn is_ram(&self, gpa: Gpa, len: usize) -> bool {
        let extent = self.map.get().and_then(|map| next_in(map.extents(), gpa));
        extent.is_some_and(|extent| extent.start == gpa && len as u64 <= extent.len)
    }

    /// Where the highest RAM ends.
    #[cfg(feature = "std")]
    pub(crate) fn end(&self) -> Result<u64, PhysError> {
        self.next_extent(Gpa::new(0))?;
        let last = self.map.get().and_then(|map| map.extents().last().copied());
        Ok(last.map_or(0, |extent| extent.end().get()))
    }

    fn answers(&self, at: u64) -> bool {
        let mut word = 0_u64.to_ne_bytes();
        self.ask(Gpa::new(at), &mut word).is_ok()
    }

    /// Finds RAM by asking every [`STEP`], and its edges to the page.
    fn find_map(&self) -> Map {
        let mut map = Map::EMPTY;
        let mut run: Option<(u64, u64)> = None;
        let mut last_ram = LOW_END;
        let mut at = 0_u64;
        for _ in 0..QUESTIONS {
            if at >= LOW_END && at - last_ram >= WIDEST_HOLE {
                break;
            }
            if self.answers(at) {
                last_ram = last_ram.max(at);
                let start = run.map_or_else(|| self.edge(at), |(start, _)| start);
                run = Some((start, at));
            } else if let Some(found) = run.take()
                && !self.push(&mut map, found)
            {
                return map;
            }
            at += STEP;
        }
        if let Some(found) = run {
            self.push(&mut map, found);
        }
        map
    }

    /// The first page of the RAM that `at` is in, given that the question before was refused.
    fn edge(&self, at: u64) -> u64 {
        let (mut refused, mut answered) = (at.saturating_sub(STEP), at);
        while answered - refused > PAGE_BYTES {
            let middle = refused + (answered - refused) / 2 / PAGE_BYTES * PAGE_BYTES;
            if self.answers(middle) {
                answered = middle;
            } else {
                refused = middle;
            }
        }
        answered
    }

    /// Adds RAM from `start` to some place behind the question at `last`.
    fn push(&self, map: &mut Map, (start, last): (u64, u64)) -> bool {
        let (mut answered, mut refused) = (last, last + STEP);
        while refused - answered > PAGE_BYTES {
            let middle = answered + (refused - answered) / 2 / PAGE_BYTES * PAGE_BYTES;
            if self.answers(middle) {
                answered = middle;
            } else {
                refused = middle;
            }
        }
        map.push(Extent { start: Gpa::new(start), len: refused - start })
    }
}

impl PhysRead for Reader {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.ask(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        if !gpa.get().is_multiple_of(4) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        // A number, not an array of bytes: the callback is promised a place that is aligned for one load.
        let mut word = 0_u32;
        self.ask(gpa, zerocopy::IntoBytes::as_mut_bytes(&mut word))?;
        Ok(u32::from_le(word))
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let mut word = 0_u64;
        self.ask(gpa, zerocopy::IntoBytes::as_mut_bytes(&mut word))?;
        Ok(u64::from_le(word))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        if let Some(map) = self.map.get() {
            return Ok(next_in(map.extents(), from));
        }
        // Two threads may both ask: they find the same.
        let found = self.find_map();
        let next = next_in(found.extents(), from);
        self.map.set(found);
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Fake {
        ram: &'static [(u64, u64)],
        asked: AtomicU64,
    }

    extern "C-unwind" fn read(ctx: *mut c_void, gpa: u64, _: *mut c_void, len: usize) -> c_int {
        let fake = crate::ffi::tests::context::<Fake>(ctx);
        fake.asked.fetch_add(1, Ordering::Relaxed);
        let inside = |(start, end): &(u64, u64)| gpa >= *start && gpa + len as u64 <= *end;
        if fake.ram.iter().any(inside) { 0 } else { -5 }
    }

    fn found(ram: &'static [(u64, u64)]) -> (Vec<(u64, u64)>, u64) {
        let fake = Fake { ram, asked: AtomicU64::new(0) };
        let ctx = crate::ffi::tests::out(&raw const fake);
        let reader = Reader::new(read, ctx, None);
        let mut extents = Vec::new();
        let mut from = Gpa::new(0);
        while let Some(extent) = reader.next_extent(from).unwrap() {
            extents.push((extent.start.get(), extent.end().get()));
            from = extent.end();
        }
        (extents, fake.asked.load(Ordering::Relaxed))
    }

    #[test]
    fn ram_is_found_to_the_page() {
        const GIB: u64 = 1 << 30;
        let pc: &[_] = &[(0, 3 * GIB), (4 * GIB, 9 * GIB)];
        assert_eq!(found(pc).0, pc);
        let odd: &[_] = &[(0x1000, 0x9_f000), (0x10_0000, 0x7ffd_b000), (4 * GIB, 4 * GIB + 0x3000)];
        // A hole between two questions stays inside: reading it fails, which a search survives.
        assert_eq!(found(odd).0, [(0x1000, 0x7ffd_b000), odd[2]]);
        let far: &[_] = &[(0, GIB), (60 * GIB, 61 * GIB), (120 * GIB, 121 * GIB), (300 * GIB, 301 * GIB)];
        assert_eq!(found(far).0, far[..3]);
    }

    #[test]
    fn the_search_is_bounded() {
        let (none, asked) = found(&[]);
        assert!(none.is_empty());
        assert_eq!(asked, (68 << 30) / STEP);
        let (all, asked) = found(&[(0, u64::MAX)]);
        assert_eq!(all.len(), 1);
        assert!(asked < QUESTIONS + 64, "{asked}");
    }

    #[test]
    fn a_map_is_sorted_and_must_not_overlap() {
        let extent = |start, len| Extent { start: Gpa::new(start), len };
        let mut map = Map::EMPTY;
        assert!(map.push(extent(0x5000, 0x1000)) && map.push(extent(0, 0x5000)));
        assert_eq!(map.sort(), Ok(()));
        assert_eq!(map.extents()[0].len, 0x5000);
        assert!(map.push(extent(0x4000, 0x1000)));
        assert!(map.sort().is_err());
    }
}
