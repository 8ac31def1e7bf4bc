//! A guest of QEMU by its monitor: who answers, where the guest has RAM, where the process has it.

use serde_json::json;
use vgpu_perception::{Cr3, Gpa, PagingMode};
use vgpu_perception_process::Piece;

use super::error::{AttachError, AttachErrorKind};
use super::flat_view::{self, RamStretch};
use super::monitor::{Monitor, MonitorAddress};
use super::vmm::Vm;
use super::{Found, peer};

/// Asks QEMU. Its guest is interrupted for the moment that reading registers takes.
pub(super) fn by_monitor(address: &MonitorAddress) -> Result<Found, AttachError> {
    let mut monitor = Monitor::connect(address)?;
    // Of a TCP connection that is not accepted yet the kernel does not say whose it is; the greeting shows that it was.
    let is_tcp = matches!(address, MonitorAddress::Tcp(_));
    let greeting = if is_tcp { monitor.greet() } else { Ok(()) };
    // Taken hold of before anything is asked: an answer then proves that it lives, and that its number is its own.
    let vm = peer::vm_behind(&monitor, address);
    let greeting = if is_tcp { greeting } else { monitor.greet() };
    let answers = greeting.and_then(|()| monitor.enable());
    // A monitor that is none says more than who is behind it.
    let vm = match (answers, vm) {
        (Ok(()), vm) => vm?,
        (Err(error), Ok(vm)) if error.kind() == AttachErrorKind::MonitorBusy => {
            let message = format!("{error} (here: pid:{})", vm.pid());
            return Err(AttachError::new(error.kind(), message));
        }
        (Err(error), _) => return Err(error),
    };
    let names = blocks(&mut monitor, &vm)?;
    let tree = monitor.human("info mtree -f")?;
    let stretches = flat_view::ram(&tree, |name| names.iter().any(|known| known == name));
    if stretches.is_empty() {
        return Err(AttachError::new(
            AttachErrorKind::Layout,
            format!("QEMU's memory tree shows no RAM of {}; give pid:{} instead", names.join(" or "), vm.pid()),
        ));
    }
    let mut pieces = Vec::with_capacity(stretches.len());
    for stretch in &stretches {
        pieces.push(locate(&mut monitor, stretch)?);
    }
    let registers = monitor.human("info registers")?;
    Ok(Found { vm, pieces, root: paging_root(&registers), notes: Vec::new() })
}

/// What the memory tree may call guest RAM: the memory backends, and the machine's own names for what it makes itself.
fn blocks(monitor: &mut Monitor, vm: &Vm) -> Result<Vec<String>, AttachError> {
    let objects = monitor.execute("qom-list", &json!({ "path": "/objects" }))?;
    let mut names = vec!["pc.ram".to_owned(), "microvm.ram".to_owned()];
    for object in objects.as_array().into_iter().flatten() {
        let (Some(name), Some(kind)) = (object["name"].as_str(), object["type"].as_str()) else { continue };
        let kind = kind.trim_start_matches("child<").trim_end_matches('>');
        if matches!(kind, "sev-guest" | "sev-snp-guest" | "tdx-guest") {
            return Err(encrypted(vm, kind));
        }
        if kind.starts_with("memory-backend-") && kind != "memory-backend-epc" {
            // Machines up to 4.0 call the block by the object's whole path.
            names.push(format!("/objects/{name}"));
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

pub(super) fn encrypted(vm: &Vm, by: &str) -> AttachError {
    AttachError::new(
        AttachErrorKind::Encrypted,
        format!(
            "the RAM of this guest (pid {}) is encrypted ({by}): nobody outside can read it. Start it without SEV or \
             TDX, or read the screen inside the guest",
            vm.pid()
        ),
    )
}

/// Where QEMU has a stretch of RAM: asked for its first and its last page, which have to lie as far apart there as
/// here.
fn locate(monitor: &mut Monitor, stretch: &RamStretch) -> Result<Piece, AttachError> {
    let first = host_address(monitor, stretch, stretch.gpa)?;
    let skip = stretch.len.saturating_sub(4096);
    let last = host_address(monitor, stretch, stretch.gpa.wrapping_add(skip))?;
    if last.wrapping_sub(first) != skip {
        return Err(AttachError::new(
            AttachErrorKind::Layout,
            format!(
                "RAM {} at guest physical {} is not one piece in QEMU's memory ({first:#x} to {last:#x}); if memory \
                 was just plugged, try again",
                stretch.name, stretch.gpa
            ),
        ));
    }
    Ok(Piece { gpa: stretch.gpa, len: stretch.len, host_addr: first })
}

fn host_address(monitor: &mut Monitor, stretch: &RamStretch, gpa: Gpa) -> Result<u64, AttachError> {
    let answer = monitor.human(&format!("gpa2hva {:#x}", gpa.get()))?;
    match flat_view::host_address(&answer) {
        Some((name, address)) if name == stretch.name => Ok(address),
        _ => Err(AttachError::new(
            AttachErrorKind::Layout,
            format!(
                "QEMU has no address for guest physical {gpa} in {}: it answers {:?}; if memory was just plugged, try \
                 again",
                stretch.name,
                answer.trim()
            ),
        )),
    }
}

/// `CR0=80050033 CR2=... CR3=0000000001a0a000 CR4=000006f0`, if paging is on.
pub(super) fn paging_root(registers: &str) -> Option<(Cr3, PagingMode)> {
    let value = |name: &str| {
        let (_, rest) = registers.split_once(&format!("{name}="))?;
        let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let paging = value("CR0")? & (1 << 31) != 0;
    paging.then_some((Cr3::new(value("CR3")?), PagingMode::from_cr4(value("CR4")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_give_a_root_only_with_paging() {
        let text = "CR0=80050033 CR2=00007f CR3=8000000001a0a002 CR4=00001ef0\n";
        assert_eq!(paging_root(text), Some((Cr3::new(0x8000_0000_01a0_a002), PagingMode::FiveLevel)));
        assert_eq!(paging_root("CR0=00000010 CR2=0 CR3=0 CR4=0"), None);
    }
}
