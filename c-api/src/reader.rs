//! Guest memory behind callbacks.

use core::ffi::{c_int, c_void};
use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use vgpu_perception::{
    CopyHint, Extent, Gpa, Line, PAGE_BYTES, PageKind, PhysError, PhysErrorKind, PhysRead, PhysRun, next_in,
};

use crate::failure::{Failure, code};
use crate::ffi::cells::Once;
use crate::ffi::{Context, Out};
use crate::ram_map::{Map, find_map};

/// Types of callbacks. What one throws goes through the library to who called it. A build without std has nothing to
/// unwind with, and there a callback that throws is undefined.
macro_rules! callbacks {
    ($($(#[$doc:meta])* $vis:vis type $name:ident = fn($($arg:ident: $type:ty),*) -> $ret:ty;)+) => {$(
        $(#[$doc])*
        #[cfg(feature = "std")]
        $vis type $name = extern "C-unwind" fn($($arg: $type),*) -> $ret;
        $(#[$doc])*
        #[cfg(not(feature = "std"))]
        $vis type $name = extern "C" fn($($arg: $type),*) -> $ret;
    )+};
}

callbacks! {
    /// The callback of `memmodel.h`.
    pub(crate) type ReadFn = fn(ctx: *mut c_void, gpa: u64, dst: *mut c_void, len: usize) -> c_int;
    type PiecesFn = fn(ctx: *mut c_void, pieces: *const PieceC, n: usize) -> c_int;
    type WordsFn = fn(ctx: *mut c_void, gpa: u64, words: *mut u64, n: usize) -> c_int;
    type LinesFn = fn(ctx: *mut c_void, gpas: *const u64, lines: *mut Line, n: usize) -> usize;
    type DataFn = fn(ctx: *mut c_void, from: u64, start: *mut u64, len: *mut u64) -> c_int;
    type CancelledFn = fn(ctx: *mut c_void) -> c_int;
}

/// `vgpux_piece`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PieceC {
    pub(crate) gpa: u64,
    pub(crate) dst: *mut c_void,
    pub(crate) len: usize,
}

impl PieceC {
    const NONE: Self = Self { gpa: 0, dst: core::ptr::null_mut(), len: 0 };
}

/// `vgpux_reader`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderC {
    pub(crate) size: usize,
    pub(crate) read: Option<ReadFn>,
    pub(crate) read_pieces: Option<PiecesFn>,
    pub(crate) read_words: Option<WordsFn>,
    pub(crate) load_lines: Option<LinesFn>,
    pub(crate) next_data: Option<DataFn>,
    pub(crate) is_cancelled: Option<CancelledFn>,
    pub(crate) batch: usize,
}

impl ReaderC {
    /// The form of `memmodel.h`: one function.
    pub(crate) const fn of(read: Option<ReadFn>) -> Self {
        Self {
            size: size_of::<Self>(),
            read,
            read_pieces: None,
            read_words: None,
            load_lines: None,
            next_data: None,
            is_cancelled: None,
            batch: 0,
        }
    }
}

/// Pieces that are handed over at once.
const PIECES: usize = 64;
/// Lines that are asked for at once, where the reader does not say.
const LINES: usize = 256;
/// The most.
const MOST_LINES: usize = 1024;

/// Stretches of data that are asked for to see how much RAM there is.
const STRETCHES: usize = 4096;

/// Guest memory behind callbacks.
pub(crate) struct Reader {
    read: ReadFn,
    more: ReaderC,
    ctx: Context,
    /// Whether the caller said where RAM is: then nothing else is asked for.
    told: bool,
    /// Found when it is needed.
    map: Once<Map>,
    failures: Failures,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("told", &self.told).finish_non_exhaustive()
    }
}

/// How often the callback failed where there is RAM, and the last time.
#[derive(Debug)]
struct Failures {
    count: AtomicU64,
    gpa: AtomicU64,
    code: AtomicI32,
}

impl Reader {
    pub(crate) fn new(functions: ReaderC, ctx: Out<c_void>, map: Option<Map>) -> Result<Self, Failure> {
        let read = functions.read.ok_or_else(|| Failure::argument("read", "is NULL"))?;
        let none = Failures { count: AtomicU64::new(0), gpa: AtomicU64::new(0), code: AtomicI32::new(0) };
        let (told, map) = (map.is_some(), Once::new(map));
        Ok(Self { read, more: functions, ctx: Context::new(ctx), told, map, failures: none })
    }

    /// What a callback's answer about memory at `gpa` says.
    #[inline]
    fn answer(&self, gpa: Gpa, code: c_int) -> Result<(), PhysError> {
        if code == 0 { Ok(()) } else { Err(self.failed(gpa, code)) }
    }

