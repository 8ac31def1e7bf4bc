//! The virtual machines of this host, and whether their RAM can be read.

use super::cmdline::QemuLine;
use super::error::AttachError;
use super::source::{self, Held};
use super::vmm::{Vm, Vmm};
use super::{layout, vmm};

/// A virtual machine that runs on this host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Running {
    /// The number of its process.
    pub pid: u32,
    /// The program that runs it.
    pub vmm: Vmm,
    /// What it is called.
    pub name: Option<String>,
    /// The user it runs as.
    pub user: Option<u32>,
    /// Bytes of RAM, as far as its command line and mappings say.
    pub ram: Option<u64>,
    /// How its RAM is held, without repetition; empty where that cannot be seen.
    pub held: Vec<String>,
    /// Why its RAM cannot be read, where it cannot.
    pub obstacle: Option<AttachError>,
    /// Where its QMP monitors listen, as its command line says.
    pub monitors: Vec<String>,
}

/// All virtual machines that this user can see, by number. Nothing of a guest is read.
#[must_use]
pub fn running() -> Vec<Running> {
    vmm::all().iter().map(describe).collect()
}

fn describe(vm: &Vm) -> Running {
    let line = (vm.vmm == Vmm::Qemu).then(|| QemuLine::parse(&vm.words));
    let mut one = Running {
        pid: vm.pid(),
        vmm: vm.vmm,
        name: vm.name.clone(),
        user: vm.proc.user(),
        ram: line.as_ref().map(|line| line.ram),
        held: Vec::new(),
        obstacle: None,
        monitors: line.map(|line| line.monitors).unwrap_or_default(),
    };
    match super::process::check(vm).and_then(|()| held(vm)) {
        Ok((ram, held)) => (one.ram, one.held) = (Some(ram), held),
        Err(error) => one.obstacle = Some(error),
    }
    one
}

fn held(vm: &Vm) -> Result<(u64, Vec<String>), AttachError> {
    let layouts = layout::layouts(vm.vmm, &vm.words, &vm.proc.maps()?)?;
    let pieces = layouts.into_iter().next().map(|layout| layout.pieces).unwrap_or_default();
    let plan = source::plan(&vm.proc, &pieces)?;
    let mut kinds: Vec<String> = Vec::new();
    for (_, held) in &plan.pieces {
        let kind = match held {
            Held::SharedFile { name, .. } => format!("shared {name}"),
            other => other.to_string(),
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let bytes = pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.len));
    vm.proc.may_be_read(plan.access())?;
    Ok((bytes, kinds))
}
