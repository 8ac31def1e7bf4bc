//! Which of several layouts is right: under the right one a kernel's page tables make sense.

use core::ops::Range;

use vgpu_perception::process::guest::{GuestKernel, GuestSearch};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{Budget, Gpa, PagingMode, PhysRead, Step};

use super::low_part::LowPart;

/// How many tables below a root are looked at.
const TABLES: usize = 4096;
/// Tables that make a layout certain where none reads otherwise: a kernel has more, and a stray page leads to fewer.
const ENOUGH: i64 = 8;

/// Where the RAM ends that is searched first. Processors wake up below it, in real mode: kernels keep a root there for
/// them, Linux in its trampoline and Windows in its start block.
const LOW: Gpa = Gpa::new(1 << 20);

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

/// Which of `rams` makes most sense, and its score: the best of all, or of those up to the first that is both certain
/// and better than all before it. Each comes with the guest physical addresses whose blocks could be one another's.
///
/// A kernel is looked for below 1 MiB of each first: that is enough where what it leads to is certain.
///
/// # Bound
/// Twice that of [`sense`] for each, the first time over 1 MiB.
pub(super) fn best<'a, M: PhysRead + 'a>(
    rams: impl IntoIterator<Item = (&'a M, Vec<Range<u64>>)>,
) -> Option<(usize, Option<i64>)> {
    let mut best: Option<(usize, Option<i64>)> = None;
    for (index, (ram, blocks)) in rams.into_iter().enumerate() {
        let known = best.map(|(_, score)| score);
        let is_better = |score: Option<i64>| known.is_none_or(|known| score > known);
        let ends = |sense: &Sense| sense.is_certain(&blocks) && is_better(Some(sense.score));
        let quick = sense(&LowPart { ram, end: LOW }).filter(ends);
        let sense = quick.or_else(|| sense(ram));
        let score = sense.as_ref().map(|sense| sense.score);
        if is_better(score) {
            best = Some((index, score));
            if sense.is_some_and(|sense| ends(&sense)) {
                break;
            }
        }
    }
    best
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

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use vgpu_perception::Gva;
    use vgpu_perception::paging::Level;
    use vgpu_perception_testkit::linux::LinuxKernel;
    use vgpu_perception_testkit::{GuestBuilder, Ram};

    use super::*;

    const BLOCK: u64 = 1 << 30;

    fn blocks(count: u64) -> Vec<Range<u64>> {
        (0..count).map(|n| n * BLOCK..(n + 1) * BLOCK).collect()
    }

    /// A guest of three blocks of one size. All of it lies in the first, but for one table of the kernel's in the last.
    fn three_blocks() -> Ram {
        let mut guest = GuestBuilder::new(Ram::flat(3 * BLOCK), 1);
        guest.frames.reserve(Gpa::new(BLOCK), 2 * BLOCK);
        let kernel = LinuxKernel::build(&mut guest, false);
        for _ in 0..8 {
            kernel.spawn_empty(&mut guest);
        }
        let vmalloc = Gva::new(0xffff_c900_0000_0000);
        let entry = guest.entry(kernel.init, Level::Pd, vmalloc).unwrap();
        let moved = 2 * BLOCK + 0x5000;
        guest.ram.write_u8s(Gpa::new(moved), &guest.ram.bytes(Gpa::new(entry & ADDRESS), 4096));
        guest.set_entry(kernel.init, Level::Pd, vmalloc, entry & !ADDRESS | moved);
        guest.ram
    }

    /// The same bytes with the second block and the third in each other's place.
    fn in_the_wrong_order(ram: &Ram) -> Ram {
        let wrong = Ram::flat(3 * BLOCK);
        for page in ram.present_pages() {
            let block = [0, 2, 1][usize::try_from(page.get() / BLOCK).unwrap()];
            wrong.write_u8s(Gpa::new(block * BLOCK + page.get() % BLOCK), &ram.bytes(page, 4096));
        }
        wrong
    }

    /// Under the wrong order nothing speaks against it: the table that is elsewhere reads as an empty one.
    #[test]
    fn nothing_is_certain_before_all_blocks_but_one_are_proven() {
        let right = three_blocks();
        let wrong = in_the_wrong_order(&right);
        let (good, bad) = (sense(&right).unwrap(), sense(&wrong).unwrap());
        assert!(bad.nonsense == 0 && bad.score >= ENOUGH && bad.score < good.score, "{bad:?} {good:?}");
        assert!(!bad.is_certain(&blocks(3)) && good.is_certain(&blocks(3)));
        for (order, index) in [([&wrong, &right], 1), ([&right, &wrong], 0)] {
            let taken = best(order.map(|ram| (ram, blocks(3))));
            assert_eq!(taken, Some((index, Some(good.score))));
        }
    }

    #[test]
    fn what_is_certain_ends_the_search() {
        let right = three_blocks();
        let looked = Cell::new(0);
        let counted = |ram| {
            looked.set(looked.get() + 1);
            (ram, blocks(3))
        };
        assert_eq!(best([&right, &right].into_iter().map(counted)).map(|(index, _)| index), Some(0));
        assert_eq!(looked.get(), 1);
        let nothing = Ram::flat(BLOCK);
        assert_eq!(best([&nothing, &nothing].map(|ram| (ram, blocks(1)))), Some((0, None)));
    }

    /// Where no root below 1 MiB leads to enough tables, all of RAM is searched.
    #[test]
    fn a_kernel_is_found_wherever_its_roots_lie() {
        let high = three_blocks();
        let root = sense(&high).unwrap().kernel.space().root.get() & ADDRESS;
        let low = three_blocks();
        low.write_u8s(Gpa::new(0x9_a000), &low.bytes(Gpa::new(root), 4096));
        let is_enough = |ram| sense(&LowPart { ram, end: LOW }).is_some_and(|sense| sense.is_certain(&blocks(3)));
        assert!(is_enough(&low) && !is_enough(&high));
        for ram in [high, low] {
            let wrong = in_the_wrong_order(&ram);
            let order = [&wrong, &ram].map(|ram| (ram, blocks(3)));
            assert_eq!(best(order), Some((1, Some(sense(&ram).unwrap().score))));
        }
    }

    #[test]
    fn each_condition_of_certainty_counts() {
        let kernel = sense(&three_blocks()).unwrap().kernel;
        let sense = |score, nonsense, tables: &[u64]| Sense { kernel, score, nonsense, tables: tables.to_vec() };
        let in_two = &[0x1000, BLOCK + 0x1000][..];
        assert!(sense(ENOUGH, 0, in_two).is_certain(&blocks(3)), "the last block is where nothing else can be");
        assert!(!sense(ENOUGH, 0, &in_two[..1]).is_certain(&blocks(3)), "two blocks could be one another's");
        assert!(!sense(ENOUGH - 1, 0, in_two).is_certain(&blocks(3)), "so few tables a stray page has too");
        assert!(!sense(ENOUGH, 1, in_two).is_certain(&blocks(3)), "one that is none");
        assert!(sense(ENOUGH, 0, &[0x1000]).is_certain(&[]), "nothing could be another's");
    }
}
