//! A pass over physical memory, page by page.

use crate::addr::{Gpa, PAGE_BYTES};
use crate::phys::{Extent, PhysError, PhysErrorKind, PhysRead};

/// A pass over the pages of RAM that hold data: resumable, one page at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    next: Gpa,
    extent: Option<Extent>,
    pub(super) looked_at: u64,
}

impl Pages {
    pub(super) const fn new() -> Self {
        Self::from(Gpa::new(0))
    }

    /// The pages at or after `next`.
    pub(super) const fn from(next: Gpa) -> Self {
        Self { next, extent: None, looked_at: 0 }
    }

    /// Begins at the first page again.
    pub(super) const fn restart(&mut self) {
        self.next = Gpa::new(0);
        self.extent = None;
    }

    /// Whether a page lies in the stretch of data that the pass is in: it need not be asked for again.
    #[inline]
    pub(super) fn is_inside(&self, page: Gpa) -> bool {
        self.extent.is_some_and(|extent| page >= extent.start && page.wrapping_add(PAGE_BYTES) <= extent.end())
    }

    /// The next whole page.
    #[inline]
    pub(super) fn advance<M: PhysRead>(&mut self, mem: &M) -> Result<Option<Gpa>, PhysError> {
        loop {
            if let Some(extent) = self.extent {
                let page = self.next;
                // Both are page-aligned, and an extent does not pass 2^64.
                if page.wrapping_add(PAGE_BYTES) <= extent.end() && page >= extent.start {
                    self.next = page.wrapping_add(PAGE_BYTES);
                    self.looked_at = self.looked_at.wrapping_add(1);
                    return Ok(Some(page));
                }
            }
            if mem.is_cancelled() {
                return Err(PhysError::new(self.next, PhysErrorKind::Cancelled));
            }
            let Some(extent) = mem.next_extent(self.next)? else { return Ok(None) };
            let Some(start) = extent.start.get().checked_next_multiple_of(PAGE_BYTES) else { return Ok(None) };
            // An extent with no whole page in it, or one that lies before where we are: go on behind it.
            let end = extent.end().get() & !PAGE_BYTES.wrapping_sub(1);
            if start >= end {
                let Some(behind) = extent.end().get().checked_next_multiple_of(PAGE_BYTES) else { return Ok(None) };
                if behind <= self.next.get() {
                    return Ok(None);
                }
                self.next = Gpa::new(behind);
                self.extent = None;
                continue;
            }
            self.next = Gpa::new(start);
            self.extent = Some(Extent { start: Gpa::new(start), len: end.wrapping_sub(start) });
        }
    }
}
