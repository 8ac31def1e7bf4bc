//! A [`PhysRead`] over a callback of the embedder.

use core::fmt;

use super::{Extent, PhysError, PhysErrorKind, PhysRead, next_in};
use crate::addr::Gpa;

/// A [`PhysRead`] over a callback: for embedders whose guest memory is not mapped.
///
/// The callback fills the buffer from guest physical memory and returns 0, or returns any other code. It has to answer
/// a request for an aligned 4 or 8 bytes with one load of that size (promise 1 of [`PhysRead`]); every `memcpy` known
/// to the author does.
///
/// ```
/// use vgpu_perception::{CallbackRam, Extent, Gpa, PhysRead};
/// let ram = [0x11_u8; 4096];
/// let map = [Extent { start: Gpa::new(0), len: 4096 }];
/// let mem = CallbackRam::new(&map, |gpa: Gpa, dst: &mut [u8]| {
///     let at = gpa.get() as usize;
///     dst.copy_from_slice(&ram[at..at + dst.len()]);
///     0
/// });
/// assert_eq!(mem.load_u32(Gpa::new(8)), Ok(0x1111_1111));
/// assert!(mem.load_u32(Gpa::new(4096)).is_err());
/// ```
#[derive(Clone, Copy)]
pub struct CallbackRam<'m, F> {
    map: &'m [Extent],
    callback: F,
}

impl<F> fmt::Debug for CallbackRam<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackRam").field("map", &self.map).finish_non_exhaustive()
    }
}

impl<'m, F: Fn(Gpa, &mut [u8]) -> i32> CallbackRam<'m, F> {
    /// Wraps `callback` for a guest whose RAM lies at `map` (ascending, not overlapping).
    #[must_use]
    pub const fn new(map: &'m [Extent], callback: F) -> Self {
        Self { map, callback }
    }

    fn inside(&self, gpa: Gpa, len: usize) -> bool {
        let Ok(len) = u64::try_from(len) else { return false };
        self.map.iter().any(|extent| {
            gpa.get()
                .checked_sub(extent.start.get())
                .is_some_and(|skip| skip <= extent.len && len <= extent.len.wrapping_sub(skip))
        })
    }
}

impl<F: Fn(Gpa, &mut [u8]) -> i32> PhysRead for CallbackRam<'_, F> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        if !self.inside(gpa, dst.len()) {
            return Err(PhysError::new(gpa, PhysErrorKind::Gap));
        }
        match (self.callback)(gpa, dst) {
            0 => Ok(()),
            code => Err(PhysError::new(gpa, PhysErrorKind::Backend(code))),
        }
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        if !gpa.get().is_multiple_of(4) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn ram_end(&self) -> Gpa {
        self.map.iter().map(|extent| extent.end()).max().unwrap_or(Gpa::new(0))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        Ok(next_in(self.map, from))
    }
}
