//! A guest's kernel, as far as it gives address spaces.

use vgpu_perception::process::guest::{GuestAttach, GuestKernel, GuestPaging, GuestProcesses, GuestSearch};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{AddressSpace, Budget, Cr3, PhysRead, ProcessSource, Step};

use crate::failure::{Failure, code};
use crate::ffi::Scratch;

/// What absent entries mean in this guest.
pub(crate) type Paging = GuestPaging;

/// The processes of a kernel.
pub(crate) type Source = GuestProcesses;

/// Finds the kernel that `kcr3` leads to; with 0, whichever there is.
pub(crate) fn find(ram: &impl PhysRead, kcr3: u64, scratch: &mut Scratch, bound: u64) -> Result<GuestKernel, Failure> {
    if kcr3 != 0 {
        let step = GuestAttach::new(Cr3::new(kcr3), None).step(ram, &mut Budget::new(bound)).map_err(Failure::read)?;
        return if let Step::Found(kernel) = step { Ok(kernel) } else { Err(Failure::budget(bound)) };
    }
    let (candidates, _) = scratch.split(RootElection::CANDIDATES, RootCandidate::default(), 0_u8);
    let mut search = GuestSearch::new(None, candidates);
    match search.step(ram, &mut Budget::new(bound)).map_err(Failure::read)? {
        Step::Found(kernel) => Ok(kernel),
        Step::Pending => Err(Failure::budget(bound)),
        Step::Done => Err(no_kernel()),
    }
}

#[cold]
pub(crate) fn no_kernel() -> Failure {
    let text =
        format_args!("no page-table roots in guest memory: is the guest booted, and is the map of its RAM right?");
    Failure::new(code::NOT_FOUND, text)
}

/// The address space of the process of `kernel` whose root is `cr3`: unlike the kernel's own at that root, it knows the
/// process's address descriptors. Reads `bound` words at most, as any search in one call.
pub(crate) fn space_of_process(
    ram: &impl PhysRead,
    kernel: &GuestKernel,
    cr3: Cr3,
    bound: u64,
) -> Option<AddressSpace<Paging>> {
    // Roots have nothing to add, and to list them takes a pass over RAM.
    let GuestKernel::Nt(kernel) = kernel else { return None };
    let mut source = kernel.processes();
    let mut budget = Budget::new(bound);
    loop {
        match source.next_process(ram, &mut budget) {
            Ok(Step::Found(process)) if process.space.root.table() == cr3.table() => {
                return Some(process.map_resolver(GuestPaging::Nt).space);
            }
            Ok(Step::Found(_) | Step::Pending) if !budget.is_spent() => {}
            Ok(_) | Err(_) => return None,
        }
    }
}
