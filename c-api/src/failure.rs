//! What a C caller is told when a function fails: a code, and a text that can be asked for afterwards.

use core::ffi::c_int;
use core::fmt::{self, Write as _};

/// Codes of `vgpu_perception_ext.h`, `VGPUX_E_*`.
pub(crate) mod code {
    use core::ffi::c_int;

    pub(crate) const ARGUMENT: c_int = -1;
    pub(crate) const HANDLE: c_int = -2;
    pub(crate) const READ: c_int = -4;
    pub(crate) const NOT_FOUND: c_int = -5;
    #[cfg(feature = "std")]
    pub(crate) const OPEN: c_int = -6;
    pub(crate) const MEMORY: c_int = -7;
    #[cfg(feature = "std")]
    pub(crate) const INTERNAL: c_int = -8;
    pub(crate) const BUDGET: c_int = -9;
}

/// Bytes of an error text; longer ones are cut.
const TEXT: usize = 256;

/// A failure on its way to the caller. Its text was left behind when it was made: see [`last`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: c_int,
}

impl Failure {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(code: c_int, text: fmt::Arguments<'_>) -> Self {
        let mut last = Last { code, ..Last::NONE };
        let _ = last.write_fmt(text);
        store::set(last);
        Self { code }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn argument(name: &str, why: &str) -> Self {
        Self::new(code::ARGUMENT, format_args!("{name} {why}"))
    }

    /// The allocator has no more.
    #[cfg(feature = "std")]
    #[cold]
    pub(crate) fn memory(what: &str) -> Self {
        Self::new(code::MEMORY, format_args!("out of memory: no room for {what}"))
    }

    /// A search in one call came to the end of what it may read.
    #[cold]
    pub(crate) fn budget(words: u64) -> Self {
        let text = format_args!(
            "the search was left after {words} words, its bound for this much RAM: search in steps (vgpux_scan_begin)"
        );
        Self::new(code::BUDGET, text)
    }

    pub(crate) fn read(error: impl fmt::Display) -> Self {
        Self::new(code::READ, format_args!("{error}"))
    }
}

/// What can be asked for after a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) code: c_int,
    len: usize,
    bytes: [u8; TEXT],
}

impl Last {
    const NONE: Self = Self { code: 0, len: 0, bytes: [0; TEXT] };

    /// Its text, UTF-8.
    pub(crate) fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Write for Last {
    /// Takes what fits, to the letter, instead of refusing all of it.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT.saturating_sub(self.len);
        let mut fits = 0_usize;
        for letter in text.chars() {
            let end = fits.wrapping_add(letter.len_utf8());
            if end > room {
                break;
            }
            fits = end;
        }
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text.bytes().take(fits)) {
            *to = from;
        }
        self.len = self.len.wrapping_add(fits);
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The last failure of this thread; without a heap, of the program.
pub(crate) fn last() -> Last {
    store::get()
}

#[cfg(feature = "std")]
mod store {
    use core::cell::RefCell;

    use super::Last;

    std::thread_local! {
        static LAST: RefCell<Last> = const { RefCell::new(Last::NONE) };
    }

    pub(super) fn set(last: Last) {
        // A thread that is ending has no last failure any more.
        let _ = LAST.try_with(|slot| slot.replace(last));
    }

    pub(super) fn get() -> Last {
        LAST.try_with(|slot| *slot.borrow()).unwrap_or(Last::NONE)
    }
}

#[cfg(not(feature = "std"))]
mod store {
    use super::Last;
    use crate::ffi::cells::Latest;

    static LAST: Latest<Last> = Latest::new(Last::NONE);

    pub(super) fn set(last: Last) {
        LAST.set(last);
    }

    pub(super) fn get() -> Last {
        LAST.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let long = "é".repeat(400);
        assert_eq!(Failure::read(format_args!("x{long}")), Failure { code: -4 });
        let last = last();
        assert_eq!((last.code, last.text().len()), (-4, 255));
        assert!(last.text().starts_with("xé".as_bytes()));
    }
}
