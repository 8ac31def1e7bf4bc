//! Which processes of this host are virtual machines, and what they are called.

use std::path::Path;

use super::cmdline::{Fields, QemuLine};
use super::error::{AttachError, AttachErrorKind};
use super::procfs::{ProcDir, pids};

/// A program that runs virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Vmm {
    /// QEMU, as `qemu-system-x86_64`, `qemu-kvm` or `kvm`.
    Qemu,
    /// cloud-hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
    /// crosvm.
    Crosvm,
}

impl Vmm {
    /// Which of them `program`, the name of an executable, is.
    #[must_use]
    pub fn of_program(program: &str) -> Option<Self> {
        let program = program.strip_suffix(" (deleted)").unwrap_or(program);
        match Path::new(program).file_name()?.to_str()? {
            "qemu-kvm" | "kvm" | "qemu-system" => Some(Self::Qemu),
            name if name.starts_with("qemu-system-") => Some(Self::Qemu),
            "cloud-hypervisor" => Some(Self::CloudHypervisor),
            "firecracker" => Some(Self::Firecracker),
            "crosvm" => Some(Self::Crosvm),
            _ => None,
        }
    }
}

impl core::fmt::Display for Vmm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Qemu => "QEMU",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "Firecracker",
            Self::Crosvm => "crosvm",
        })
    }
}

/// A virtual machine that runs on this host.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) proc: ProcDir,
    pub(super) vmm: Vmm,
    pub(super) words: Vec<String>,
    pub(super) name: Option<String>,
}

impl Vm {
    /// The virtual machine that process `pid` runs.
    pub(super) fn of_pid(pid: u32) -> Result<Self, AttachError> {
        let proc = ProcDir::open(pid)?;
        if let Some(vm) = Self::of(proc) {
            return Ok(vm);
        }
        let program = ProcDir::open(pid)?.words().ok().and_then(|words| words.into_iter().next()).unwrap_or_default();
        Err(AttachError::new(
            AttachErrorKind::NotFound,
            format!(
                "process {pid} ({program:?}) is no virtual machine that is known here (QEMU, cloud-hypervisor, \
                 Firecracker, crosvm); `vgpu list` shows those that run, and ram:FILE with a map reads any other"
            ),
        ))
    }

    fn of(proc: ProcDir) -> Option<Self> {
        let words = proc.words().ok()?;
        // The executable's own name may be hidden from other users; what it was started as is not.
        let by_link = proc.link("exe").ok().and_then(|exe| Vmm::of_program(&exe));
        let vmm = by_link.or_else(|| Vmm::of_program(words.first()?))?;
        let name = name_in(vmm, &words);
        proc.is_alive().then_some(Self { proc, vmm, words, name })
    }

    pub(super) const fn pid(&self) -> u32 {
        self.proc.pid
    }
}

/// What `words` call the virtual machine.
pub(super) fn name_in(vmm: Vmm, words: &[String]) -> Option<String> {
    match vmm {
        Vmm::Qemu => QemuLine::parse(words).name,
        Vmm::Firecracker => option(words, "--id"),
        Vmm::Crosvm => option(words, "--name"),
        // It has no names; people tell its guests apart by their sockets.
        Vmm::CloudHypervisor => {
            let socket = api_socket(words)?;
            Some(Path::new(&socket).file_stem()?.to_string_lossy().into_owned())
        }
    }
}

/// Where a cloud-hypervisor takes questions.
pub(super) fn api_socket(words: &[String]) -> Option<String> {
    let value = option(words, "--api-socket")?;
    Some(Fields::parse(&value, "path").get("path")?.to_owned())
}

/// The value of `key`, as the next word or behind `=`.
pub(super) fn option(words: &[String], key: &str) -> Option<String> {
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == key {
            return rest.next().cloned();
        }
        if let Some(value) = word.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}

/// All virtual machines of this host that this user can see, by number.
pub(super) fn all() -> Vec<Vm> {
    let seen: Vec<Vm> = pids().into_iter().filter_map(|pid| Vm::of(ProcDir::open(pid).ok()?)).collect();
    // crosvm runs its devices in processes of their own, started as the first was.
    let is_part =
        |vm: &Vm| vm.vmm == Vmm::Crosvm && parent(&vm.proc).is_some_and(|of| seen.iter().any(|vm| vm.pid() == of));
    let parts: Vec<u32> = seen.iter().filter(|vm| is_part(vm)).map(Vm::pid).collect();
    seen.into_iter().filter(|vm| !parts.contains(&vm.pid())).collect()
}

fn parent(proc: &ProcDir) -> Option<u32> {
    let status = proc.text("status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The one virtual machine called `name`.
pub(super) fn named(name: &str) -> Result<Vm, AttachError> {
    let (mut fit, others): (Vec<_>, Vec<_>) = all().into_iter().partition(|vm| vm.name.as_deref() == Some(name));
    if fit.len() > 1 {
        let pids: Vec<_> = fit.iter().map(|vm| format!("pid:{}", vm.pid())).collect();
        return Err(AttachError::new(
            AttachErrorKind::Usage,
            format!("{} virtual machines are called {name:?}: give {}", fit.len(), pids.join(" or ")),
        ));
    }
    fit.pop().ok_or_else(|| {
        let known: Vec<_> = others.iter().filter_map(|vm| vm.name.as_deref()).collect();
        let known = if known.is_empty() {
            "none with a name runs".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        AttachError::new(
            AttachErrorKind::NotFound,
            format!("no virtual machine called {name:?} runs on this host ({known}); is it started? see `vgpu list`"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_name() {
        for (program, vmm) in [
            ("/usr/bin/qemu-system-x86_64", Some(Vmm::Qemu)),
            ("/usr/libexec/qemu-kvm (deleted)", Some(Vmm::Qemu)),
            ("kvm", Some(Vmm::Qemu)),
            ("/usr/bin/qemu-img", None),
            ("firecracker", Some(Vmm::Firecracker)),
            ("/opt/cloud-hypervisor", Some(Vmm::CloudHypervisor)),
            ("", None),
        ] {
            assert_eq!(Vmm::of_program(program), vmm, "{program}");
        }
    }

    #[test]
    fn names_are_in_the_words() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(name_in(Vmm::Firecracker, &words("firecracker --id vm7 --api-sock /a")).as_deref(), Some("vm7"));
        assert_eq!(name_in(Vmm::Crosvm, &words("crosvm run --name=c -m 512")).as_deref(), Some("c"));
        let ch = words("cloud-hypervisor --api-socket path=/run/web.sock --memory size=1G");
        assert_eq!(name_in(Vmm::CloudHypervisor, &ch).as_deref(), Some("web"));
        assert_eq!(name_in(Vmm::Qemu, &words("qemu -name guest=a")).as_deref(), Some("a"));
    }
}
