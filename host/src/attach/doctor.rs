//! Each step of attaching to a guest, what was seen, and what to change.

use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use super::error::{AttachError, AttachErrorKind};
use super::files::bytes;
use super::maps::{self, Area, FileId};
use super::procfs::Access;
use super::source::{Held, Plan};
use super::spec::{GuestSource, GuestSpec};
use super::vmm::{self, Vm, Vmm};
use super::{Attachment, attach, layout, process, source};

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Notice,
    /// It does not work.
    Bad,
}

/// One step of attaching: what was looked at, what was seen, what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub step: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What to change, where there is something; may be lines to paste.
    pub advice: Option<String>,
}

impl Finding {
    fn new(step: &'static str, outcome: Outcome, seen: impl Into<String>) -> Self {
        Self { step, outcome, seen: seen.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Attaches to the guest that `spec` names, and says how each step went.
#[must_use]
pub fn examine(spec: &GuestSpec) -> (Vec<Finding>, Option<Attachment>) {
    let mut findings = Vec::new();
    match &spec.source {
        GuestSource::Pid(pid) => of_vm(Vm::of_pid(*pid), &mut findings),
        GuestSource::Name(name) => of_vm(vmm::named(name), &mut findings),
        GuestSource::Ram(paths) => paths.iter().for_each(|path| of_file(path, &mut findings)),
        GuestSource::Monitor(_) | GuestSource::CloudHypervisor(_) | GuestSource::Core(_) => {}
    }
    match attach(spec) {
        Ok(attachment) => {
            if let (Some((vm, plan)), true) = (&attachment.held, findings.is_empty()) {
                findings.push(identity(vm));
                findings.push(memory(vm, plan));
            }
            let how = match &*attachment.ram {
                crate::ram::Ram::Mapped(_) => "mapped",
                crate::ram::Ram::Process(_) => "read through the process",
            };
            let seen = format!("{} of RAM, {how}", bytes(attachment.ram.bytes()));
            findings.push(Finding::new("attach", Outcome::Good, seen));
            for note in &attachment.notes {
                findings.push(Finding::new("attach", Outcome::Notice, note.clone()));
            }
            (findings, Some(attachment))
        }
        Err(error) => {
            let named =
                findings.iter().any(|finding| finding.outcome == Outcome::Bad && finding.seen == error.to_string());
            if !named {
                findings.push(failed("attach", &error));
            }
            (findings, None)
        }
    }
}

fn failed(step: &'static str, error: &AttachError) -> Finding {
    let finding = Finding::new(step, Outcome::Bad, error.to_string());
    match error.kind() {
        AttachErrorKind::NotShared => finding.advise(share(None)),
        AttachErrorKind::MonitorBusy => {
            finding.advise("vgpu list shows names and pids: name:NAME and pid:N need no monitor")
        }
        _ => match error.advice() {
            Some(advice) => finding.advise(advice),
            None => finding,
        },
    }
}

/// What to paste so that the RAM of a guest is in a file that can be mapped; without a guest, an example.
fn share(guest: Option<(&Vm, u64)>) -> String {
    let name = guest.and_then(|(vm, _)| vm.name.as_deref()).unwrap_or("NAME");
    let size = guest.map_or_else(|| "4G".to_owned(), |(_, ram)| format!("{}M", ram >> 20));
    let of = |vmm| guest.is_none_or(|(vm, _)| vm.vmm == vmm);
    let mut lines = Vec::new();
    if of(Vmm::Qemu) {
        lines.push(format!(
            "libvirt: virsh edit {name}, put inside <domain>, then stop and start the guest:\n  \
             <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
        ));
        lines.push(format!(
            "QEMU: -object memory-backend-memfd,id=ram,size={size},share=on -machine memory-backend=ram (the size of \
             -m)"
        ));
    }
    if of(Vmm::CloudHypervisor) {
        lines.push(format!("cloud-hypervisor: --memory size={size},shared=on"));
    }
    lines.join("\n")
}

fn of_vm(vm: Result<Vm, AttachError>, findings: &mut Vec<Finding>) {
    let vm = match vm {
        Ok(vm) => vm,
        Err(error) => return findings.push(failed("guest", &error)),
    };
    findings.push(identity(&vm));
    if let Err(error) = process::check(&vm) {
        return findings.push(failed("encryption", &error));
    }
    surroundings(&vm, findings);
    let areas = match vm.proc.maps() {
        Ok(areas) => areas,
        Err(error) => return findings.push(failed("rights", &error)),
    };
    let planned = layout::layouts(vm.vmm, &vm.words, &areas).map(|layouts| {
        let pieces = layouts.into_iter().next().map(|layout| layout.pieces).unwrap_or_default();
        source::plan(&vm.proc, &pieces).ok()
    });
    let access = match &planned {
        Ok(Some(plan)) => plan.access(),
        _ => Access::Mappings,
    };
    findings.push(match (vm.proc.may_be_read(access), access) {
        (Ok(()), Access::Mappings) => Finding::new("rights", Outcome::Good, "this user may read its mappings"),
        (Ok(()), Access::Memory) => Finding::new("rights", Outcome::Good, "this user may read its mappings and memory"),
        (Err(error), _) => failed("rights", &error),
    });
    match planned {
        Ok(Some(plan)) => findings.push(memory(&vm, &plan)),
        Ok(None) => {}
        Err(error) => findings.push(failed("memory", &error)),
    }
}

fn identity(vm: &Vm) -> Finding {
    let name = vm.name.as_ref().map_or_else(String::new, |name| format!(" {name:?}"));
    let user = vm.proc.user().map_or_else(String::new, |user| format!(", run by user {user}"));
    Finding::new("guest", Outcome::Good, format!("{}{name}, process {}{user}", vm.vmm, vm.pid()))
}

/// What may stand between this process and that of the guest.
fn surroundings(vm: &Vm, findings: &mut Vec<Finding>) {
    if let Some(label) = vm.proc.label() {
        let seen = format!("a security module confines it as {label:?} (sVirt, AppArmor or SELinux)");
        findings.push(Finding::new("confinement", Outcome::Notice, seen));
    }
    for (kind, means) in [
        ("mnt", "paths in its command line are not paths here: its files are reached through the process"),
        ("pid", "its monitor gives it another number than it has here: name it by pid:N or name:NAME"),
        ("user", "only root of the host may look into it"),
    ] {
        if vm.proc.other_namespace(kind) {
            let seen = format!("it has a {kind} namespace of its own: {means}");
            findings.push(Finding::new("namespace", Outcome::Notice, seen));
        }
    }
}

fn memory(vm: &Vm, plan: &Plan) -> Finding {
    let mut kinds: Vec<String> = plan.pieces.iter().map(|(_, held)| held.to_string()).collect();
    kinds.dedup();
    let seen = kinds.join("; ");
    if plan.pieces.iter().all(|(_, held)| matches!(held, Held::SharedFile { .. })) {
        return Finding::new("memory", Outcome::Good, seen);
    }
    let finding = Finding::new("memory", Outcome::Notice, format!("{seen}: read through the process"));
    let better = "It works as it is. Shared memory is read faster, and without rights over the process:\n";
    let ram = plan.pieces.iter().fold(0_u64, |sum, (piece, _)| sum.saturating_add(piece.len));
    match vm.vmm {
        Vmm::Firecracker | Vmm::Crosvm => finding,
        Vmm::Qemu | Vmm::CloudHypervisor => finding.advise(format!("{better}{}", share(Some((vm, ram))))),
    }
}

/// Who has a RAM file mapped, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapper {
    /// The number of the process.
    pub pid: u32,
    /// What it is called, where it is a virtual machine with a name.
    pub name: Option<String>,
    /// What it writes reaches the file.
    pub shared: bool,
}

/// The virtual machines of this host that have the file at `path` mapped; `None` where one runs that may not be looked
/// into, or where there is no such file.
#[must_use]
pub fn mappers(path: &Path) -> Option<Vec<Mapper>> {
    let meta = std::fs::metadata(path).ok()?;
    let device = (rustix::fs::major(meta.st_dev()), rustix::fs::minor(meta.st_dev()));
    let file = FileId { device, inode: meta.st_ino() };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Some filesystems (btrfs, overlays) go by another device in mappings: the name has to do then.
    let is_it = |area: &Area| {
        FileId::of(area) == Some(file)
            || (area.inode == file.inode && maps::path(area).rsplit('/').next() == Some(name.as_str()))
    };
    let mut found = Vec::new();
    for vm in vmm::all() {
        let areas = match vm.proc.maps() {
            Ok(areas) => areas,
            Err(error) if error.kind() == AttachErrorKind::Ended => continue,
            Err(_) => return None,
        };
        if let Some(area) = areas.iter().find(|area| is_it(area) && area.writable) {
            found.push(Mapper { pid: vm.pid(), shared: area.shared, name: vm.name });
        }
    }
    Some(found)
}

/// Why the file at `path` does not show a guest that runs, where that can be seen: who maps it takes private copies, or
/// nobody maps it.
#[must_use]
pub fn why_frozen(path: &Path) -> Option<String> {
    let mappers = mappers(path)?;
    match mappers.first() {
        Some(_) if mappers.iter().any(|one| one.shared) => None,
        Some(one) => Some(format!(
            "process {pid} has private copies of {} (share=off), so that the file never shows what the guest writes: \
             give pid:{pid}, or start the guest with share=on",
            path.display(),
            pid = one.pid
        )),
        None => Some(format!(
            "no virtual machine of this host that is known here has {} mapped: the one that had it has ended, and \
             `vgpu list` shows what runs",
            path.display()
        )),
    }
}

fn of_file(path: &Path, findings: &mut Vec<Finding>) {
    match std::fs::metadata(path) {
        Ok(meta) => {
            let seen = format!(
                "{}: {}, {} of it allocated",
                path.display(),
                bytes(meta.st_size()),
                bytes(meta.st_blocks() * 512)
            );
            findings.push(Finding::new("file", Outcome::Good, seen));
        }
        // Attaching says it better.
        Err(_) => return,
    }
    let mappers = mappers(path).unwrap_or_default();
    let list =
        |mappers: &[&Mapper]| mappers.iter().map(|one| format!("pid:{}", one.pid)).collect::<Vec<_>>().join(", ");
    let (shared, private): (Vec<&Mapper>, Vec<&Mapper>) = mappers.iter().partition(|one| one.shared);
    findings.push(match (shared.is_empty(), private.is_empty()) {
        (false, _) => Finding::new("sharing", Outcome::Good, format!("{} shares it", list(&shared)))
            .advise(format!("{} needs no map and proves whose RAM it is", list(&shared))),
        (true, false) => Finding::new(
            "sharing",
            Outcome::Bad,
            format!(
                "{} has private copies of it (share=off): the file never shows what the guest writes",
                list(&private)
            ),
        )
        .advise(format!("give {}, or start the guest with share=on:\n{}", list(&private), share(None))),
        (true, true) => Finding::new(
            "sharing",
            Outcome::Notice,
            "no virtual machine that can be seen has it mapped: has it ended, or is this another user's?",
        ),
    });
}
