//! A range of addresses as runs that are contiguous in physical memory.

use heapless::VecView;

use super::absent::AbsentResolver;
use super::entry::{Level, Pte, Rights};
use super::walk::{PageWalker, WalkError};
use crate::addr::{Gpa, Gva, PAGE_BYTES, PageSize};
use crate::phys::{PhysRead, PhysRun};

/// Entries of a leaf table that are read at a time.
const BLOCK: usize = 64;

/// Notes the table and index of the last entry of a walk, so that the entries after it can be read in sequence.
struct LastEntry {
    at: Gpa,
    trimmed: bool,
}

impl super::walk::Record for LastEntry {
    #[inline]
    fn step(&mut self, at: Gpa, _entry: Pte) {
        self.at = at;
    }
    #[inline]
    fn beyond_the_entries(&mut self) {
        self.trimmed = true;
    }
}

/// Appends `run`, joined to the last one where they touch; false where the list is full.
#[inline]
fn append(out: &mut VecView<PhysRun>, run: PhysRun) -> bool {
    if let Some(last) = out.last_mut()
        && last.gpa.get().wrapping_add(last.len) == run.gpa.get()
    {
        last.len = last.len.wrapping_add(run.len);
        return true;
    }
    out.push(run).is_ok()
}

impl<M: PhysRead, R: AbsentResolver> PageWalker<M, R> {
    /// Resolves `len` bytes at `gva` into `out` (cleared first), in order, neighbours joined, until the range is covered or
    /// the list is full. Returns the bytes that `out` covers, from `gva` on.
    ///
    /// Leaf tables are read in sequence: a range costs one walk for every 2 MiB it touches, not one a page.
    ///
    /// # Bound
    /// A walk for every 2 MiB window and one entry for every 4 KiB page. Pages that a resolver finds cost a walk and the
    /// resolver's loads each, and up to 64 entries that were read in vain ahead of it.
    ///
    /// # Errors
    /// The [`WalkError`] of the first page. Where a later page fails, the pages before it are returned, and the next call,
    /// at `gva` plus what was covered, gives its error.
    pub fn runs(&self, gva: Gva, len: u64, out: &mut VecView<PhysRun>) -> Result<u64, WalkError> {
        out.clear();
        let mut covered = 0_u64;
        while covered < len {
            let Some(at) = gva.checked_add(covered) else { return Self::end(covered, WalkError::NonCanonical { gva }) };
            let mut last = LastEntry { at: Gpa::new(0), trimmed: false };
            let found = match self.walk(at, &mut last) {
                Ok(found) => found,
                Err(error) => return Self::end(covered, error),
            };
            let take = found.bytes_left().min(len.wrapping_sub(covered));
            if !append(out, PhysRun { gpa: found.gpa, len: take }) {
                return Ok(covered);
            }
            covered = covered.wrapping_add(take);
            if found.size == PageSize::Size4K && !last.trimmed {
                covered = match self.rest_of_table(at, last.at, found.rights, covered, len, out) {
                    (covered, true) => covered,
                    (covered, false) => return Ok(covered),
                };
            }
        }
        Ok(covered)
    }

    fn end(covered: u64, error: WalkError) -> Result<u64, WalkError> {
        if covered == 0 { Err(error) } else { Ok(covered) }
    }

    /// Goes on in the leaf table after the entry at `entry_at`, which translated `gva`. Returns what is covered and whether
    /// the list had room. Stops, with room, at the first entry that needs a walk of its own.
    fn rest_of_table(
        &self,
        gva: Gva,
        entry_at: Gpa,
        first: Rights,
        mut covered: u64,
        len: u64,
        out: &mut VecView<PhysRun>,
    ) -> (u64, bool) {
        let mut left_in_table = 511_u64.wrapping_sub(Level::Pt.index(gva));
        let mut at = entry_at.wrapping_add(8);
        let mut block = [0_u64; BLOCK];
        while left_in_table > 0 && covered < len {
            let pages = len.wrapping_sub(covered).div_ceil(PAGE_BYTES).min(left_in_table);
            let count = usize::try_from(pages).unwrap_or(BLOCK).min(BLOCK);
            let Some(words) = block.get_mut(..count) else { return (covered, true) };
            if self.mem().load_words(at, words).is_err() {
                return (covered, true);
            }
            for raw in words {
                let entry = Pte::new(*raw);
                // Each entry's own bits count as they would in a walk; a grant that the first entry lacked is not
                // inferred, so a page that needs it is walked again from the top.
                let rights = first.and(entry.rights());
                if !entry.is_present()
                    || entry.reserved_bits(Level::Pt, self.space().phys_bits) != 0
                    || !rights.grant(self.need())
                {
                    return (covered, true);
                }
                let take = PAGE_BYTES.min(len.wrapping_sub(covered));
                if !append(out, PhysRun { gpa: entry.frame(PageSize::Size4K), len: take }) {
                    return (covered, false);
                }
                covered = covered.wrapping_add(take);
            }
            let count = count as u64;
            left_in_table = left_in_table.wrapping_sub(count);
            at = at.wrapping_add(count.wrapping_mul(8));
        }
        (covered, true)
    }
}
