//! Searches for regions: all at once, and in steps.

use vgpu_perception::scan::{Candidate, Discovery, ScanScratch, ScanStats, probe};
use vgpu_perception::{Budget, Process, Step};

use crate::choice::{Current, Round, place};
use crate::failure::{Failure, code};
use crate::ffi::cells::{Latest, TryLock};
use crate::ffi::{Handle, Object, Scratch};
use crate::kernel::{Paging, Source};
use crate::memory::{Mem, MemHandle};
use crate::win32::Win32;

/// A `vgpux_scan`.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) mem: MemHandle,
    pub(crate) mem_id: u64,
    pub(crate) work: TryLock<Work>,
    pub(crate) stats: Latest<ScanStats>,
}

/// A search that is under way.
#[derive(Debug)]
pub(crate) struct Work {
    // Before the memory that it works in: fields are dropped in this order.
    pub(crate) discovery: Discovery<'static, Source>,
    _scratch: Scratch,
}

impl Object for Scan {
    const KIND: u8 = 4;
    const NAME: &'static str = "vgpux_scan";
    const STORAGE: usize = 8192;
}

/// A handle on a [`Scan`].
pub(crate) type ScanHandle = Handle<Scan>;

impl Scan {
    pub(crate) fn new(win32: &Win32, mut scratch: Scratch) -> Self {
        let n = batch(scratch.len());
        let (processes, page_bitmap) = scratch.split_for_owner(n, Process::default(), 0_u64);
        let discovery = Discovery::new(win32.kernel.processes(), ScanScratch { processes, page_bitmap });
        let stats = Latest::new(discovery.stats());
        let (mem, mem_id) = win32.mem();
        Self { mem, mem_id, work: TryLock::new(Work { discovery, _scratch: scratch }), stats }
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
pub(crate) fn every(win32: &Win32, mem: &Mem, mut each: impl FnMut(&Candidate<Paging>)) -> Result<(), Failure> {
    win32.with_scratch(|scratch| {
        mem.caught(|| {
            let n = batch(scratch.len());
            let (processes, page_bitmap) = scratch.split(n, Process::default(), 0_u64);
            let mut discovery = Discovery::new(win32.kernel.processes(), ScanScratch { processes, page_bitmap });
            loop {
                match discovery.step(mem.ram(), &mut Budget::unlimited()).map_err(Failure::read)? {
                    Step::Found(candidate) => each(&candidate),
                    Step::Pending => {}
                    Step::Done => return Ok(()),
                }
            }
        })
    })
}

/// The candidate that a caller who takes one is given: whoever is current, as long as it is there, else whose turn it is.
pub(crate) fn take(win32: &Win32, mem: &Mem) -> Result<Current, Failure> {
    let mut choice = mem.choice.get();
    if let Some(current) = choice.current {
        let at = place(&current.space, current.base);
        if let Ok(found) = probe(mem.ram(), &current.space, current.base) {
            mem.choice.update(|choice| choice.renewed(at, found.pulse));
            return Ok(current.with_pulse(found.pulse));
        }
        mem.choice.update(|choice| choice.passed_over(at));
        choice = mem.choice.get();
    }
    let mut round = Round::new(&choice);
    every(win32, mem, |candidate| round.see(Current::of(candidate)))?;
    let chosen = round.chosen().ok_or_else(|| {
        Failure::new(code::NOT_FOUND, format_args!("no process has a region: is the producer running?"))
    })?;
    // Another call may have chosen meanwhile: then that one is current.
    let mut current = chosen;
    mem.choice.update(|choice| match choice.current {
        Some(other) => {
            current = other;
            None
        }
        None => {
            current = chosen;
            Some(choice.taken(chosen))
        }
    });
    Ok(current)
}
