//! Reads: ranges of guest RAM as ranges of the process, gathered into as few calls as they fit.

use core::ops::ControlFlow;
use std::io;

use rustix::io::Errno;
use vgpu_perception::{CopyHint, Extent, Gpa, Line, PageKind, PhysError, PhysErrorKind, PhysRead, PhysRun};
use zerocopy::IntoBytes;

use crate::pagemap::PAGE;
use crate::ram::ProcessRam;
use crate::raw::Remote;

/// Ranges that one call copies. What a call costs by itself is lost in what so many pages cost.
const RANGES: usize = 512;
/// Ranges of a copy that is one in guest RAM: more only where it passes from piece to piece.
const FEW: usize = 8;
/// Bytes that one call copies at most, below the kernel's own limit of 2 GiB.
const MOST: usize = 1 << 30;
/// How often a word is copied anew whose two copies differ. Each time, a store fell between them; nothing in a region,
/// and no table, is written that often.
const TRIES: u32 = 64;

/// A copy of several ranges into one buffer.
struct Transfer<'r, 'd, const N: usize> {
    ram: &'r ProcessRam,
    remote: Remote<N>,
    dst: &'d mut [u8],
    /// Bytes of `dst` that are filled.
    done: usize,
    /// Bytes that the ranges in `remote` will fill.
    pending: usize,
}

impl<'r, 'd, const N: usize> Transfer<'r, 'd, N> {
    const fn new(ram: &'r ProcessRam, dst: &'d mut [u8]) -> Self {
        Self { ram, remote: Remote::new(), dst, done: 0, pending: 0 }
    }

    /// Adds a range, as long as `dst` has room for it.
    fn add(&mut self, gpa: u64, len: usize) -> Result<(), PhysError> {
        let (mut at, mut left) = (gpa, len);
        while left > 0 {
            let (place, skip) = match self.ram.find(at) {
                Ok(found) => found,
                Err(error) => {
                    // What comes before it counts all the same, for a caller that asks how far it came.
                    self.flush()?;
                    return Err(error);
                }
            };
            let pagemap = self.ram.process().pagemap();
            let stretch = place.stretch(pagemap, skip, left as u64);
            let (held, len) = stretch.map_err(|error| self.ram.no_pagemap(at, error))?;
            let len = usize::try_from(len).unwrap_or(left).min(left);
            if held {
                let len = len.min(MOST - self.pending);
                if len == 0 || !self.remote.push(addr(place.host + skip), len) {
                    self.flush()?;
                    continue;
                }
                self.pending += len;
                (at, left) = (at + len as u64, left - len);
            } else {
                self.flush()?;
                let Some(hole) = self.dst.get_mut(self.done..self.done + len) else { return Err(bad_length(at)) };
                hole.fill(0);
                self.done += len;
                (at, left) = (at + len as u64, left - len);
            }
        }
        Ok(())
    }

    /// Makes the call for what was gathered.
    fn flush(&mut self) -> Result<(), PhysError> {
        if self.pending == 0 {
            return Ok(());
        }
        let Some(dst) = self.dst.get_mut(self.done..self.done + self.pending) else { return Err(bad_length(0)) };
        let copied = self.remote.copy(self.ram.process().number(), dst);
        let (count, error) = match copied {
            Ok(count) if count == self.pending => {
                self.done += count;
                self.pending = 0;
                self.remote.clear();
                return Ok(());
            }
            Ok(count) => (count, io::Error::from(Errno::FAULT)),
            Err(error) => (0, error),
        };
        self.done += count;
        let gpa = self.remote.addr_of(count).and_then(|addr| self.ram.gpa_at(addr as u64));
        Err(self.ram.failure(gpa.unwrap_or(0), &error))
    }
}

/// Addresses of a process fit: `ProcessRam::new` has checked.
fn addr(host: u64) -> usize {
    usize::try_from(host).unwrap_or(usize::MAX)
}

const fn bad_length(gpa: u64) -> PhysError {
    PhysError::new(Gpa::new(gpa), PhysErrorKind::BadLength)
}

