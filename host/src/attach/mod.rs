//! From a guest's name to its RAM.
//!
//! A guest is named by its monitor, its process, its name, or its files ([`GuestSpec`]). Whatever the way, what is read
//! is proven to be the guest's: the VMM's own mappings say which file or which memory holds each piece of RAM, and what
//! is mapped here is compared with them. Nothing is opened for writing, and no process is stopped.

pub mod cloud_hypervisor;
pub mod cmdline;
mod core_file;
mod doctor;
mod error;
mod files;
pub mod flat_view;
pub mod json_stream;
pub mod layout;
mod list;
mod low_part;
pub mod maps;
mod monitor;
mod obstacle;
mod peer;
mod plugged;
mod process;
mod procfs;
mod proof;
mod qemu;
mod source;
mod spec;
mod vmm;

use vgpu_perception::{Cr3, PagingMode};
use vgpu_perception_process::Piece;

pub use doctor::{Finding, Mapper, Outcome, examine, mappers, why_frozen};
pub use error::{AttachError, AttachErrorKind};
pub use files::bytes;
pub use list::{Running, running};
pub use monitor::MonitorAddress;
pub use source::Held;
pub use spec::{GuestSource, GuestSpec};
pub use vmm::Vmm;

use crate::memory::Shared;
use crate::ram::Ram;
use source::Plan;
use vmm::Vm;

/// A guest whose RAM can be read, and what is known of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attachment {
    /// Its RAM.
    pub ram: Shared<Ram>,
    /// A page-table root of the guest, where one is known.
    pub root: Option<Cr3>,
    /// The root is what a processor had loaded, not what the user gave: it may be one of user mode alone.
    pub root_is_guess: bool,
    /// How deep its tables are, where that is known.
    pub mode: Option<PagingMode>,
    /// Whether the guest may change under the reader; not so for a core file.
    pub live: bool,
    /// What was assumed, or done in another way than asked; for people.
    pub notes: Vec<String>,
    spec: GuestSpec,
    /// The process that holds the RAM, and what of it must not change.
    held: Option<(Vm, Plan)>,
    /// Mappings that may be memory that was plugged in, and how often they were looked at.
    unknown: (Vec<maps::Area>, u8),
}

/// How often it is looked whether the guest has begun to use what was plugged in. A kernel takes a second at most.
const LOOKS: u8 = 16;

/// What a VMM said of its guest.
struct Found {
    vm: Vm,
    pieces: Vec<Piece>,
    root: Option<(Cr3, PagingMode)>,
    notes: Vec<String>,
}

/// Attaches to the guest that `spec` names.
///
/// # Errors
/// [`AttachError`] with what is in the way and what to do about it.
pub fn attach(spec: &GuestSpec) -> Result<Attachment, AttachError> {
    let mut notes = Vec::new();
    let (ram, asked, held) = match &spec.source {
        GuestSource::Monitor(address) => by_pieces(qemu::by_monitor(address)?, &mut notes)?,
        GuestSource::Pid(pid) => by_process(Vm::of_pid(*pid)?, &mut notes)?,
        GuestSource::Name(name) => by_process(vmm::named(name)?, &mut notes)?,
        GuestSource::Ram(paths) => (Ram::Mapped(files::open(spec, paths, &mut notes)?), None, None),
        GuestSource::CloudHypervisor(socket) => {
            let (vm, layouts) = cloud_hypervisor::ask(socket)?;
            let (ram, plan) = process::choose(&vm, layouts, &mut notes)?;
            (ram, None, Some((vm, plan)))
        }
        GuestSource::Core(path) => {
            let (ram, root) = core_file::open(path)?;
            (Ram::Mapped(ram), root, None)
        }
    };
    if held.is_some() && spec.map.is_some() {
        return Err(AttachError::new(
            AttachErrorKind::Usage,
            format!(
                "--map describes RAM files, and {} says itself where its RAM is: leave it out, or give ram:FILE",
                spec.source
            ),
        ));
    }
    let (root, mode, root_is_guess) = match (spec.root, asked) {
        (Some(root), asked) => (Some(root), asked.map(|(_, mode)| mode), false),
        (None, Some((root, mode))) => (Some(root), Some(mode), true),
        (None, None) => (None, None, false),
    };
    Ok(Attachment {
        ram: Shared::new(ram),
        root,
        root_is_guess,
        mode,
        live: !matches!(spec.source, GuestSource::Core(_)),
        notes,
        spec: spec.clone(),
        unknown: (held.as_ref().map_or_else(Vec::new, |(vm, plan)| unknown(vm, plan)), LOOKS),
        held,
    })
}

