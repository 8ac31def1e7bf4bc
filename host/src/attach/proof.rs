//! Which of several layouts is right: under the right one a kernel's page tables make sense.

use vgpu_perception::process::guest::GuestSearch;
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{Budget, Gpa, PagingMode, PhysRead, Step};

/// How many tables below a root are looked at.
const TABLES: usize = 4096;

/// How well RAM makes sense: the tables below the kernel's root that read as tables, less those that do not. `None` where
/// no kernel is found at all.
///
/// # Bound
/// One search for a kernel, and 4096 tables of 512 entries.
pub(super) fn score<M: PhysRead>(ram: &M) -> Option<i64> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut search = GuestSearch::new(None, &mut scratch);
    let space = loop {
        match search.step(ram, &mut Budget::new(1 << 20)) {
            Ok(Step::Found(kernel)) => break kernel.space(),
            Ok(Step::Pending) => {}
            Ok(Step::Done) | Err(_) => return None,
        }
    };
    let levels = match space.mode {
        PagingMode::FourLevel => 4,
        PagingMode::FiveLevel => 5,
    };
    let mut queue = vec![(space.root.get() & ADDRESS, levels)];
    let (mut next, mut score) = (0, 0_i64);
    while let Some((table, level)) = queue.get(next).copied() {
        next += 1;
        match below(ram, table, level) {
            Some(tables) => {
                score += 1;
                let room = TABLES.saturating_sub(queue.len());
                queue.extend(tables.into_iter().take(room).map(|at| (at, level - 1)));
            }
            None => score -= 1,
        }
    }
    Some(score)
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const HALF: usize = 256;

/// The tables that the kernel's entries of a table lead to; `None` where it does not read as a table: nothing present in
/// it, or an entry that leads to no RAM.
fn below<M: PhysRead>(ram: &M, table: u64, level: u32) -> Option<Vec<u64>> {
    let mut entries = [0; 512];
    ram.load_words(Gpa::new(table), &mut entries).ok()?;
    if entries.iter().all(|entry| entry & PRESENT == 0) {
        return None;
    }
    if level == 1 {
        return Some(Vec::new());
    }
    // Of a root, the kernel's half alone: what a process has there is its own affair.
    let first = if level >= 4 { HALF } else { 0 };
    let tables = entries.iter().skip(first).filter(|entry| **entry & PRESENT != 0 && **entry & LARGE == 0);
    let tables: Vec<u64> = tables.map(|entry| entry & ADDRESS).filter(|at| *at != table).collect();
    tables.iter().all(|at| ram.is_ram(Gpa::new(*at))).then_some(tables)
}
