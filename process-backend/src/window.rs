//! What the page map said of a stretch of pages, kept for the pass that asked.

use crate::pagemap::is_held;

/// Pages that one question is about at most: 32 MiB of memory.
pub(crate) const MANY: usize = 8192;
/// Pages of a first question. A pass that goes on where it asked before asks for four times as many each time.
const FIRST: usize = 64;

/// Which pages of a stretch hold something, as the page map said when a pass came to it.
///
/// A pass goes upwards. Whoever asks for a page before the one that was answered last begins another pass, and is told
/// nothing that was kept: pages that came since would be missed.
#[derive(Debug)]
pub(crate) struct Window {
    /// The first page.
    start: u64,
    /// The page after the last answer.
    next: u64,
    /// The entries of the pages from the first on.
    entries: Vec<u64>,
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { start: 0, next: 0, entries: Vec::new() }
    }

    /// The page after the last one that was asked about.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.entries.len() as u64)
    }

    /// Whether a pass that comes to `page` was told of it already.
    pub(crate) fn goes_on_at(&self, page: u64) -> bool {
        self.next <= page && self.start <= page && page < self.end()
    }

    /// How many pages to ask about at `page`.
    pub(crate) fn next_count(&self, page: u64) -> usize {
        let goes_on = page == self.end() && self.next <= page;
        if goes_on { self.entries.len().saturating_mul(4).clamp(FIRST, MANY) } else { FIRST }
    }

    /// Forgets what was kept; gives the place for the entries of `count` pages from `page` on.
    pub(crate) fn begin(&mut self, page: u64, count: usize) -> &mut [u64] {
        (self.start, self.next) = (page, page);
        self.entries.clear();
        self.entries.resize(count, 0);
        &mut self.entries
    }

    /// The first stretch that holds something at or after `page`, as `start .. end`, as far as was asked.
    pub(crate) fn next_held(&mut self, page: u64) -> Option<(u64, u64)> {
        let end = self.end();
        let skip = usize::try_from(page.wrapping_sub(self.start)).unwrap_or(usize::MAX);
        let rest = self.entries.get(skip..).unwrap_or_default();
        let free = rest.iter().take_while(|entry| !is_held(**entry)).count();
        let held = rest.iter().skip(free).take_while(|entry| is_held(**entry)).count();
        let start = page.saturating_add(free as u64);
        self.next = start.saturating_add(held as u64).min(end);
        (held > 0).then_some((start, self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: u64 = 1 << 63;

    fn window(start: u64, entries: &[u64]) -> Window {
        let mut window = Window::new();
        window.begin(start, entries.len()).copy_from_slice(entries);
        window
    }

    #[test]
    fn stretches_come_in_order_and_each_once() {
        let mut window = window(100, &[0, HELD, HELD, 0, 1 << 62]);
        assert!(window.goes_on_at(100) && !window.goes_on_at(99) && !window.goes_on_at(105));
        assert_eq!(window.next_held(100), Some((101, 103)));
        assert!(!window.goes_on_at(100), "another pass asks anew");
        assert!(window.goes_on_at(103));
        assert_eq!(window.next_held(103), Some((104, 105)));
        assert_eq!(window.next_held(105), None);
    }

    #[test]
    fn a_pass_that_goes_on_asks_for_more_each_time() {
        let mut window = window(0, &[HELD; 64]);
        assert_eq!(window.next_held(0), Some((0, 64)));
        assert_eq!((window.next_count(64), window.next_count(65), window.next_count(0)), (256, FIRST, FIRST));
        window.begin(64, MANY);
        assert_eq!((window.end(), window.next_count(window.end())), (64 + MANY as u64, MANY));
        assert_eq!(window.next_held(64), None, "what an earlier answer said is gone");
    }
}