type Opened = (Ram, Option<(Cr3, PagingMode)>, Option<(Vm, Plan)>);

fn by_pieces(found: Found, notes: &mut Vec<String>) -> Result<Opened, AttachError> {
    let plan = source::plan(&found.vm.proc, &found.pieces)?;
    notes.extend(found.notes);
    let ram = source::open(&found.vm.proc, &plan, notes)?;
    Ok((ram, found.root, Some((found.vm, plan))))
}

fn by_process(vm: Vm, notes: &mut Vec<String>) -> Result<Opened, AttachError> {
    let (ram, plan) = process::open(&vm, notes)?;
    Ok((ram, None, Some((vm, plan))))
}

impl Attachment {
    /// Before a new survey: looks whether the process still lives and has the same memory as before, and takes RAM that
    /// was plugged or unplugged since.
    ///
    /// # Errors
    /// [`AttachError`]: [`AttachErrorKind::Ended`] where the guest is gone; any other where its RAM cannot be read as
    /// it is now. The RAM of before stays in place then, and must not be used.
    pub fn refresh(&mut self) -> Result<(), AttachError> {
        let Some((vm, plan)) = &self.held else {
            if let Ram::Mapped(ram) = &*self.ram {
                ram.check()?;
            }
            return Ok(());
        };
        if !vm.proc.is_alive() {
            return Err(vm.proc.ended());
        }
        let mut notes = Vec::new();
        let (found, root) = match &self.spec.source {
            GuestSource::Monitor(address) => {
                let found = qemu::by_monitor(address)?;
                if found.vm.pid() != vm.pid() {
                    return Err(another_answers(address, found.vm.pid()));
                }
                (source::plan(&vm.proc, &found.pieces)?, found.root)
            }
            GuestSource::CloudHypervisor(socket) => {
                let (now, layouts) = cloud_hypervisor::ask(socket)?;
                if now.pid() != vm.pid() {
                    return Err(another_answers(socket.display(), now.pid()));
                }
                let pieces = plan.only_pieces();
                if !layouts.iter().any(|layout| layout.pieces == pieces) {
                    return self.replace(|vm, notes| process::choose(vm, layouts, notes));
                }
                (source::plan(&vm.proc, &pieces)?, None)
            }
            _ => {
                let now = unknown(vm, plan);
                let (known, looks) = &mut self.unknown;
                if now != *known {
                    (*known, *looks) = (now, 0);
                }
                let same = source::plan(&vm.proc, &plan.only_pieces());
                if same.is_err() || (!known.is_empty() && *looks < LOOKS) {
                    *looks = looks.saturating_add(1);
                    return self.replace(process::open);
                }
                (same?, None)
            }
        };
        if let (Some((root, mode)), true) = (root, self.root_is_guess) {
            (self.root, self.mode) = (Some(root), Some(mode));
        }
        if found == *plan && still_maps(&self.ram) {
            return Ok(());
        }
        let ram = source::open(&vm.proc, &found, &mut notes)?;
        self.notes = notes;
        self.ram = Shared::new(ram);
        if let Some((_, plan)) = &mut self.held {
            *plan = found;
        }
        Ok(())
    }

    /// Takes the RAM that `find` gives, if it is other RAM than before.
    fn replace(
        &mut self,
        find: impl FnOnce(&Vm, &mut Vec<String>) -> Result<(Ram, Plan), AttachError>,
    ) -> Result<(), AttachError> {
        let Some((vm, plan)) = &mut self.held else { return Ok(()) };
        let mut notes = Vec::new();
        let (ram, found) = find(vm, &mut notes)?;
        if found.only_pieces() != plan.only_pieces() {
            self.unknown = (unknown(vm, &found), LOOKS);
        }
        if found != *plan || !still_maps(&self.ram) {
            (self.ram, self.notes, *plan) = (Shared::new(ram), notes, found);
        }
        Ok(())
    }
}

fn still_maps(ram: &Ram) -> bool {
    match ram {
        Ram::Mapped(ram) => ram.check().is_ok(),
        Ram::Process(ram) => ram.revalidate().is_ok(),
    }
}

/// What may be memory that was plugged in; nothing where the process cannot be asked.
fn unknown(vm: &Vm, plan: &Plan) -> Vec<maps::Area> {
    vm.proc.maps().map(|areas| plugged::unknown(vm, &areas, plan)).unwrap_or_default()
}

fn another_answers(address: impl core::fmt::Display, pid: u32) -> AttachError {
    AttachError::new(
        AttachErrorKind::Ended,
        format!("{address} is now that of another virtual machine (pid {pid}): attach anew"),
    )
}
