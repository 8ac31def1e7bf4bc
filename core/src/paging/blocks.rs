//! The one place that reads tables a block of entries at a time.

use core::ops::{ControlFlow, Range};

use super::pte::Pte;
use crate::addr::Gpa;
use crate::budget::Budget;
use crate::phys::{PhysError, PhysRead};

/// Entries of a table.
pub(crate) const ENTRIES: u64 = 512;
/// The entries of a top table that translate the kernel half.
pub(crate) const KERNEL_HALF: Range<u64> = 256..ENTRIES;
/// Entries of a table that are read at a time.
pub(crate) const BLOCK: usize = 64;
/// Entries that are read at a time where every read is a system call: all of a table.
pub(crate) const WHOLE: usize = ENTRIES as usize;

/// Some entries of a table, read in blocks of at most `N`, in order.
pub(crate) struct Blocks<'m, M, const N: usize> {
    mem: &'m M,
    table: Gpa,
    next: u64,
    end: u64,
    words: [u64; N],
}

impl<'m, M: PhysRead, const N: usize> Blocks<'m, M, N> {
    /// The entries `range` of the table at `table`; nothing is read yet.
    #[inline(always)]
    pub(crate) const fn new(mem: &'m M, table: Gpa, range: &Range<u64>) -> Self {
        Self { mem, table, next: range.start, end: range.end, words: [0; N] }
    }

    /// The first entry of the next block.
    #[inline(always)]
    pub(crate) const fn index(&self) -> u64 {
        self.next
    }

    /// How many entries the next block has: none at the end.
    #[inline(always)]
    pub(crate) const fn upcoming(&self) -> u64 {
        let left = self.end.saturating_sub(self.next);
        if left < N as u64 { left } else { N as u64 }
    }

    /// Reads the next block.
    #[inline(always)]
    pub(crate) fn read(&mut self) -> Result<&[u64], PhysError> {
        let count = usize::try_from(self.upcoming()).unwrap_or(N);
        let words = self.words.get_mut(..count).unwrap_or_default();
        self.mem.load_words(self.table.wrapping_add(self.next.wrapping_mul(8)), words)?;
        self.next = self.next.wrapping_add(count as u64);
        Ok(words)
    }
}

/// Hands the entries `range` of the table at `table` to `each`, in order, until it breaks. They are read 64 at a time,
/// or all at once where the memory is read in batches; each block is spent on `budget`, which is not asked.
pub(crate) fn each_entry<M: PhysRead, B>(
    mem: &M,
    table: Gpa,
    range: Range<u64>,
    budget: &mut Budget,
    each: impl FnMut(u64, Pte) -> ControlFlow<B>,
) -> Result<Option<B>, PhysError> {
    if mem.batch() > 1 {
        each_entry_by(&mut Blocks::<M, WHOLE>::new(mem, table, &range), budget, each)
    } else {
        each_entry_by(&mut Blocks::<M, BLOCK>::new(mem, table, &range), budget, each)
    }
}

