//! Where the bytes of a copy lie, and a place that moves along them.

/// Bytes that lie at one host address, mapped for as long as whoever made this borrows their mapping.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) host: *const u8,
    pub(super) len: usize,
}

impl Piece {
    pub(super) const NONE: Self = Self { host: core::ptr::null(), len: 0 };
}

/// A cache line, in bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) const LINE: usize = 64;
/// A page, in bytes: the processor's own prefetcher stops at its end.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) const PAGE: usize = 4096;

/// A place in the pieces: the rest of the current one, and those after it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[derive(Clone, Copy)]
pub(super) struct Cursor<'p> {
    pieces: &'p [Piece],
    /// The next byte.
    pub(super) src: *const u8,
    /// Bytes of the current piece from there on; 0 only where no piece is left.
    pub(super) left: usize,
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl<'p> Cursor<'p> {
    /// The first byte of `pieces`.
    pub(super) fn new(pieces: &'p [Piece]) -> Self {
        let mut cursor = Self { pieces, src: core::ptr::null(), left: 0 };
        cursor.settle();
        cursor
    }

    /// Goes on to the next piece that has bytes, where the current one has none.
    #[inline]
    fn settle(&mut self) {
        while self.left == 0 {
            let Some((next, after)) = self.pieces.split_first() else { return };
            *self = Self { pieces: after, src: next.host, left: next.len };
        }
    }

    /// Bytes over which [`ahead`](Self::ahead) runs along with the cursor.
    #[inline(always)]
    pub(super) fn straight(&self) -> usize {
        if self.left >= PAGE + LINE { self.left - PAGE } else { self.left }
    }

    /// What comes a page after the next byte, in this piece or in the one after it. Only to be prefetched: where a
    /// piece is short, or the last, nothing need be there.
    #[inline(always)]
    pub(super) fn ahead(&self) -> *const u8 {
        match self.pieces.first() {
            Some(next) if self.left < PAGE + LINE => next.host.wrapping_add(PAGE).wrapping_sub(self.left),
            _ => self.src.wrapping_add(PAGE),
        }
    }

    /// The first byte of the third piece from here. What is prefetched a page ahead is held up where the translation of
    /// its page is in no cache either: that is asked for earlier.
    #[inline(always)]
    pub(super) fn third(&self) -> Option<*const u8> {
        self.pieces.get(2).map(|third| third.host)
    }

    /// The first byte of the next piece, where the cursor is in the last page of its own.
    #[inline(always)]
    pub(super) fn next(&self) -> Option<*const u8> {
        self.pieces.first().filter(|_| self.left < PAGE + LINE).map(|next| next.host)
    }

    /// Passes `bytes` of the current piece, which has as many.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.src = self.src.wrapping_add(bytes);
        self.left -= bytes;
        self.settle();
    }

    /// Passes `bytes`, over as many pieces as it takes; stops at the end of the last.
    pub(super) fn skip(&mut self, bytes: usize) {
        let mut rest = bytes;
        while rest > 0 && self.left > 0 {
            let step = rest.min(self.left);
            self.advance(step);
            rest -= step;
        }
    }
}

#[cfg(all(test, target_arch = "x86_64", not(miri)))]
mod tests {
    use super::*;

    /// Pieces of these lengths, and the address of every byte in order.
    fn laid_out(lens: &[usize]) -> (Vec<Piece>, Vec<*const u8>) {
        let (mut pieces, mut bytes) = (Vec::new(), Vec::new());
        for (nth, len) in lens.iter().enumerate() {
            let host = core::ptr::without_provenance::<u8>((nth + 1) << 24);
            pieces.push(Piece { host, len: *len });
            bytes.extend((0..*len).map(|at| host.wrapping_add(at)));
        }
        (pieces, bytes)
    }

    #[test]
    fn what_is_prefetched_is_what_comes_a_page_later() {
        for lens in [&[PAGE; 6][..], &[3 * PAGE, PAGE, 5 * PAGE, 2 * PAGE], &[PAGE + 48, PAGE + 16, 2 * PAGE, 9000]] {
            let (pieces, bytes) = laid_out(lens);
            let mut at = Cursor::new(&pieces);
            let mut done = 0;
            while done + at.straight() + PAGE <= bytes.len() {
                let straight = at.straight();
                assert!(straight > 0 && straight <= at.left, "{lens:?} at {done}");
                // Where a page further on is less than a line before the piece's end, the next piece is as good.
                if at.left <= PAGE || at.left >= PAGE + LINE {
                    for skip in [0, straight - 1] {
                        let expected = bytes[done + skip + PAGE];
                        assert_eq!(at.ahead().wrapping_add(skip), expected, "{lens:?} at {done} + {skip}");
                    }
                }
                at.advance(straight);
                done += straight;
            }
            assert!(done > 0, "{lens:?}");
        }
    }

    #[test]
    fn the_next_piece_is_named_in_the_last_page_and_the_third_wherever_there_is_one() {
        let (pieces, _) = laid_out(&[3 * PAGE, PAGE, 100, PAGE]);
        let mut at = Cursor::new(&pieces);
        assert_eq!((at.next(), at.third()), (None, Some(pieces[3].host)), "two pages before the last one");
        at.advance(2 * PAGE);
        assert_eq!((at.next(), at.third()), (Some(pieces[1].host), Some(pieces[3].host)));
        at.advance(PAGE);
        assert_eq!((at.next(), at.third()), (Some(pieces[2].host), None));
        at.skip(2 * PAGE);
        assert_eq!((at.next(), at.third()), (None, None), "in the last piece");
    }

    #[test]
    fn a_cursor_passes_empty_pieces_and_stops_at_the_end() {
        let (pieces, bytes) = laid_out(&[0, 10, 0, 0, 5, 0]);
        let mut at = Cursor::new(&pieces);
        assert_eq!((at.src, at.left), (bytes[0], 10));
        at.skip(12);
        assert_eq!((at.src, at.left), (bytes[12], 3));
        at.skip(100);
        assert_eq!(at.left, 0);
    }
}
