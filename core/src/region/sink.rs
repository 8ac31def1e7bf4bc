//! Frames that are not copied whole: rows go through a small private block to whoever makes something else of them.

use core::fmt;

use super::{FrameDesc, FrameInfo, FrameScratch, FrameStretch, ReadError, Region, Sample};
use crate::addr::Gpa;
use crate::paging::NotPresentResolver;
use crate::phys::{CopyHint, NextUse, PhysError, PhysErrorKind, PhysRead, PhysRun};

/// How far ahead lines are prefetched while a sink works: the start of two pages, or of what else is copied next. The
/// processor's own prefetcher stops at the end of a page.
const PIECE: u64 = 4096;
const PIECES_AHEAD: usize = 2;
/// Pieces that are copied in one call, so that as many cursors as a backend has can share them: those of a block of 256
/// KiB, whose pages lie scattered and whose rows begin inside of them, with room to spare.
const AT_ONCE: usize = 96;
const LINE: u64 = 64;

/// What is made of a frame while it is read: another pixel format, a smaller picture, a digest, the places that
/// changed.
///
/// A sink sees private copies of some rows at a time, never guest memory. It is handed a frame more than once where the
/// producer overtakes the read, and parts of a frame that never was; what it made counts only if [`end`](Self::end)
/// says so.
pub trait FrameSink {
    /// Why the sink takes no frame like this.
    type Refusal;

    /// Rows come in multiples of this many, a power of two, but for the last ones of a frame.
    fn rows_at_once(&self) -> u32 {
        1
    }

    /// Of how many rows the sink needs one. Where that is more than 1, [`rows`](Self::rows) is handed the middle row of
    /// each such group alone, without gaps, and the others are not read: row `step / 2`, and every `step` rows another.
    ///
    /// In one pass with a sink of another step it is handed its rows one by one.
    fn row_step(&self) -> u32 {
        1
    }

    /// A frame begins: whatever was made of rows since the last [`end`](Self::end) is void.
    ///
    /// # Errors
    /// Where the sink takes no such frame.
    fn begin(&mut self, desc: &FrameDesc) -> Result<(), Self::Refusal>;

    /// Whole rows, the first of them number `first` of those that the sink is handed: as many as `rows` has of
    /// `desc.stride` bytes.
    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]);

    /// The frame is over. With a frame, all rows since [`begin`](Self::begin) were that frame's; without, all is void.
    fn end(&mut self, frame: Option<&FrameInfo>);
}

/// Two sinks in one pass.
impl<A: FrameSink, B: FrameSink<Refusal = A::Refusal>> FrameSink for (A, B) {
    type Refusal = A::Refusal;

    fn rows_at_once(&self) -> u32 {
        self.0.rows_at_once().max(self.1.rows_at_once())
    }

    fn row_step(&self) -> u32 {
        let steps = [self.0.row_step(), self.1.row_step()];
        if steps[0] == steps[1] { steps[0] } else { 1 }
    }

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), A::Refusal> {
        self.0.begin(desc)?;
        self.1.begin(desc)
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        let step = self.row_step();
        share(&mut self.0, step, desc, first, rows);
        share(&mut self.1, step, desc, first, rows);
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        self.0.end(frame);
        self.1.end(frame);
    }
}

/// Hands a sink its rows out of those of a pass that reads one row in `step`.
fn share<S: FrameSink>(sink: &mut S, step: u32, desc: &FrameDesc, first: u32, rows: &[u8]) {
    let own = sink.row_step().max(1);
    if own == step.max(1) {
        return sink.rows(desc, first, rows);
    }
    // Steps differ, so that the pass reads every row.
    let stride = usize::try_from(desc.stride).unwrap_or(usize::MAX).max(1);
    for (row, bytes) in (first..).zip(rows.chunks_exact(stride)) {
        if row.checked_rem(own) == Some(own / 2) {
            sink.rows(desc, row.checked_div(own).unwrap_or(0), bytes);
        }
    }
}

impl<S: FrameSink + ?Sized> FrameSink for &mut S {
    type Refusal = S::Refusal;

    fn rows_at_once(&self) -> u32 {
        (**self).rows_at_once()
    }

    fn row_step(&self) -> u32 {
        (**self).row_step()
    }

    fn begin(&mut self, desc: &FrameDesc) -> Result<(), S::Refusal> {
        (**self).begin(desc)
    }

    fn rows(&mut self, desc: &FrameDesc, first: u32, rows: &[u8]) {
        (**self).rows(desc, first, rows);
    }

    fn end(&mut self, frame: Option<&FrameInfo>) {
        (**self).end(frame);
    }
}

/// A frame that was not streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The producer page or a page of the frame cannot be read.
    Read(ReadError),
    /// The sink takes no such frame.
    Refused(E),
    /// The block does not hold the rows that the sink takes at once.
    Block {
        /// Bytes that it has to have for this frame.
        needed: u64,
        /// Bytes that it has.
        len: u64,
    },
}

