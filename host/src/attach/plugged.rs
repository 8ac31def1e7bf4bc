//! Memory that was plugged in after a guest of QEMU's started, where no monitor is asked.
//!
//! It is not among the words that the process was started with, but it is one of its mappings, and the guest's kernel
//! maps it: Linux maps all RAM that it was given. So the kernel's tables say how much there is and where; of the
//! process's mappings those that make up just that much are taken, if there is one way only.

use core::ops::Range;

use vgpu_perception::Gpa;
use vgpu_perception_process::Piece;

use super::cmdline::QemuLine;
use super::error::AttachError;
use super::files::bytes;
use super::maps::{self, Area};
use super::source::{self, Plan};
use super::vmm::{Vm, Vmm};
use super::{layout, proof};
use crate::ram::Ram;

/// Linux takes memory in blocks of so many bytes; smaller mappings are QEMU's own affairs.
const BLOCK: u64 = 128 << 20;
/// The most ways that are tried.
const MOST_WAYS: usize = 24;

/// The mappings that may be memory that was plugged in: large, whole blocks, and no part of what is known. None where
/// the machine has no place for such memory.
pub(super) fn unknown(vm: &Vm, areas: &[Area], plan: &Plan) -> Vec<Area> {
    let line = QemuLine::parse(&vm.words);
    if vm.vmm != Vmm::Qemu || layout::device_window(&line).is_none_or(|window| window.is_empty()) {
        return Vec::new();
    }
    let is_known = |area: &Area| {
        plan.pieces
            .iter()
            .any(|(piece, _)| piece.host_addr < area.end && area.start < piece.host_addr.saturating_add(piece.len))
    };
    let may_be = |area: &Area| {
        area.readable && area.writable && !area.executable && area.len() >= BLOCK && area.len().is_multiple_of(BLOCK)
    };
    let mut found = maps::joined(areas);
    found.retain(|area| may_be(area) && !is_known(area));
    // The kernel hands out addresses from the top: what was plugged in first lies highest.
    found.reverse();
    found
}

/// `ram`, with the memory that the guest's kernel maps beyond it.
pub(super) fn with_plugged(
    vm: &Vm,
    areas: &[Area],
    ram: Ram,
    plan: Plan,
    notes: &mut Vec<String>,
) -> Result<(Ram, Plan), AttachError> {
    let free = unknown(vm, areas, &plan);
    let Some(window) = layout::device_window(&QemuLine::parse(&vm.words)).filter(|_| !free.is_empty()) else {
        return Ok((ram, plan));
    };
    let ends = plan.pieces.iter().map(|(piece, _)| piece.gpa.get().saturating_add(piece.len));
    let start = ends.filter(|end| window.contains(end)).max().unwrap_or(window.start);
    let used = proof::sense(&ram).and_then(|sense| proof::reach(&ram, &sense.kernel, &(start..window.end)));
    let Some(used) = used else { return Ok((ram, plan)) };
    let mut best: Vec<(i64, Ram, Plan, String)> = Vec::new();
    for chosen in ways(&free, &used, start) {
        let pieces: Vec<Piece> = plan.pieces.iter().map(|(piece, _)| *piece).chain(chosen).collect();
        let plan = source::plan(&vm.proc, &pieces)?;
        let mut said = Vec::new();
        let ram = source::open(&vm.proc, &plan, &mut said)?;
        let Some(sense) = proof::sense(&ram) else { continue };
        if best.first().is_some_and(|(known, ..)| *known < sense.score) {
            best.clear();
        }
        if best.first().is_none_or(|(known, ..)| *known == sense.score) {
            best.push((sense.score, ram, plan, said.join("; ")));
        }
    }
    let place = format!("{} at {}", bytes(used.end - used.start), Gpa::new(used.start));
    if let (1, Some((_, ram, plan, said))) = (best.len(), best.pop()) {
        notes.push(format!("assumed: {place} were plugged in after the start, as the kernel's tables map them"));
        notes.extend((!said.is_empty()).then_some(said));
        return Ok((ram, plan));
    }
    notes.push(format!(
        "the guest's kernel maps {place}, which was plugged in after the start, and which of the process's mappings \
         that is cannot be told: give qmp:SOCKET of its monitor to read it"
    ));
    Ok((ram, plan))
}

/// The ways to make up `used` from whole mappings, each in some order, from `start` on.
fn ways(free: &[Area], used: &Range<u64>, start: u64) -> Vec<Vec<Piece>> {
    let mut found = Vec::new();
    if used.start == start {
        go_on(free, used.end, start, &mut Vec::new(), &mut found);
    }
    found
}

fn go_on(free: &[Area], end: u64, at: u64, chosen: &mut Vec<Piece>, found: &mut Vec<Vec<Piece>>) {
    if at == end {
        found.push(chosen.clone());
        return;
    }
    for area in free.iter().filter(|area| area.len() <= end - at) {
        if found.len() >= MOST_WAYS || chosen.iter().any(|piece| piece.host_addr == area.start) {
            continue;
        }
        chosen.push(Piece { gpa: Gpa::new(at), len: area.len(), host_addr: area.start });
        go_on(free, end, at + area.len(), chosen, found);
        chosen.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn area(start: u64, len: u64) -> Area {
        maps::parse(&format!("{start:x}-{:x} rw-p 00000000 00:00 0 \n", start + len)).remove(0)
    }

    #[test]
    fn mappings_make_up_just_what_the_kernel_maps() {
        let free = [area(0x7000_0000_0000, BLOCK), area(0x6000_0000_0000, 2 * BLOCK), area(0x5000_0000_0000, GIB)];
        let at = |used: Range<u64>| -> Vec<Vec<u64>> {
            let ways = ways(&free, &used, 4 * GIB);
            ways.iter().map(|way| way.iter().map(|piece| piece.host_addr).collect()).collect()
        };
        assert_eq!(at(4 * GIB..4 * GIB + 2 * BLOCK), [[0x6000_0000_0000]]);
        let two = [[0x7000_0000_0000_u64, 0x6000_0000_0000], [0x6000_0000_0000, 0x7000_0000_0000]];
        assert_eq!(at(4 * GIB..4 * GIB + 3 * BLOCK), two, "in either order: what is in them has to tell");
        assert_eq!(at(4 * GIB..4 * GIB + BLOCK / 2), Vec::<Vec<u64>>::new(), "a part of a mapping is none");
        assert_eq!(at(4 * GIB + BLOCK..4 * GIB + 2 * BLOCK), Vec::<Vec<u64>>::new(), "what lies before is not known");
    }
}
