//! Which of several layouts is right: under the right one a kernel's page tables make sense.

use vgpu_perception::process::guest::GuestSearch;
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{Budget, Gpa, PagingMode, PhysRead, Step};

/// How many tables below a root are looked at.
const TABLES: usize = 4096;

/// How well RAM makes sense: the tables below the kernel's root that read as tables, less four times those that do not.
/// Empty tables say nothing. `None` where no kernel is found at all.
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
            Table::Plausible(tables) => {
                score += 1;
                let room = TABLES.saturating_sub(queue.len());
                queue.extend(tables.into_iter().take(room).map(|at| (at, level - 1)));
            }
            Table::Empty => {}
            Table::Nonsense => score -= 4,
        }
    }
    Some(score)
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const HALF: usize = 256;

/// What a page reads like, of which an entry says that it is a table.
enum Table {
    /// The kernel's entries lead to these tables, all of them RAM.
    Plausible(Vec<u64>),
    /// Nothing in it is present.
    Empty,
    /// It is no RAM, or an entry leads to what is none.
    Nonsense,
}

fn below<M: PhysRead>(ram: &M, table: u64, level: u32) -> Table {
    let mut entries = [0; 512];
    if ram.load_words(Gpa::new(table), &mut entries).is_err() {
        return Table::Nonsense;
    }
    // Of a root, the kernel's half alone: what a process has there is its own affair.
    let first = if level >= 4 { HALF } else { 0 };
    let present: Vec<u64> = entries.iter().skip(first).copied().filter(|entry| entry & PRESENT != 0).collect();
    if present.is_empty() {
        return Table::Empty;
    }
    if level == 1 {
        return Table::Plausible(Vec::new());
    }
    let tables = present.iter().filter(|entry| **entry & LARGE == 0).map(|entry| entry & ADDRESS);
    let tables: Vec<u64> = tables.filter(|at| *at != table).collect();
    if tables.iter().all(|at| ram.is_ram(Gpa::new(*at))) { Table::Plausible(tables) } else { Table::Nonsense }
}
