//! `list`: the virtual machines of this host.

use core::fmt::Write as _;

use serde_json::json;
use vgpu_perception_host::attach::{Running, bytes, running};

use crate::commands::Report;

pub(crate) fn list() -> Report {
    let all = running();
    let json: Vec<_> = all.iter().map(described).collect();
    let nothing = all.is_empty().then(|| {
        "no virtual machine that is known here runs on this host, or none that this user can see \
         (QEMU, cloud-hypervisor, Firecracker, crosvm)"
            .to_owned()
    });
    let text = if all.is_empty() { String::new() } else { table(&all) };
    Report { json: json!({ "guests": json }), text, nothing, note: None }
}

fn described(one: &Running) -> serde_json::Value {
    json!({
        "pid": one.pid,
        "vmm": one.vmm.to_string(),
        "name": one.name,
        "user": one.user,
        "ram_bytes": one.ram,
        "held": one.held,
        "readable": one.obstacle.is_none(),
        "why_not": one.obstacle.as_ref().map(ToString::to_string),
        "monitors": one.monitors,
    })
}

fn table(all: &[Running]) -> String {
    let mut text = format!("{:>8}  {:16} {:24} {:>10}  RAM IS", "PID", "VMM", "NAME", "SIZE");
    for one in all {
        let name = one.name.as_deref().unwrap_or("-");
        let size = one.ram.map_or_else(|| "?".to_owned(), bytes);
        let state = match &one.obstacle {
            None => format!("readable: {}", one.held.join("; ")),
            Some(error) => format!("not readable: {error}"),
        };
        let _ = write!(text, "\n{:>8}  {:16} {name:24} {size:>10}  {state}", one.pid, one.vmm.to_string());
    }
    text
}
