//! From the command line to a guest whose memory can be read.

use vgpu_perception_host::attach::{GuestSource, GuestSpec, MonitorAddress};
use vgpu_perception_host::{Guest, Ram};
use vgpu_perception_mapped::SegmentMap;

use crate::args::{self, Root};
use crate::failure::Failure;

/// The guest that `args` name.
pub(crate) fn spec(args: &args::Guest) -> Result<GuestSpec, Failure> {
    let mut spec = match (&args.qmp, args.pid, &args.guest) {
        (Some(socket), _, _) => GuestSpec::new(GuestSource::Monitor(MonitorAddress::parse(socket))),
        (None, Some(pid), _) => GuestSpec::new(GuestSource::Pid(pid)),
        (None, None, name) => name.as_deref().unwrap_or_default().parse()?,
    };
    if !args.map.is_empty() {
        spec = spec.map(SegmentMap::parse(&args.map)?);
    }
    if let Some((machine, options)) = args.machine {
        spec = spec.machine(machine, options);
    }
    if let Root::Given(root) = args.cr3 {
        spec = spec.cr3(root);
    }
    Ok(spec)
}

/// Attaches to the guest that `args` name.
pub(crate) fn attach(args: &args::Guest) -> Result<Guest<Ram>, Failure> {
    Ok(Guest::attach_to(&spec(args)?)?)
}
