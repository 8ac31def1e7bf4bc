//! Searches: all at once, and in steps.

use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::scan::{Candidate, Discovery, ScanScratch};
use vgpu_perception::{Budget, Process, Step};

use crate::choice::{Rank, place_of};
use crate::failure::{Failure, code};
use crate::ffi::{Handle, Object, Scratch};
use crate::kernel::{Paging, Source, Win32};
use crate::memory::{Mem, MemHandle};

/// A `vgpux_scan`.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) mem: MemHandle,
    // Before the memory that it works in: fields are dropped in this order.
    pub(crate) discovery: Discovery<'static, Source>,
    _scratch: Scratch,
}

impl Object for Scan {
    const MAGIC: u64 = u64::from_le_bytes(*b"vgpuscan");
    const NAME: &'static str = "vgpux_scan";
    const STORAGE: usize = 8192;
}

/// A handle on a [`Scan`].
pub(crate) type ScanHandle = Handle<Scan>;

impl Scan {
    pub(crate) fn new(win32: &Win32, mut scratch: Scratch) -> Self {
        let n = batch(scratch.len());
        let (processes, frames) = scratch.split_for_owner(n, Process::default(), 0_u64);
        let discovery = Discovery::new(win32.kernel.processes(), ScanScratch { processes, page_bitmap: frames });
        Self { mem: win32.mem, discovery, _scratch: scratch }
    }
}

/// How many processes of a batch fit into a quarter of the scratch memory, within what guests have.
fn batch(scratch: usize) -> usize {
    const MOST: usize = ScanScratch::<Paging>::PROCESSES;
    (scratch / 4 / size_of::<Process<Paging>>()).clamp(1, MOST)
}

/// What `VGPUX_SCRATCH_BYTES(end)` computes.
#[cfg(feature = "std")]
pub(crate) fn scratch_bytes(end: u64) -> usize {
    usize::try_from(end / (8 * vgpu_perception::PAGE_BYTES)).unwrap_or(usize::MAX).saturating_add(256 << 10)
}

/// Calls `each` with every candidate.
pub(crate) fn every(
    win32: &mut Win32,
    mut each: impl FnMut(&Mem, &Candidate<Paging>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Win32 { mem, kernel, scratch } = win32;
    mem.read(|mem| every_of(kernel, mem, scratch, |found| each(mem, found)))
}

fn every_of(
    kernel: &GuestKernel,
    mem: &Mem,
    scratch: &mut Scratch,
    mut each: impl FnMut(&Candidate<Paging>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let n = batch(scratch.len());
    let (processes, frames) = scratch.split(n, Process::default(), 0_u64);
    let mut discovery = Discovery::new(kernel.processes(), ScanScratch { processes, page_bitmap: frames });
    loop {
        match discovery.step(mem.ram(), &mut Budget::unlimited()).map_err(Failure::read)? {
            Step::Found(candidate) => each(&candidate)?,
            Step::Pending => {}
            Step::Done => return Ok(()),
        }
    }
}

/// The candidate that a caller who takes one is given.
pub(crate) fn best(win32: &mut Win32) -> Result<Candidate<Paging>, Failure> {
    let mut best: Option<(Rank, Candidate<Paging>)> = None;
    every(win32, |mem, found| {
        let rank = mem.seen(|seen| seen.rank(found));
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, *found));
        }
        Ok(())
    })?;
    let (_, found) = best.ok_or_else(|| {
        Failure::new(code::NOT_FOUND, format_args!("no process has a region: is the producer running?"))
    })?;
    win32.mem.read(|mem| {
        mem.seen(|seen| seen.handed_out(place_of(&found), found.found.pulse));
        Ok(())
    })?;
    Ok(found)
}
