//! Which kernel a guest has: Windows first, roots that share a kernel half second.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception::process::guest::{GuestKernel, GuestSearch};
use vgpu_perception::process::nt::{NtError, NtKernel};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
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
    let found = |kernel, not_windows| Found { kernel, not_windows, took: started.elapsed() };
    if let Some(root) = guest.root {
        let not_windows = match NtKernel::attach(ram, root, guest.mode) {
            Ok(kernel) => return Ok(found(GuestKernel::Nt(kernel), None)),
            Err(error) => error,
        };
        let kernel = GuestKernel::attach(ram, root, guest.mode);
        if !guest.root_is_a_guess {
            let kernel = kernel.map_err(|error| Failure::Guest(format!("{error}; give another --cr3, or auto")))?;
            return Ok(found(kernel, Some(not_windows)));
        }
        // A processor in user mode may have a root loaded that has hardly any kernel half.
        return match (search(guest)?, kernel) {
            ((Some(windows @ GuestKernel::Nt(_)), _), _) => Ok(found(windows, None)),
            ((_, _), Ok(kernel)) => Ok(found(kernel, Some(not_windows))),
            ((Some(kernel), why), Err(_)) => Ok(found(kernel, why)),
            ((None, _), Err(error)) => Err(Failure::Guest(format!("{error}; give --cr3"))),
        };
    }
    match search(guest)? {
        (Some(kernel), not_windows) => Ok(found(kernel, not_windows)),
        (None, _) => Err(Failure::Nothing(
            "no page of this RAM reads like the top page table of a process; \
             is it a 64-bit guest that has booted, and is the map right (--machine, --map)?"
                .into(),
        )),
    }
}

/// Looks for a kernel with nothing known; where it is not Windows, also says why.
fn search(guest: &Attached) -> Result<(Option<GuestKernel>, Option<NtError>), Failure> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut search = GuestSearch::new(guest.mode, &mut scratch);
    let bar = spinner();
    bar.set_message("looking for the kernel");
    let kernel = loop {
        match search.step(&guest.ram, &mut Budget::new(BUDGET))? {
            Step::Found(kernel) => break Some(kernel),
            Step::Pending => {}
            Step::Done => break None,
        }
    };
    bar.finish_and_clear();
    let not_windows = search.not_windows().filter(|_| !matches!(kernel, Some(GuestKernel::Nt(_))));
    Ok((kernel, not_windows))
}

#[cfg(test)]
mod tests {
    use vgpu_perception::{Cr3, PagingMode};
    use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
    use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};

    use super::*;

    /// QEMU says what a processor had loaded: in user mode under page-table isolation that leads to no kernel.
    #[test]
    fn a_root_of_user_mode_is_not_all_there_is() {
        let guest = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
        let path = std::env::temp_dir().join(format!("vgpu-cli-guess-{}", std::process::id()));
        let segments = guest.ram.to_file(&path).unwrap();
        let map = segments.iter().map(|at| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 });
        let ram = GuestRam::open(&path, SegmentMap::new(map).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let user = Cr3::new(guest.truth.processes[guest.truth.producer].user_table_field);
        let mut attached = Attached { ram, root: Some(user), root_is_a_guess: true, mode: Some(PagingMode::FourLevel) };
        let found = find(&attached).unwrap();
        let GuestKernel::Nt(kernel) = found.kernel else { panic!("{found:?}") };
        guest.assert_kernel(&kernel);
        // What the user gave is taken as it is.
        attached.root_is_a_guess = false;
        assert!(!matches!(find(&attached).map(|found| found.kernel), Ok(GuestKernel::Nt(_))));
    }
}
