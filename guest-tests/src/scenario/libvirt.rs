//! Guests of a real libvirt, by name: its monitor is left to it, and nothing of the guest is tainted.

use core::time::Duration;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use vgpu_perception_guest_tests::attach::scan_unknown;
use vgpu_perception_guest_tests::{Assets, Ready, Result};
use vgpu_perception_host::Ram;
use vgpu_perception_host::attach::{AttachErrorKind, GuestSpec, attach};

use super::advice::advice_of;
use super::{Length, dumps, ensure, ways};

const SIZE: (u32, u32) = (640, 360);

/// A domain, and how libvirt is told to hold its RAM.
struct Kind<'a> {
    name: &'static str,
    memory: &'a str,
    mapped: bool,
}

const KINDS: [Kind<'static>; 3] = [
    Kind { name: "vgpu-default", memory: "", mapped: false },
    Kind {
        name: "vgpu-memfd",
        memory: "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        mapped: true,
    },
    Kind {
        name: "vgpu-cells",
        memory: "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\
            <cpu><numa><cell id='0' cpus='0' memory='256' unit='MiB'/><cell id='1' memory='256' \
            unit='MiB'/></numa></cpu>",
        mapped: true,
    },
];

/// Runs each domain in turn; with `VGPU_LIBVIRT=short`, the default one alone.
pub(crate) fn run(_: Length) -> Result<()> {
    let virsh = virsh(&["version"])?;
    println!("  {}", virsh.lines().last().unwrap_or_default());
    let kinds =
        if std::env::var("VGPU_LIBVIRT").is_ok_and(|length| length == "short") { &KINDS[..1] } else { &KINDS[..] };
    let mut advised = None;
    for kind in kinds {
        let domain = Domain::start(kind)?;
        let tested = domain.test(kind);
        if !kind.mapped && kinds.len() > 1 {
            advised = Some(advice_of(kind.name)?);
        }
        drop(domain);
        tested.map_err(|error| format!("{}: {error}", kind.name))?;
    }
    // What is advised for the default domain, put into its description.
    let Some(advice) = advised else { return Ok(()) };
    let xml = advice.lines().map(str::trim).find(|line| line.starts_with("<memoryBacking>"));
    let kind = Kind { name: "vgpu-advised", memory: xml.ok_or("doctor advises no XML")?, mapped: true };
    let domain = Domain::start(&kind)?;
    let ready = domain.start_producer()?;
    let attachment = attach(&kind.name.parse()?)?;
    ensure!(matches!(*attachment.ram, Ram::Mapped(_)), "with {}: not mapped", kind.memory);
    ways::show(&attachment, ready, SIZE)?;
    println!("  doctor's XML for a default domain: mapped, frames right");
    domain.dump(ready)
}

/// Finds the live regions of the guest that `VGPU_GUEST` names: what the scenarios run as another user.
pub(crate) fn look(_: Length) -> Result<()> {
    let name = std::env::var("VGPU_GUEST").map_err(|_| "set VGPU_GUEST to the name of a guest")?;
    let attachment = attach(&name.parse()?)?;
    let living = scan_unknown(attachment.ram)?.alive()?;
    ensure!(living.len() == 1, "{} regions live", living.len());
    println!("1 region lives");
    Ok(())
}

