//! Stretches of RAM: one, all of a backend's, and those of a fixed map.

use core::iter::FusedIterator;

use super::{PhysError, PhysRead};
use crate::addr::Gpa;

/// A stretch of guest RAM, `start .. start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: Gpa,
    /// Its length in bytes, at least 1; `start + len` does not pass 2^64.
    pub len: u64,
}

impl Extent {
    /// The first address after the stretch.
    #[must_use]
    pub const fn end(self) -> Gpa {
        self.start.wrapping_add(self.len)
    }
}

/// The part at or after `from` of the first extent of `map` that reaches past it; `map` ascends.
#[must_use]
pub fn next_in(map: &[Extent], from: Gpa) -> Option<Extent> {
    map.iter().find_map(|extent| {
        let skip = from.get().saturating_sub(extent.start.get());
        let len = extent.len.checked_sub(skip).filter(|len| *len > 0)?;
        Some(Extent { start: extent.start.wrapping_add(skip), len })
    })
}

/// The stretches of RAM that hold data, in ascending order: [`PhysRead::extents`] gives it.
#[derive(Debug)]
pub struct Extents<'m, M: ?Sized> {
    mem: &'m M,
    /// Where to go on; `None` at the end.
    from: Option<Gpa>,
}

impl<'m, M: ?Sized> Extents<'m, M> {
    pub(super) const fn new(mem: &'m M) -> Self {
        Self { mem, from: Some(Gpa::new(0)) }
    }
}

impl<M: PhysRead + ?Sized> Iterator for Extents<'_, M> {
    type Item = Result<Extent, PhysError>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.from.take()?;
        let extent = match self.mem.next_extent(from) {
            Ok(found) => found?,
            Err(error) => return Some(Err(error)),
        };
        // The end of the last address wraps to 0; a backend that gives what lies before `from` would not end either.
        let behind = extent.end();
        self.from = (behind > from).then_some(behind);
        Some(Ok(extent))
    }
}

impl<M: PhysRead + ?Sized> FusedIterator for Extents<'_, M> {}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::phys::{CallbackRam, PhysErrorKind};

    const fn extent(start: u64, len: u64) -> Extent {
        Extent { start: Gpa::new(start), len }
    }

    /// Memory of which only the extents matter.
    struct Told<F: Fn(Gpa) -> Result<Option<Extent>, PhysError>>(F);

    impl<F: Fn(Gpa) -> Result<Option<Extent>, PhysError>> PhysRead for Told<F> {
        fn read(&self, gpa: Gpa, _dst: &mut [u8]) -> Result<(), PhysError> {
            Err(PhysError::new(gpa, PhysErrorKind::Ended))
        }
        fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
            Err(PhysError::new(gpa, PhysErrorKind::Ended))
        }
        fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
            Err(PhysError::new(gpa, PhysErrorKind::Ended))
        }
        fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
            (self.0)(from)
        }
    }

    #[test]
    fn extents_are_those_of_the_map_up_to_the_last_address() {
        let map = [extent(0x1000, 0x3000), extent(0x4000, 0x1000), extent(0_u64.wrapping_sub(0x1000), 0x1000)];
        let ram = CallbackRam::new(&map, |_, _: &mut [u8]| 0);
        assert_eq!(ram.extents().map(Result::unwrap).collect::<Vec<_>>(), map);
        assert_eq!(CallbackRam::new(&[], |_, _: &mut [u8]| 0).extents().count(), 0);
    }

    #[test]
    fn an_error_ends_them_and_so_does_a_backend_that_does_not_move_on() {
        let ended = PhysError::new(Gpa::new(0x2000), PhysErrorKind::Ended);
        let breaks = Told(|from: Gpa| if from == Gpa::new(0) { Ok(Some(extent(0, 0x2000))) } else { Err(ended) });
        assert_eq!(breaks.extents().collect::<Vec<_>>(), [Ok(extent(0, 0x2000)), Err(ended)]);
        let stays = Told(|_: Gpa| Ok(Some(extent(0, 0x2000))));
        assert_eq!(stays.extents().collect::<Vec<_>>(), [Ok(extent(0, 0x2000)); 2]);
    }
}
