//! Which of several layouts is right: under the right one a kernel's page tables make sense.

use core::ops::Range;

use vgpu_perception::process::guest::{GuestKernel, GuestSearch};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{Budget, Gpa, PagingMode, PhysRead, Step};

/// How many tables below a root are looked at.
const TABLES: usize = 4096;
/// Tables that make a layout certain where none reads otherwise: a kernel has more, and a stray page leads to fewer.
const ENOUGH: i64 = 8;

/// What a guest's RAM says under a layout.
#[derive(Clone, Debug)]
pub(super) struct Sense {
    /// The kernel that was found.
    pub(super) kernel: GuestKernel,
    /// Tables below its root that read as tables, less four times those that do not. Empty ones say nothing.
    pub(super) score: i64,
    /// Tables that do not read as tables, or lead to what is no RAM.
    nonsense: u64,
    /// The tables that read as tables.
    tables: Vec<u64>,
}

impl Sense {
    /// Whether no other layout can be better: every table reads as one, and each of `blocks` (guest physical addresses
    /// that could be one another's) but one has some.
    pub(super) fn is_certain(&self, blocks: &[Range<u64>]) -> bool {
        let proven = blocks.iter().filter(|block| self.tables.iter().any(|table| block.contains(table))).count();
        self.nonsense == 0 && self.score >= ENOUGH && proven + 1 >= blocks.len()
    }
}

/// What `ram` says; `None` where no kernel is found at all.
///
/// # Bound
/// One search for a kernel, and 4096 tables of 512 entries.
pub(super) fn sense<M: PhysRead>(ram: &M) -> Option<Sense> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut search = GuestSearch::new(None, &mut scratch);
    let kernel = loop {
        match search.step(ram, &mut Budget::new(1 << 20)) {
            Ok(Step::Found(kernel)) => break kernel,
            Ok(Step::Pending) => {}
            Ok(Step::Done) | Err(_) => return None,
        }
    };
    let mut sense = Sense { kernel, score: 0, nonsense: 0, tables: Vec::new() };
    walk(ram, &kernel, |table, reads| match reads {
        Table::Plausible(_) => {
            sense.score += 1;
            sense.tables.push(table);
        }
        Table::Empty => {}
        Table::Nonsense => {
            sense.score -= 4;
            sense.nonsense += 1;
        }
    });
    Some(sense)
}

/// The bytes of `window` that the kernel's half of the tables of `kernel` maps, as the first and the end; `None` where
/// it maps none.
///
/// # Bound
/// 4096 tables of 512 entries.
pub(super) fn reach<M: PhysRead>(ram: &M, kernel: &GuestKernel, window: &Range<u64>) -> Option<Range<u64>> {
    let mut found: Option<Range<u64>> = None;
    walk(ram, kernel, |_, reads| {
        let Table::Plausible(leads) = reads else { return };
        for lead in leads {
            let (start, end) = (lead.at.max(window.start), lead.at.saturating_add(lead.len).min(window.end));
            if start < end {
                let known = found.get_or_insert(start..end);
                *known = known.start.min(start)..known.end.max(end);
            }
        }
    });
    found
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const HALF: usize = 256;

/// What an entry leads to.
#[derive(Clone, Copy, Debug)]
struct Lead {
    at: u64,
    len: u64,
    is_table: bool,
}

/// What a page reads like, of which an entry says that it is a table.
enum Table {
    /// The kernel's entries lead to these; all tables among them are RAM.
    Plausible(Vec<Lead>),
    /// Nothing in it is present.
    Empty,
    /// It is no RAM, or an entry leads to a table that is none.
    Nonsense,
}

/// Calls `each` with the tables below the root of `kernel`, level by level.
fn walk<M: PhysRead>(ram: &M, kernel: &GuestKernel, mut each: impl FnMut(u64, &Table)) {
    let space = kernel.space();
    let levels = match space.mode {
        PagingMode::FourLevel => 4,
        PagingMode::FiveLevel => 5,
    };
    let mut queue = vec![(space.root.get() & ADDRESS, levels)];
    let mut next = 0;
    while let Some((table, level)) = queue.get(next).copied() {
        next += 1;
        let reads = below(ram, table, level, levels);
        each(table, &reads);
        if let Table::Plausible(leads) = reads {
            let room = TABLES.saturating_sub(queue.len());
            let tables = leads.iter().filter(|lead| lead.is_table);
            queue.extend(tables.take(room).map(|lead| (lead.at, level - 1)));
        }
    }
}

fn below<M: PhysRead>(ram: &M, table: u64, level: u32, top: u32) -> Table {
    let mut entries = [0; 512];
    if ram.load_words(Gpa::new(table), &mut entries).is_err() {
        return Table::Nonsense;
    }
    // Of a root, the kernel's half alone: what a process has there is its own affair.
    let first = if level == top { HALF } else { 0 };
    let lead = |entry: &u64| {
        let is_table = level > 1 && entry & LARGE == 0;
        let len = 4096_u64 << (9 * (level - 1));
        // The lowest bits of a large page's address mean something else.
        let at = entry & ADDRESS & !(if is_table { 0 } else { len - 1 });
        Lead { at, len: if is_table { 4096 } else { len }, is_table }
    };
    let leads: Vec<Lead> = entries.iter().skip(first).filter(|entry| *entry & PRESENT != 0).map(lead).collect();
    if leads.is_empty() {
        return Table::Empty;
    }
    // A table that leads back to itself (Windows maps its tables so) is walked once.
    let leads: Vec<Lead> = leads.into_iter().filter(|lead| !lead.is_table || lead.at != table).collect();
    let tables_are_ram = leads.iter().filter(|lead| lead.is_table).all(|lead| ram.is_ram(Gpa::new(lead.at)));
    if tables_are_ram { Table::Plausible(leads) } else { Table::Nonsense }
}

/// Whether a BIOS left its data in the first page of RAM: how many KiB there are below 640, as the word at 0x413 says.
/// No proof, but it tells which of several blocks of one size to try first.
pub(super) fn has_bios_data<M: PhysRead>(ram: &M) -> bool {
    let mut size = [0; 2];
    ram.is_ram(Gpa::new(0))
        && ram.read(Gpa::new(0x413), &mut size).is_ok()
        && (512..=640).contains(&u16::from_le_bytes(size))
}
