//! Which kernel a guest has: Windows first, roots that share a kernel half second.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception::process::guest::{GuestKernel, GuestSearch};
use vgpu_perception::process::nt::{NtError, NtKernel};
use vgpu_perception::process::roots::{Agreement, RootCandidate};
use vgpu_perception::{Budget, Step};

use crate::attach::Attached;
use crate::failure::Failure;
use crate::progress::spinner;

/// Steps of work between two looks at the clock.
const BUDGET: u64 = 1 << 18;

/// A kernel that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kernel: GuestKernel,
    /// Why it is not Windows, where it is not.
    pub(crate) not_windows: Option<NtError>,
    pub(crate) took: Duration,
}

/// Finds the kernel of `guest`.
pub(crate) fn find(guest: &Attached) -> Result<Found, Failure> {
    let started = Instant::now();
    let ram = &guest.ram;
    if let Some(root) = guest.root {
        let not_windows = NtKernel::attach(ram, root, guest.mode).err();
        let kernel = GuestKernel::attach(ram, root, guest.mode)
            .map_err(|error| Failure::Guest(format!("{error}; give another --cr3, or auto")))?;
        return Ok(Found { kernel, not_windows, took: started.elapsed() });
    }
    let mut scratch = vec![RootCandidate::default(); Agreement::CANDIDATES];
    let mut search = GuestSearch::new(guest.mode, &mut scratch);
    let bar = spinner();
    bar.set_message("looking for the kernel");
    let kernel = loop {
        match search.step(ram, &mut Budget::new(BUDGET))? {
            Step::Found(kernel) => break Some(kernel),
            Step::Pending => {}
            Step::Done => break None,
        }
    };
    bar.finish_and_clear();
    let not_windows = search.not_windows().filter(|_| !matches!(kernel, Some(GuestKernel::Nt(_))));
    let kernel = kernel.ok_or_else(|| {
        Failure::Nothing(
            "no page of this RAM reads like the top page table of a process; \
             is it a 64-bit guest that has booted, and is the map right (--machine, --map)?"
                .into(),
        )
    })?;
    Ok(Found { kernel, not_windows, took: started.elapsed() })
}
