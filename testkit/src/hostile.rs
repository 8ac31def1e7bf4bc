//! Tables that no operating system makes: they are cheap to write and endless to walk.

use vgpu_perception::{Gpa, Gva, PagingMode};

use crate::builder::{GuestBuilder, Space};
use crate::flags;
use crate::linux::LinuxKernel;

/// A top table whose every entry names the table itself: it is its own lower tables, and all its pages are itself.
pub fn own_tables(guest: &mut GuestBuilder) -> Space {
    let space = guest.new_space();
    fill(guest, space.root, |_| space.root);
    space
}

/// One table a level, each with 512 entries that name the next one: 512 pages to the power of the levels, all the same.
pub fn fan_out(guest: &mut GuestBuilder) -> Space {
    chain(guest, false)
}

/// As [`fan_out`], but two tables a level, named in turn: no entry equals the one before it.
pub fn fan_out_in_turn(guest: &mut GuestBuilder) -> Space {
    chain(guest, true)
}

/// A table of its own for each entry of the top table's user half: under 4-level tables all of them map the first GiB
/// 512 times, under 5-level ones they name themselves.
pub fn wide(guest: &mut GuestBuilder) -> Space {
    let space = guest.new_space();
    for top in 0..256 {
        let table = guest.new_table();
        for n in 0..512 {
            let entry = if space.mode == PagingMode::FourLevel { flags::PS } else { table.get() };
            guest.ram.write_u64(table.wrapping_add(8 * n), entry | flags::USER_TABLE);
        }
        guest.ram.write_u64(space.root.wrapping_add(8 * top), table.get() | flags::USER_TABLE);
    }
    space
}

/// Many roots that share a kernel half: as many processes, each with one page of its own.
pub fn many_roots(guest: &mut GuestBuilder, kernel: &LinuxKernel, count: usize) -> Vec<Space> {
    let shared = guest.new_space();
    let page = guest.new_table();
    guest.map(shared, Gva::new(0x40_0000), page, vgpu_perception::PageSize::Size4K, flags::USER_RW);
    let table = guest.entry(shared, shared.mode.top(), Gva::new(0x40_0000)).expect("the top table is in RAM");
    let spawn = |_| {
        let space = kernel.spawn_empty(guest).space;
        guest.ram.write_u64(space.root, table);
        space
    };
    (0..count).map(spawn).collect()
}

/// Builds from the bottom: two tables a level, whose entries name the first below, or both in turn.
fn chain(guest: &mut GuestBuilder, in_turn: bool) -> Space {
    let mut below = [guest.new_table(), guest.new_table()];
    for _ in 0..guest.mode.top() as u32 {
        let tables = [guest.new_table(), guest.new_table()];
        for table in tables {
            fill(guest, table, |n| below[usize::from(in_turn && n % 2 == 1)]);
        }
        below = tables;
    }
    Space { root: below[0], mode: guest.mode }
}

fn fill(guest: &GuestBuilder, table: Gpa, target: impl Fn(u64) -> Gpa) {
    for n in 0..512 {
        guest.ram.write_u64(table.wrapping_add(8 * n), target(n).get() | flags::USER_TABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ram, naive};

    #[test]
    fn they_never_end() {
        for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
            for make in [own_tables, fan_out, fan_out_in_turn, wide] {
                let mut guest = GuestBuilder::new(Ram::flat(64 << 20), 1).with_mode(mode);
                let space = make(&mut guest);
                let endless = naive::user_leaves(&guest.ram, space.naive(), 100_000);
                assert_eq!(endless.len(), 100_000);
            }
        }
    }

    #[test]
    fn roots_share_what_they_map() {
        let mut guest = GuestBuilder::new(Ram::flat(1 << 30), 1);
        let kernel = LinuxKernel::build(&mut guest, false);
        let roots = many_roots(&mut guest, &kernel, 300);
        let pages = |space: &Space| naive::user_leaves(&guest.ram, space.naive(), 10);
        assert!(roots.iter().all(|space| pages(space) == pages(&roots[0])));
        assert_eq!(pages(&roots[299]).len(), 1);
    }
}