#[inline(always)]
fn each_entry_by<M: PhysRead, B, const N: usize>(
    blocks: &mut Blocks<'_, M, N>,
    budget: &mut Budget,
    mut each: impl FnMut(u64, Pte) -> ControlFlow<B>,
) -> Result<Option<B>, PhysError> {
    while blocks.upcoming() > 0 {
        budget.spend(blocks.upcoming());
        for (index, word) in (blocks.index()..).zip(blocks.read()?) {
            if let ControlFlow::Break(found) = each(index, Pte::new(*word)) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// Hands the entries `range` of the table at `table` to `each`, in order, until it says no: `Ok(false)` where it did.
/// The caller has spent their loads.
pub(crate) fn all_entries<M: PhysRead>(
    mem: &M,
    table: Gpa,
    range: Range<u64>,
    mut each: impl FnMut(u64, Pte) -> bool,
) -> Result<bool, PhysError> {
    let each = |index, entry| if each(index, entry) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    each_entry(mem, table, range, &mut Budget::unlimited(), each).map(|stopped| stopped.is_none())
}

/// The same for the entries of two tables, side by side.
pub(crate) fn all_pairs<M: PhysRead>(
    mem: &M,
    tables: [Gpa; 2],
    range: Range<u64>,
    each: impl FnMut(u64, [Pte; 2]) -> bool,
) -> Result<bool, PhysError> {
    if mem.batch() > 1 {
        all_pairs_by::<M, WHOLE>(mem, tables, &range, each)
    } else {
        all_pairs_by::<M, BLOCK>(mem, tables, &range, each)
    }
}

#[inline(always)]
fn all_pairs_by<M: PhysRead, const N: usize>(
    mem: &M,
    [first, second]: [Gpa; 2],
    range: &Range<u64>,
    mut each: impl FnMut(u64, [Pte; 2]) -> bool,
) -> Result<bool, PhysError> {
    let mut first = Blocks::<M, N>::new(mem, first, range);
    let mut second = Blocks::<M, N>::new(mem, second, range);
    while first.upcoming() > 0 {
        let indices = first.index()..;
        for (index, (one, other)) in indices.zip(first.read()?.iter().zip(second.read()?)) {
            if !each(index, [Pte::new(*one), Pte::new(*other)]) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::phys::{CallbackRam, Extent};

    fn ram() -> impl Fn(Gpa, &mut [u8]) -> i32 {
        |gpa, dst: &mut [u8]| {
            dst.copy_from_slice(&(gpa.get() / 8).to_le_bytes());
            0
        }
    }

    const MAP: [Extent; 1] = [Extent { start: Gpa::new(0x1000), len: 0x1000 }];

    #[test]
    fn a_range_is_read_in_order_whatever_the_size_of_the_blocks() {
        fn read<const N: usize>(range: Range<u64>) -> (Vec<u64>, Vec<usize>) {
            let ram = CallbackRam::new(&MAP, ram());
            let mut blocks = Blocks::<_, N>::new(&ram, Gpa::new(0x1000), &range);
            let (mut words, mut sizes) = (Vec::new(), Vec::new());
            while blocks.upcoming() > 0 {
                assert_eq!(blocks.index(), range.start + words.len() as u64);
                let block = blocks.read().unwrap();
                sizes.push(block.len());
                words.extend_from_slice(block);
            }
            (words, sizes)
        }
        for range in [0..512, 256..512, 3..200, 511..512, 7..7] {
            let right: Vec<_> = range.clone().map(|index| 512 + index).collect();
            let ((by_block, sizes), (at_once, one)) = (read::<BLOCK>(range.clone()), read::<WHOLE>(range.clone()));
            assert_eq!((&by_block, &at_once), (&right, &right), "{range:?}");
            assert_eq!((sizes.len(), one.len()), (right.len().div_ceil(BLOCK), right.len().min(1)), "{range:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_range_with_its_error() {
        let ram = CallbackRam::new(&MAP, ram());
        let mut seen = 0;
        // The second half of the range lies behind the end of RAM.
        let read = all_entries(&ram, Gpa::new(0x1800), 0..512, |_, _| {
            seen += 1;
            true
        });
        assert_eq!((read.map_err(|error| error.gpa), seen), (Err(Gpa::new(0x2000)), 256));
        let both = all_pairs(&ram, [Gpa::new(0x1000), Gpa::new(0x2000)], 0..1, |_, _| true);
        assert_eq!(both.map_err(|error| error.gpa), Err(Gpa::new(0x2000)));
        let stopped = all_pairs(&ram, [Gpa::new(0x1000), Gpa::new(0x1800)], 0..8, |index, [one, other]| {
            assert_eq!((one.get(), other.get()), (512 + index, 768 + index));
            index < 3
        });
        assert_eq!(stopped, Ok(false));
    }
}