impl<E: fmt::Display> fmt::Display for StreamError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Refused(refusal) => write!(f, "the sink takes no such frame: {refusal}"),
            Self::Block { needed, len } => {
                write!(f, "the block has {len} bytes, the rows that the sink takes at once have {needed}: give as many")
            }
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for StreamError<E> {}

/// Ends a visit; the reason lies beside it.
const STOPPED: PhysError = PhysError::new(Gpa::new(0), PhysErrorKind::Cancelled);

impl<R: NotPresentResolver> Region<R> {
    /// Passes the latest frame through `block` to `sink`, if it is newer than the last one taken. What the sink made
    /// counts only if the result is [`Sample::Fresh`]; the sink is told.
    ///
    /// `block` is the private memory that rows are copied to, as many as fit. Where it fits the second level of cache,
    /// 256 KiB or so, the frame passes memory once and is never written back to it. Rows begin at a whole cache line of
    /// it, if that leaves seven eighths of those that fit, or the whole frame where that fits.
    ///
    /// # Bound
    /// As [`sample_frame`](Self::sample_frame).
    ///
    /// # Errors
    /// [`StreamError`]: memory that cannot be read, a sink that refuses the frame, a block that is too small.
    pub fn stream_frame<M: PhysRead, S: FrameSink>(
        &mut self,
        mem: &M,
        scratch: &mut FrameScratch,
        block: &mut [u8],
        sink: &mut S,
    ) -> Result<Sample<FrameInfo>, StreamError<S::Refusal>> {
        let mut why = None;
        let mut stream = Stream { block, sink, filled: 0, wanted: 0, row: 0, step: 1 };
        let sample = self.visit_frame(mem, scratch, |stretch| {
            if stretch.offset() == 0
                && let Err(error) = stream.begin(stretch.desc())
            {
                why = Some(error);
                return Err(STOPPED);
            }
            // An earlier try's refusal was of another frame.
            why = None;
            stream.pass(&stretch)
        });
        match sample {
            Ok(Sample::Fresh(frame)) => {
                stream.sink.end(Some(&frame));
                Ok(Sample::Fresh(frame))
            }
            Ok(Sample::Skip(skip)) => {
                stream.sink.end(None);
                Ok(Sample::Skip(skip))
            }
            Err(error) => {
                stream.sink.end(None);
                Err(why.unwrap_or(StreamError::Read(error)))
            }
        }
    }
}

/// A frame on its way through the block.
struct Stream<'s, S> {
    block: &'s mut [u8],
    sink: &'s mut S,
    /// Bytes of the block that hold rows.
    filled: usize,
    /// Bytes of the block that make whole rows, as many as the sink takes at once.
    wanted: usize,
    /// The row that the block begins with, of those that the sink is handed.
    row: u32,
    /// Of how many rows one is read.
    step: u32,
}