    #[cold]
    fn failed(&self, gpa: Gpa, code: c_int) -> PhysError {
        if self.extent(gpa).is_some_and(|extent| extent.start == gpa) {
            self.failures.gpa.store(gpa.get(), Ordering::Relaxed);
            self.failures.code.store(code, Ordering::Relaxed);
            self.failures.count.fetch_add(1, Ordering::Relaxed);
        }
        PhysError::new(gpa, PhysErrorKind::Backend(code))
    }

    /// How often the callback failed so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.count.load(Ordering::Relaxed)
    }

    /// A search that found nothing while the callback failed is no search.
    pub(crate) fn nothing_found(&self, before: u64, failure: Failure) -> Failure {
        let count = self.failures().wrapping_sub(before);
        if count == 0 || failure.code != code::NOT_FOUND {
            return failure;
        }
        let (gpa, last) = (self.failures.gpa.load(Ordering::Relaxed), self.failures.code.load(Ordering::Relaxed));
        let text = format_args!(
            "nothing was found, but the memory callback failed {count} times meanwhile, the last time at guest \
             physical {gpa:#x} with code {last}: mend that and search again"
        );
        Failure::new(code::READ, text)
    }

    /// Refuses what is not RAM by the caller's word.
    #[inline]
    fn check(&self, gpa: Gpa, len: usize) -> Result<(), PhysError> {
        if self.told && !self.extent(gpa).is_some_and(|extent| extent.start == gpa && len as u64 <= extent.len) {
            return Err(PhysError::new(gpa, PhysErrorKind::Gap));
        }
        Ok(())
    }

    /// RAM at or after `gpa`, where the map is known.
    fn extent(&self, gpa: Gpa) -> Option<Extent> {
        self.map.get().and_then(|map| next_in(map.extents(), gpa))
    }

    fn ask(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.check(gpa, dst.len())?;
        self.answer(gpa, (self.read)(self.ctx.get(), gpa.get(), dst.as_mut_ptr().cast(), dst.len()))
    }

    /// Where the highest RAM ends.
    #[cfg(feature = "std")]
    pub(crate) fn end(&self) -> Result<u64, PhysError> {
        if self.map.get().is_none() && self.more.next_data.is_none() {
            self.next_extent(Gpa::new(0))?;
        }
        let last = self.map.get().and_then(|map| map.extents().last().copied());
        // Without a map, data is RAM, and nobody says where it ends.
        Ok(last.map_or(0, |extent| extent.end().get()))
    }

    /// How much RAM there is: by the map, or where nobody says more, the first stretches of data.
    pub(crate) fn ram_bytes(&self) -> u64 {
        let sum = |bytes: u64, extent: Extent| bytes.saturating_add(extent.len);
        if self.map.get().is_none() && self.more.next_data.is_some() {
            return self.extents().take(STRETCHES).map_while(Result::ok).fold(0, sum);
        }
        // Finds the map where nobody has yet.
        let _ = self.next_ram(Gpa::new(0));
        self.map.get().map_or(0, |map| map.extents().iter().copied().fold(0, sum))
    }

    /// RAM at or after `from`, holes too.
    fn next_ram(&self, from: Gpa) -> Option<Extent> {
        if let Some(map) = self.map.get() {
            return next_in(map.extents(), from);
        }
        if self.more.next_data.is_some() {
            let len = u64::MAX.wrapping_sub(from.get());
            return (len > 0).then_some(Extent { start: from, len });
        }
        // Two threads may both ask: they find the same.
        let found = find_map(&|at| self.ask(Gpa::new(at), &mut 0_u64.to_ne_bytes()).is_ok());
        let next = next_in(found.extents(), from);
        self.map.set(found);
        next
    }

    /// What the caller says of data at or after `from`.
    fn next_data(&self, data: DataFn, from: Gpa) -> Result<Option<Extent>, PhysError> {
        let (mut start, mut len) = (0, 0);
        match data(self.ctx.get(), from.get(), &raw mut start, &raw mut len) {
            0 => Ok(None),
            1 => {
                // Whole pages, and none before `from`, whatever was answered.
                let end = start.saturating_add(len) / PAGE_BYTES * PAGE_BYTES;
                let start = start.max(from.get());
                Ok((end > start).then(|| Extent { start: Gpa::new(start), len: end.wrapping_sub(start) }))
            }
            code => Err(PhysError::new(from, PhysErrorKind::Backend(code))),
        }
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

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        let Some(words) = self.more.read_words else {
            let mut at = gpa;
            for word in dst {
                *word = self.load_u64(at)?;
                at = at.wrapping_add(8);
            }
            return Ok(());
        };
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        self.check(gpa, size_of_val(dst))?;
        self.answer(gpa, words(self.ctx.get(), gpa.get(), dst.as_mut_ptr(), dst.len()))?;
        dst.iter_mut().for_each(|word| *word = u64::from_le(*word));
        Ok(())
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        let n = at.len().min(lines.len());
        let Some(load) = self.more.load_lines else {
            let mut loaded = 0_usize;
            for (gpa, line) in at.iter().zip(lines) {
                if self.load_words(*gpa, line).is_err() {
                    break;
                }
                loaded = loaded.wrapping_add(1);
            }
            return Ok(loaded);
        };
        let mut gpas = [0_u64; LINES];
        let mut done = 0_usize;
        for (at, lines) in at.chunks(LINES).zip(lines.chunks_mut(LINES)) {
            // What is not RAM by the caller's word is not asked for.
            let good = at.iter().take_while(|gpa| gpa.get().is_multiple_of(8) && self.check(**gpa, 64).is_ok());
            let mut want = 0_usize;
            for (to, gpa) in gpas.iter_mut().zip(good) {
                *to = gpa.get();
                want = want.wrapping_add(1);
            }
            let want = want.min(lines.len());
            let got = if want == 0 { 0 } else { load(self.ctx.get(), gpas.as_ptr(), lines.as_mut_ptr(), want) };
            let got = got.min(want);
            lines.iter_mut().take(got).flatten().for_each(|word| *word = u64::from_le(*word));
            done = done.wrapping_add(got);
            if got < at.len().min(lines.len()) {
                if let Some(gpa) = at.get(got).filter(|_| got < want) {
                    let _ = self.failed(*gpa, -1);
                }
                break;
            }
        }
        Ok(done.min(n))
    }

    fn batch(&self) -> usize {
        match (self.more.load_lines, self.more.batch) {
            (None, _) => 1,
            (Some(_), 0) => LINES,
            (Some(_), batch) => batch.min(MOST_LINES),
        }
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], _: CopyHint) -> Result<(), PhysError> {
        let mut rest = dst;
        let mut pieces = [PieceC::NONE; PIECES];
        for runs in runs.chunks(PIECES) {
            let mut n = 0_usize;
            for (run, piece) in runs.iter().zip(&mut pieces) {
                let len = usize::try_from(run.len).ok().filter(|len| *len <= rest.len());
                let Some((head, tail)) = len.and_then(|len| rest.split_at_mut_checked(len)) else {
                    return Err(PhysError::new(run.gpa, PhysErrorKind::BadLength));
                };
                rest = tail;
                if self.more.read_pieces.is_none() {
                    self.ask(run.gpa, head)?;
                    continue;
                }
                self.check(run.gpa, head.len())?;
                *piece = PieceC { gpa: run.gpa.get(), dst: head.as_mut_ptr().cast(), len: head.len() };
                n = n.wrapping_add(1);
            }
            if let (Some(read), Some(first)) = (self.more.read_pieces.filter(|_| n > 0), runs.first()) {
                self.answer(first.gpa, read(self.ctx.get(), pieces.as_ptr(), n))?;
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength)) }
    }

    fn ram_end(&self) -> Gpa {
        // Who gives no map has one searched for: it holds what was found, not what there is.
        let map = self.map.get().filter(|_| self.told);
        map.and_then(|map| map.extents().last()).map_or(Gpa::new(u64::MAX), |last| last.end())
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        let Some(data) = self.more.next_data else { return Ok(self.next_ram(from)) };
        let mut at = from;
        // Each turn but the last leaves a stretch of RAM behind.
        while let Some(ram) = self.next_ram(at) {
            let Some(found) = self.next_data(data, ram.start)? else { return Ok(None) };
            let end = found.end().get().min(ram.end().get());
            if end > found.start.get() {
                return Ok(Some(Extent { start: found.start, len: end.wrapping_sub(found.start.get()) }));
            }
            at = ram.end();
        }
        Ok(None)
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        let holds =
            |extent: Option<Extent>| extent.is_some_and(|extent| extent.start == page && extent.len >= PAGE_BYTES);
        if !holds(self.next_ram(page)) {
            return PageKind::Gap;
        }
        match self.more.next_data {
            None => PageKind::Data,
            Some(data) if self.next_data(data, page).is_ok_and(holds) => PageKind::Data,
            // Without a map, what is no data is no RAM.
            Some(_) if self.map.get().is_none() => PageKind::Gap,
            Some(_) => PageKind::Hole,
        }
    }

    fn is_cancelled(&self) -> bool {
        self.more.is_cancelled.is_some_and(|cancelled| cancelled(self.ctx.get()) != 0)
    }
}
