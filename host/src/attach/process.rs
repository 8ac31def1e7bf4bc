//! A guest by its process: the layout comes from its command line and mappings, and is proven in RAM. No monitor is
//! asked.

use core::ops::Range;

use vgpu_perception_process::Piece;

use super::cmdline::QemuLine;
use super::error::{AttachError, AttachErrorKind};
use super::layout::{self, Layout};
use super::source::{self, Plan};
use super::vmm::{Vm, Vmm};
use super::{plugged, proof, qemu};
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

/// The RAM of `vm` under the layout that makes most sense of it, with memory that was plugged in since it started.
pub(super) fn open(vm: &Vm, notes: &mut Vec<String>) -> Result<(Ram, Plan), AttachError> {
    check(vm)?;
    let areas = vm.proc.maps()?;
    let layouts = layout::layouts(vm.vmm, &vm.words, &areas)?;
    let (ram, plan) = choose(vm, layouts, notes)?;
    plugged::with_plugged(vm, &areas, ram, plan, notes)
}

/// The RAM of `vm` under that of `layouts` which makes most sense of it: the first under which all of a kernel's tables
/// read as tables, or the best of all.
pub(super) fn choose(vm: &Vm, layouts: Vec<Layout>, notes: &mut Vec<String>) -> Result<(Ram, Plan), AttachError> {
    let several = layouts.len() > 1;
    let count = layouts.len();
    let mut opened = Vec::with_capacity(count);
    for layout in layouts {
        let mut said = layout.assumed;
        let plan = source::plan(&vm.proc, &layout.pieces)?;
        let ram = source::open(&vm.proc, &plan, &mut said)?;
        opened.push((ram, plan, said));
    }
    if several {
        // Cheap evidence decides which is tried first, and no more.
        opened.sort_by_key(|(ram, ..)| !proof::has_bios_data(ram));
    }
    let best = if several {
        proof::best(opened.iter().map(|(ram, plan, _)| (ram, exchangeable(plan))))
    } else {
        (!opened.is_empty()).then_some((0, None))
    };
    let Some((index, score)) = best else {
        return Err(AttachError::new(AttachErrorKind::Layout, format!("process {} has no layout of RAM", vm.pid())));
    };
    let (ram, plan, mut said) = opened.swap_remove(index);
    if several {
        said.push(match score {
            Some(score) => format!(
                "of {count} layouts that fit, one was taken under which the kernel's page tables make sense ({score} \
                 do)"
            ),
            None => format!("{count} layouts fit, and no kernel is found under any: the first was taken"),
        });
    }
    notes.append(&mut said);
    Ok((ram, plan))
}

/// The guest physical addresses of the pieces of `plan` that have another piece's length: they could be one another's.
fn exchangeable(plan: &Plan) -> Vec<Range<u64>> {
    let pieces = plan.pieces.iter().map(|(piece, _)| piece);
    let twins = |piece: &&Piece| pieces.clone().filter(|other| other.len == piece.len).count() > 1;
    let range = |piece: &Piece| piece.gpa.get()..piece.gpa.get().saturating_add(piece.len);
    pieces.clone().filter(twins).map(range).collect()
}