impl<S: FrameSink> Stream<'_, S> {
    fn begin(&mut self, desc: &FrameDesc) -> Result<(), StreamError<S::Refusal>> {
        self.sink.begin(desc).map_err(StreamError::Refused)?;
        let (len, at_once) = (self.block.len() as u64, u64::from(self.sink.rows_at_once().max(1)));
        self.step = self.sink.row_step().max(1);
        // A group that is cut short before its middle has no row.
        let rows = desc.height.saturating_add(self.step.wrapping_sub(1) / 2).checked_div(self.step).unwrap_or(0);
        let frame = u64::from(desc.stride).saturating_mul(u64::from(rows));
        let step = u64::from(desc.stride).saturating_mul(at_once);
        let needed = step.min(frame);
        let rows_in = |len: u64| match frame <= len {
            true => frame,
            false => len.wrapping_sub(len.checked_rem(step).unwrap_or(len)),
        };
        let mut wanted = rows_in(len);
        // Where rows begin inside a cache line, each line of the frame is cut in two, which takes longer than to hand
        // on a few rows less at once.
        let skip = self.block.as_ptr().align_offset(LINE as usize);
        let aligned = rows_in(len.saturating_sub(skip as u64));
        let least = if wanted == frame { frame } else { wanted.wrapping_sub(wanted / 8) };
        if skip > 0 && aligned > 0 && aligned >= least {
            self.block = core::mem::take(&mut self.block).get_mut(skip..).unwrap_or_default();
            wanted = aligned;
        }
        if needed > len || (wanted == 0 && frame > 0) {
            return Err(StreamError::Block { needed, len });
        }
        self.wanted = usize::try_from(wanted).unwrap_or(0);
        (self.filled, self.row) = (0, 0);
        Ok(())
    }

    /// Copies a stretch through the block.
    fn pass<M: PhysRead>(&mut self, stretch: &FrameStretch<'_, M>) -> Result<(), PhysError> {
        let (mem, desc) = (stretch.memory(), stretch.desc());
        if self.wanted == 0 {
            return Ok(());
        }
        let stride = u64::from(desc.stride);
        let group = stride.wrapping_mul(u64::from(self.step));
        let row = stride.wrapping_mul(u64::from(self.step / 2));
        let mut from = Pieces { runs: stretch.runs(), done: 0, at: stretch.offset(), stride, group, row };
        loop {
            let end = self.fill(mem, &mut from)?;
            if self.filled == self.wanted {
                // What comes next is on its way while the sink works.
                from.clone().take(PIECES_AHEAD).for_each(|(gpa, len)| prefetch(mem, gpa, len));
                self.hand_on(desc);
            }
            if end {
                break;
            }
        }
        if stretch.offset().wrapping_add(stretch.len()) == u64::from(desc.stride).wrapping_mul(u64::from(desc.height)) {
            self.hand_on(desc);
        }
        Ok(())
    }

    /// Copies as many pieces as one call takes and as fit the block. Gives whether no more follow.
    fn fill<M: PhysRead>(&mut self, mem: &M, from: &mut Pieces<'_>) -> Result<bool, PhysError> {
        let mut runs = [PhysRun { gpa: Gpa::new(0), len: 0 }; AT_ONCE];
        let (mut count, mut end) = (0_usize, self.filled);
        let mut is_over = false;
        for slot in &mut runs {
            let room = self.wanted.saturating_sub(end) as u64;
            let Some((gpa, len)) = from.next_of(room) else {
                is_over = from.runs.is_empty();
                break;
            };
            *slot = PhysRun { gpa, len };
            count = count.wrapping_add(1);
            end = end.wrapping_add(usize::try_from(len).unwrap_or(0));
        }
        let runs = runs.get(..count).unwrap_or_default();
        if !is_over || count > 0 {
            let at = runs.first().map_or(Gpa::new(0), |run| run.gpa);
            // Nothing fits a block that no frame has begun.
            let to = self.block.get_mut(self.filled..end).filter(|to| !to.is_empty());
            let to = to.ok_or(PhysError::new(at, PhysErrorKind::BadLength))?;
            // The block is what is read next, and what has to fit a cache.
            let hint = CopyHint::new(self.wanted as u64, NextUse::ReadSoon);
            mem.read_runs(runs, to, hint)?;
            mem.copied(to, hint);
            self.filled = end;
        }
        Ok(is_over)
    }

    /// Hands the rows in the block to the sink.
    fn hand_on(&mut self, desc: &FrameDesc) {
        if let Some(rows) = self.block.get(..self.filled).filter(|rows| !rows.is_empty()) {
            self.sink.rows(desc, self.row, rows);
            let rows = (rows.len() as u64).checked_div(u64::from(desc.stride)).unwrap_or(0);
            self.row = self.row.wrapping_add(u32::try_from(rows).unwrap_or(0));
        }
        self.filled = 0;
    }
}

fn prefetch<M: PhysRead>(mem: &M, gpa: Gpa, len: u64) {
    let mut done = 0_u64;
    while done < len {
        mem.prefetch(gpa.wrapping_add(done));
        done = done.wrapping_add(LINE);
    }
}

/// The rows that are read of a stretch, in pieces; as an iterator, of a page at most.
#[derive(Clone)]
struct Pieces<'r> {
    runs: &'r [PhysRun],
    /// Bytes of the first run that were given or passed over.
    done: u64,
    /// Where in the frame that is, in bytes.
    at: u64,
    /// Bytes of a row.
    stride: u64,
    /// Bytes of a group of rows of which one is read, and where in the group that row begins.
    group: u64,
    row: u64,
}

impl Iterator for Pieces<'_> {
    type Item = (Gpa, u64);

    fn next(&mut self) -> Option<(Gpa, u64)> {
        self.next_of(PIECE)
    }
}

impl Pieces<'_> {
    /// The next piece, `most` bytes of it; none where those are none.
    fn next_of(&mut self, most: u64) -> Option<(Gpa, u64)> {
        let mut most = most;
        if self.group != self.stride && most > 0 {
            let mut inside = self.at.checked_rem(self.group).unwrap_or(0);
            if inside < self.row || inside >= self.row.wrapping_add(self.stride) {
                let to = if inside < self.row { self.row } else { self.row.wrapping_add(self.group) };
                self.pass_over(to.wrapping_sub(inside));
                inside = self.row;
            }
            most = most.min(self.row.wrapping_add(self.stride).wrapping_sub(inside));
        }
        let run = self.runs.first().filter(|_| most > 0)?;
        let at = run.gpa.wrapping_add(self.done);
        let len = run.len.saturating_sub(self.done).min(most);
        self.pass_over(len);
        Some((at, len))
    }

    /// Goes on by `len` bytes, or to the end of the stretch.
    fn pass_over(&mut self, len: u64) {
        self.at = self.at.wrapping_add(len);
        let mut len = len;
        while let Some((run, after)) = self.runs.split_first() {
            let left = run.len.saturating_sub(self.done);
            if len < left {
                self.done = self.done.wrapping_add(len);
                return;
            }
            len = len.wrapping_sub(left);
            (self.runs, self.done) = (after, 0);
        }
    }
}
