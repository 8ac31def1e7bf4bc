//! What a caller of the scan sees: candidates, what was looked at, how far it is; and the memory that it lends.

use super::probe::Found;
use crate::addr::{Gpa, Gva, PAGE_BYTES};
use crate::paging::NotPresentResolver;
use crate::process::Process;
use crate::region::Region;

/// A region that was found by its structure, and the process that it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<R> {
    /// Whose address space it is in.
    pub process: Process<R>,
    /// Its first address there.
    pub base: Gva,
    /// What its producer page says.
    pub found: Found,
    /// What found it.
    pub by: FoundBy,
}

impl<R> Candidate<R> {
    /// The candidate at an address that the caller probed by itself, so that it ranks among those of a scan.
    #[must_use]
    pub const fn probed(process: Process<R>, base: Gva, found: Found) -> Self {
        Self { process, base, found, by: FoundBy::Page }
    }
}

impl<R: NotPresentResolver> Candidate<R> {
    /// A handle on it.
    #[must_use]
    pub const fn region(&self) -> Region<R> {
        Region::new(self.process.space, self.base)
    }
}

/// Which part of the scan found a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// It starts a run of present pages.
    RunStart,
    /// It lies in a run of present pages.
    Run,
    /// Only its producer page had to be there.
    Page,
}

/// Scratch memory of a scan, lent by the caller. Its contents before and after mean nothing.
#[derive(Debug)]
pub struct ScanScratch<'s, R> {
    /// Processes that are scanned together: at least one. With room for all of a guest's, each page is read once.
    pub processes: &'s mut [Process<R>],
    /// One bit for each 4 KiB page of RAM: [`ScanScratch::page_bitmap_words`]. Pages beyond are read as they are met,
    /// once for each process that maps them, which is slower; nothing is missed.
    pub page_bitmap: &'s mut [u64],
}

impl<R> ScanScratch<'_, R> {
    /// Processes that suit most guests.
    pub const PROCESSES: usize = 1024;

    /// The words of `page_bitmap` that cover physical memory up to `end`: 128 KiB for 4 GiB.
    #[must_use]
    pub const fn page_bitmap_words(end: Gpa) -> u64 {
        end.get().div_ceil(PAGE_BYTES * 64)
    }
}

/// What a scan looked at, and what it passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanStats {
    /// Address spaces that were scanned.
    pub spaces: u64,
    /// Sets of address spaces, each perhaps a guest's, that the source had no room for.
    pub left_out: u64,
    /// Page tables that were read.
    pub tables: u64,
    /// Runs of present user pages that are long enough for a region.
    pub runs: u64,
    /// Pages that were read to see whether they are producer pages.
    pub pages: u64,
    /// Places that were judged by all rules.
    pub judged: u64,
    /// Places where the guest was sampling who uses the page, so that its rights cannot be told: a later scan can tell.
    pub undecided: u64,
    /// Candidates.
    pub candidates: u64,
    /// Marked pages that are not RAM, or hold no data.
    pub not_ram: u64,
    /// Stretches of page tables that could not be read, or had reserved bits set.
    pub skipped: u64,
    /// Entries that led back to a table above them, or to the same table as the entry before.
    pub repeated: u64,
    /// Address spaces that were left before their end, because they have more tables than
    /// [`LeafCursor::TABLES`](crate::paging::LeafCursor::TABLES).
    pub truncated: u64,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// 0 gathering processes, 1 runs, 2 pages.
    pub pass: u8,
    /// Parts done of the pass, in this batch.
    pub done: u64,
    /// Parts of the pass, in this batch; 0 where not known.
    pub total: u64,
}
