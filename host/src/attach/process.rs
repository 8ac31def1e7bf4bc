//! A guest by its process: no monitor is asked, the layout is taken from its words and mappings and proven in RAM.

use super::cmdline::QemuLine;
use super::error::{AttachError, AttachErrorKind};
use super::layout::{self, Layout};
use super::source::{self, Plan};
use super::vmm::{Vm, Vmm};
use super::{proof, qemu};
use crate::ram::Ram;

/// Refuses what nobody can read.
pub(super) fn check(vm: &Vm) -> Result<(), AttachError> {
    if vm.vmm == Vmm::Qemu
        && let Some(by) = QemuLine::parse(&vm.words).encrypted
    {
        return Err(qemu::encrypted(vm, &by));
    }
    Ok(())
}

/// The RAM of `vm` under the layout that makes most sense of it.
pub(super) fn open(vm: &Vm, notes: &mut Vec<String>) -> Result<(Ram, Plan), AttachError> {
    check(vm)?;
    let layouts = layout::layouts(vm.vmm, &vm.words, &vm.proc.maps()?)?;
    choose(vm, layouts, notes)
}

/// The RAM of `vm` under that of `layouts` which makes most sense of it.
pub(super) fn choose(vm: &Vm, layouts: Vec<Layout>, notes: &mut Vec<String>) -> Result<(Ram, Plan), AttachError> {
    let several = layouts.len() > 1;
    let count = layouts.len();
    let mut best: Option<(Option<i64>, Ram, Plan, Vec<String>)> = None;
    for layout in layouts {
        let mut said = layout.assumed;
        let plan = source::plan(&vm.proc, &layout.pieces)?;
        let ram = source::open(&vm.proc, &plan, &mut said)?;
        let score = if several { proof::score(&ram) } else { None };
        if best.as_ref().is_none_or(|(known, ..)| score > *known) {
            best = Some((score, ram, plan, said));
        }
    }
    let Some((score, ram, plan, mut said)) = best else {
        return Err(AttachError::new(AttachErrorKind::Layout, format!("process {} has no layout of RAM", vm.pid())));
    };
    if several {
        said.push(match score {
            Some(score) => format!(
                "of {count} layouts that fit, the one was taken under which most page tables make sense ({score})"
            ),
            None => format!("{count} layouts fit, and no kernel is found under any: the first was taken"),
        });
    }
    notes.append(&mut said);
    Ok((ram, plan))
}
