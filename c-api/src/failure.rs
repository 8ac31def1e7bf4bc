//! What a C caller is told when a function fails: a code, and a text that can be asked for afterwards.

use core::ffi::c_int;
use core::fmt::{self, Write as _};

use heapless::String;

/// Codes of `vgpu_perception_ext.h`, `VGPUX_E_*`.
pub(crate) mod code {
    use core::ffi::c_int;

    pub(crate) const ARGUMENT: c_int = -1;
    pub(crate) const HANDLE: c_int = -2;
    pub(crate) const BUSY: c_int = -3;
    pub(crate) const READ: c_int = -4;
    pub(crate) const NOT_FOUND: c_int = -5;
    #[cfg(feature = "std")]
    pub(crate) const OPEN: c_int = -6;
    pub(crate) const MEMORY: c_int = -7;
    #[cfg(feature = "std")]
    pub(crate) const INTERNAL: c_int = -8;
}

/// Bytes of an error text; longer ones are cut.
const TEXT: usize = 256;

/// A failure on its way to the caller. Its text was left behind when it was made: see [`last`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: c_int,
}

impl Failure {
    pub(crate) fn new(code: c_int, text: fmt::Arguments<'_>) -> Self {
        let mut last = Last { code, text: String::new() };
        let _ = Cut(&mut last.text).write_fmt(text);
        store::set(last);
        Self { code }
    }

    pub(crate) fn argument(name: &str, why: &str) -> Self {
        Self::new(code::ARGUMENT, format_args!("{name} {why}"))
    }

    pub(crate) fn read(error: impl fmt::Display) -> Self {
        Self::new(code::READ, format_args!("{error}"))
    }
}

/// What can be asked for after a failure.
#[derive(Clone, Debug)]
pub(crate) struct Last {
    pub(crate) code: c_int,
    pub(crate) text: String<TEXT>,
}

impl Last {
    const NONE: Self = Self { code: 0, text: String::new() };
}

/// The last failure of this thread; without a heap, of the program.
pub(crate) fn last() -> Last {
    store::get()
}

/// Takes what fits of a text instead of refusing all of it.
struct Cut<'t>(&'t mut String<TEXT>);

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            self.0.push(letter).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
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
        LAST.try_with(|slot| slot.borrow().clone()).unwrap_or(Last::NONE)
    }
}

#[cfg(not(feature = "std"))]
mod store {
    use super::Last;
    use crate::ffi::Spin;

    static LAST: Spin<Last> = Spin::new(Last::NONE);

    pub(super) fn set(last: Last) {
        LAST.with(|slot| *slot = last);
    }

    pub(super) fn get() -> Last {
        LAST.with(|slot| slot.clone())
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
        assert_eq!((last.code, last.text.len()), (-4, 255));
        assert!(last.text.starts_with("xé"));
    }
}