impl ProcessRam {
    /// An aligned word of `N` bytes, whole: copied twice by one call, until both copies agree. One that never does is
    /// given as it was copied last.
    fn word<const N: usize>(&self, gpa: Gpa) -> Result<[u8; N], PhysError> {
        let at = gpa.get();
        if !at.is_multiple_of(N as u64) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let (place, skip) = self.find(at)?;
        if !place.is_seen(skip / PAGE) {
            let stretch = place.stretch(self.process().pagemap(), skip, N as u64);
            let (held, _) = stretch.map_err(|error| self.no_pagemap(at, error))?;
            if !held {
                self.counts(at)?;
                return Ok([0; N]);
            }
        }
        let mut remote = Remote::<2>::new();
        let host = addr(place.host + skip);
        remote.push_apart(host, N);
        remote.push_apart(host, N);
        let mut last = [0; N];
        for _ in 0..TRIES {
            let mut copies = [[0_u8; N]; 2];
            match remote.copy(self.process().number(), copies.as_flattened_mut()) {
                Ok(count) if count == 2 * N => {}
                Ok(_) => return Err(self.failure(at, &Errno::FAULT.into())),
                Err(error) => return Err(self.failure(at, &error)),
            }
            let [first, second] = copies;
            last = second;
            if first == second {
                break;
            }
        }
        self.counts(at)?;
        Ok(last)
    }

    /// Copies `len` bytes at `gpa` that are all of `dst`.
    fn copy_one(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        let len = dst.len();
        let mut transfer = Transfer::<FEW>::new(self, dst);
        transfer.add(gpa.get(), len)?;
        transfer.flush()?;
        self.counts(gpa.get())
    }
}

impl PhysRead for ProcessRam {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.copy_one(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.word(gpa).map(u32::from_le_bytes)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.word(gpa).map(u64::from_le_bytes)
    }

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        self.copy_one(gpa, dst.as_mut_bytes())?;
        from_le(dst);
        Ok(())
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], _hint: CopyHint) -> Result<(), PhysError> {
        let mut left = dst.len();
        let mut transfer = Transfer::<RANGES>::new(self, dst);
        for run in runs {
            let Some(len) = usize::try_from(run.len).ok().filter(|len| *len <= left) else {
                return Err(bad_length(run.gpa.get()));
            };
            transfer.add(run.gpa.get(), len)?;
            left -= len;
        }
        if left > 0 {
            return Err(bad_length(0));
        }
        transfer.flush()?;
        self.counts(runs.first().map_or(0, |run| run.gpa.get()))
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        let wanted = at.len().min(lines.len());
        let Some(lines) = lines.get_mut(..wanted) else { return Ok(0) };
        let first = at.first().map_or(0, |gpa| gpa.get());
        let mut transfer = Transfer::<RANGES>::new(self, lines.as_mut_bytes());
        let gathered = at.iter().take(wanted).try_for_each(|gpa| {
            let aligned = gpa.get().is_multiple_of(8);
            let added = if aligned { transfer.add(gpa.get(), size_of::<Line>()) } else { Err(bad_length(gpa.get())) };
            match added {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        });
        let ended = match gathered {
            ControlFlow::Continue(()) => transfer.flush().err(),
            ControlFlow::Break(error) => transfer.flush().err().or(Some(error)),
        };
        let done = transfer.done;
        match ended {
            Some(error) if matches!(error.kind, PhysErrorKind::Ended | PhysErrorKind::Lost) => return Err(error),
            _ => self.counts(first)?,
        }
        let loaded = done / size_of::<Line>();
        lines.iter_mut().take(loaded).for_each(|line| from_le(line));
        Ok(loaded)
    }

    #[inline]
    fn batch(&self) -> usize {
        RANGES
    }

    fn ram_end(&self) -> Gpa {
        self.end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.extent_from(from.get())
    }

    /// One question to the page map where the page was not seen before.
    fn page_kind(&self, page: Gpa) -> PageKind {
        let Ok((place, skip)) = self.find(page.get()) else { return PageKind::Gap };
        if place.is_seen(skip / PAGE) {
            return PageKind::Data;
        }
        match place.stretch(self.process().pagemap(), skip, PAGE) {
            Ok((true, _)) => PageKind::Data,
            Ok((false, _)) => PageKind::Hole,
            Err(_) => PageKind::Gap,
        }
    }
}

fn from_le(words: &mut [u64]) {
    for word in words {
        *word = u64::from_le(*word);
    }
}
