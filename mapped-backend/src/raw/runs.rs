//! Copies of many ranges at once: gathered into pieces, copied by a method that was measured or that the caller fixed.

use std::time::Instant;

use vgpu_perception::{CopyHint, CopyPolicy, Gpa, PhysError, PhysErrorKind, PhysRun};

use super::piece::Piece;
use super::{Space, copy, hole};
use crate::plan::{self, Copying, Method, Shape};

impl Space {
    /// Copies several ranges, in order, into `dst`, whose length is the sum of theirs.
    pub(crate) fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        let shape = Shape::of(runs, dst);
        let copying = match hint.policy {
            CopyPolicy::Auto => self.chooser.begin(shape, hint),
            _ => None,
        };
        if copying.is_some() || matches!(hint.policy, CopyPolicy::Fixed(_)) {
            has_length(runs, dst.len())?;
        }
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
        self.still_there(runs.first().map_or(0, |run| run.gpa.get()))
    }

    /// Copies `runs` as was measured to be fastest, and measures.
    fn read_measured(&self, runs: &[PhysRun], dst: &mut [u8], copying: &Copying<'_>) -> Result<(), PhysError> {
        let mut from = Runs::new(runs);
        let mut rest = dst;
        let mut batch = Batch::new();
        while !rest.is_empty() {
            let step = copying.next(rest.len(), rest.as_ptr().addr());
            let method = Method::numbered(step.method).unwrap_or(Method::Plain);
            let bytes = usize::try_from(step.limit).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(bytes);
            let begun = step.is_timed.then(Instant::now);
            let mut to = &mut *part;
            while !to.is_empty() {
                self.gather(&mut from, to.len(), &mut batch)?;
                to = self.copy_batch(method, &mut batch, to);
            }
            copying.learn(step, part, plan::nanoseconds_since(begun));
            rest = after;
        }
        self.still_there(runs.first().map_or(0, |run| run.gpa.get()))
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

/// The lengths of `runs` add up to `len`, or an error at the run that is too long.
fn has_length(runs: &[PhysRun], len: usize) -> Result<(), PhysError> {
    let mut left = len as u64;
    for run in runs {
        left = left.checked_sub(run.len).ok_or(PhysError::new(run.gpa, PhysErrorKind::BadLength))?;
    }
    if left == 0 { Ok(()) } else { Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength)) }
}