fn virsh(args: &[&str]) -> Result<String> {
    let output = Command::new("virsh").args(["-c", "qemu:///system"]).args(args).output();
    let output = output.map_err(|error| format!("virsh cannot be run: {error}. Run .ci/attach"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "virsh {}: {errors}. Run .ci/attach, which starts libvirtd", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A domain that runs, destroyed when dropped.
struct Domain {
    name: &'static str,
    dir: PathBuf,
}

impl Domain {
    fn start(kind: &Kind<'_>) -> Result<Self> {
        // libvirt's own user has to reach the files.
        let dir = PathBuf::from(format!("/var/tmp/{}-{}", kind.name, std::process::id()));
        fs::create_dir_all(&dir)?;
        let assets = Assets::find()?;
        fs::copy(&assets.kernel, dir.join("kernel"))?;
        fs::copy(&assets.initramfs, dir.join("initramfs"))?;
        let xml = dir.join("domain.xml");
        fs::write(&xml, description(kind, &dir))?;
        Command::new("chmod").args(["-R", "a+rwX"]).arg(&dir).status()?;
        let domain = Self { name: kind.name, dir };
        virsh(&["create", &xml.display().to_string()])?;
        Ok(domain)
    }

    /// What `virsh dump --memory-only` writes is read as a dump.
    fn dump(&self, ready: Ready) -> Result<()> {
        let file = self.dir.join("core");
        virsh(&["dump", "--memory-only", self.name, &file.display().to_string()])?;
        println!("  virsh dump --memory-only: {} MiB", fs::metadata(&file)?.len() >> 20);
        dumps::read(&file, ready)
    }

    fn test(&self, kind: &Kind<'_>) -> Result<()> {
        let ready = self.start_producer()?;
        let begun = Instant::now();
        let spec: GuestSpec = kind.name.parse()?;
        let attachment = attach(&spec)?;
        let took = begun.elapsed();
        let mapped = matches!(*attachment.ram, Ram::Mapped(_));
        ensure!(mapped == kind.mapped, "mapped: {mapped}, expected {}", kind.mapped);
        ways::show(&attachment, ready, SIZE)?;
        let info = virsh(&["dominfo", self.name])?;
        ensure!(info.contains("running") && !info.contains("tainted"), "libvirt says {info}");
        // The monitor is libvirt's, and it answers it.
        let status = virsh(&["qemu-monitor-command", "--hmp", self.name, "info status"])?;
        ensure!(status.contains("running"), "libvirt's monitor says {status}");
        println!(
            "  {}: {}, attached by its name in {:.1} ms, frames right, not tainted{}",
            self.name,
            if mapped { "mapped" } else { "through the process" },
            took.as_secs_f64() * 1e3,
            attachment.notes.iter().map(|note| format!("; {note}")).collect::<String>()
        );
        self.as_others(kind)?;
        self.held_monitor()
    }

    /// As the user of the virtual machine, and as a stranger; each in a process of its own.
    fn as_others(&self, kind: &Kind<'_>) -> Result<()> {
        let look = |user: &str, group: &str| -> Result<(bool, String)> {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
            command.arg(std::env::current_exe()?).arg("look").env("VGPU_GUEST", kind.name);
            let output = command.output()?;
            let text = [output.stdout, output.stderr].concat();
            Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        };
        let (seen, text) = look("libvirt-qemu", "libvirt-qemu")?;
        ensure!(seen && text.contains("1 region lives"), "as its own user: {text}");
        let (seen, text) = look("nobody", "nogroup")?;
        ensure!(!seen && text.contains("run as user") && text.contains("or as root"), "as a stranger: {text}");
        println!("  {}: read as its own user; a stranger is refused", self.name);
        Ok(())
    }

    /// The monitor that libvirt holds: said in the end, with what to give instead.
    fn held_monitor(&self) -> Result<()> {
        let id = virsh(&["domid", self.name])?;
        let path = format!("/var/lib/libvirt/qemu/domain-{id}-{}/monitor.sock", self.name);
        let error =
            attach(&format!("qmp:{path}").parse()?).map(drop).map_err(|error| (error.kind(), error.to_string()));
        match error {
            Err((AttachErrorKind::MonitorBusy, text)) if text.contains("pid:") => Ok(()),
            other => Err(format!("the monitor that libvirt holds gives {other:?}").into()),
        }
    }

    fn start_producer(&self) -> Result<Ready> {
        let mut wire = UnixStream::connect(self.dir.join("wire"))?;
        wire.set_read_timeout(Some(Duration::from_secs(1)))?;
        let deadline = Instant::now() + Duration::from_secs(180);
        let command = format!("start --width {} --height {} --fps 20\n", SIZE.0, SIZE.1);
        let (mut text, mut asked) = (String::new(), false);
        while Instant::now() < deadline {
            let mut some = [0; 1024];
            if let Ok(len) = wire.read(&mut some) {
                text.push_str(&String::from_utf8_lossy(&some[..len]));
            }
            // The first process listens once it has said `up`.
            if !asked && text.contains("up") {
                wire.write_all(command.as_bytes())?;
                asked = true;
            }
            if let Some(ready) = Ready::find(&text) {
                return Ok(ready);
            }
        }
        Err(format!("the guest did not start its producer; it said {text:?}").into())
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let _ = virsh(&["destroy", self.name]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn description(kind: &Kind<'_>, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "<domain type='qemu'><name>{}</name><memory unit='MiB'>512</memory>{}<vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{dir}/kernel</kernel><initrd>{dir}/initramfs</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline></os><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <serial type='file'><source path='{dir}/console'/><target type='isa-serial' port='0'/></serial>\
         <serial type='unix'><source mode='bind' path='{dir}/wire'/><target type='isa-serial' port='1'/></serial>\
         </devices></domain>",
        kind.name, kind.memory
    )
}
