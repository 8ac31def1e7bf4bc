//! From the command line to a guest whose memory can be read.

use vgpu_perception_host::attach::{GuestSource, GuestSpec, MonitorAddress, bytes};
use vgpu_perception_host::{Guest, Ram};
use vgpu_perception_mapped::SegmentMap;

use crate::args;
use crate::failure::Failure;
use crate::numbers::Root;
use crate::progress::Progress;
use crate::verbose::say;

/// The guest that `args` name.
pub(crate) fn spec(args: &args::Guest) -> Result<GuestSpec, Failure> {
    let mut spec = match (&args.qmp, args.pid, &args.guest) {
        (Some(socket), _, _) => GuestSpec::new(GuestSource::Monitor(MonitorAddress::parse(socket))),
        (None, Some(pid), _) => GuestSpec::new(GuestSource::Pid(pid)),
        (None, None, name) => name.as_deref().unwrap_or_default().parse()?,
    };
    if !args.map.is_empty() {
        let map = SegmentMap::parse(&args.map).map_err(|error| Failure::Usage(format!("--map: {error}")))?;
        spec = spec.map(map);
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
    let spec = spec(args)?;
    say(|| format!("attaching to {}", spec.source()));
    let progress = Progress::start(format!("attaching to {}", spec.source()));
    let guest = Guest::attach_to(&spec);
    drop(progress);
    let guest = guest?;
    say(|| {
        let memory = guest.memory();
        let way = match &*memory {
            Ram::Mapped(_) => "mapped read-only from its files",
            Ram::Process(_) => "read out of the process that holds it, since no file does",
            _ => "read",
        };
        format!("attached: {} of RAM, {way}, the last byte below {:#x}", bytes(memory.bytes()), memory.end().get())
    });
    // What was assumed is said without being asked: a picture may rest on it.
    for note in guest.notes() {
        eprintln!("vgpu: {note}");
    }
    match args.cr3 {
        Root::Given(root) => say(|| format!("the search starts from the page-table root {:#x}, as given", root.get())),
        Root::Auto => say(|| "the search starts from what the monitor names as CR3, or from nothing".to_owned()),
    }
    Ok(guest)
}
