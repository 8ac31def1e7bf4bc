//! A stretch of guest RAM in the process, and which of its pages are known to hold data.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::pagemap::{PAGE, Pagemap, PagemapError, is_held};

use crate::window::Window;

/// Entries of a question about one page: its neighbours are asked for soon.
const FEW: usize = 64;

/// A stretch of guest RAM that one mapping of the process holds.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) host: u64,
    /// The pages that were seen to hold something, where others may be holes. A page that holds something stays one:
    /// where the VMM gives it back (a balloon), reading it costs the VMM nothing but an entry for the page of zeros.
    seen: Option<Box<[AtomicU64]>>,
    /// What the page map said of the pages that a pass comes to next.
    window: Mutex<Window>,
}

impl Place {
    pub(crate) fn new(gpa: u64, len: u64, host: u64, has_holes: bool) -> Self {
        let words = usize::try_from((len / PAGE).div_ceil(64)).unwrap_or(usize::MAX);
        let seen = has_holes.then(|| (0..words).map(|_| AtomicU64::new(0)).collect());
        Self { gpa, len, host, seen, window: Mutex::new(Window::new()) }
    }

    pub(crate) const fn end(&self) -> u64 {
        self.gpa.wrapping_add(self.len)
    }

    /// Forgets which pages were seen to hold something.
    pub(crate) fn forget(&self) {
        for word in self.seen.iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = Window::new();
    }

    /// Whether the page may be read without touching what nobody has touched: it was seen, or there are no holes.
    #[inline]
    pub(crate) fn is_seen(&self, page: u64) -> bool {
        let Some(seen) = &self.seen else { return true };
        let word = usize::try_from(page / 64).ok().and_then(|index| seen.get(index));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 != 0)
    }

    fn see(&self, page: u64) {
        let word = self.seen.as_ref().and_then(|seen| seen.get(usize::try_from(page / 64).ok()?));
        if let Some(word) = word {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }

    /// Whether the byte at `skip` is in a page that holds something, and up to how many bytes from it on, at most
    /// `most`, are the same in that. Asks the page map only about pages that were not seen.
    pub(crate) fn stretch(&self, pagemap: &Pagemap, skip: u64, most: u64) -> Result<(bool, u64), PagemapError> {
        let most = most.min(self.len.wrapping_sub(skip));
        let (first, last) = (skip / PAGE, skip.wrapping_add(most).wrapping_sub(1) / PAGE);
        let bytes = |pages_end: u64| (pages_end * PAGE - skip).min(most);
        let known = (first..=last).take_while(|page| self.is_seen(*page)).count() as u64;
        if known > 0 {
            return Ok((true, bytes(first + known)));
        }
        let mut entries = [0_u64; FEW];
        let count = usize::try_from(last - first + 1).unwrap_or(FEW).min(FEW);
        let entries = entries.get_mut(..count).unwrap_or_default();
        pagemap.entries(self.host + first * PAGE, entries)?;
        for (page, _) in (first..).zip(&*entries).filter(|(_, entry)| is_held(**entry)) {
            self.see(page);
        }
        let held = entries.first().is_some_and(|entry| is_held(*entry));
        let same = entries.iter().take_while(|entry| is_held(**entry) == held).count() as u64;
        Ok((held, bytes(first + same)))
    }

    /// The first stretch of pages that hold something, at or after `skip`, as `start .. end`: not always all of it.
    pub(crate) fn next_held(&self, pagemap: &Pagemap, skip: u64) -> Result<Option<(u64, u64)>, PagemapError> {
        // Where two passes run at a time, one goes without what it asked before.
        let mut own = None;
        let mut kept = self.window.try_lock().ok();
        let window = match kept.as_deref_mut() {
            Some(window) => window,
            None => own.insert(Window::new()),
        };
        let mut page = skip / PAGE;
        let pages = self.len / PAGE;
        while page < pages {
            if !window.goes_on_at(page) {
                self.ask(pagemap, window, page)?;
            }
            match window.next_held(page) {
                Some((start, end)) => return Ok(Some(((start * PAGE).max(skip), end * PAGE))),
                None => page = window.end(),
            }
        }
        Ok(None)
    }

    /// Asks the page map about the pages from `page` on, and keeps the answer in `window`.
    fn ask(&self, pagemap: &Pagemap, window: &mut Window, page: u64) -> Result<(), PagemapError> {
        let left = usize::try_from(self.len / PAGE - page).unwrap_or(usize::MAX);
        let entries = window.begin(page, window.next_count(page).min(left));
        if let Err(error) = pagemap.entries(self.host + page * PAGE, entries) {
            *window = Window::new();
            return Err(error);
        }
        for (page, _) in (page..).zip(&*entries).filter(|(_, entry)| is_held(**entry)) {
            self.see(page);
        }
        Ok(())
    }
}
