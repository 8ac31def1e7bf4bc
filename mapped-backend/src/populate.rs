//! Paying for page faults at a time of one's own choosing.

use std::io;

use rustix::io::Errno;
use vgpu_perception::{Extent, Gpa, PhysRead};

use crate::error::OpenError;
use crate::ram::GuestRam;

/// What to do about the first touch of a fresh mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Populate {
    /// Nothing: each page faults when it is first read.
    #[default]
    None,
    /// Map in every page that the files hold data for, now (`MADV_POPULATE_READ`).
    Read,
    /// Say that huge pages are welcome (`MADV_HUGEPAGE`) wherever a file's data covers whole 2 MiB of it, then as
    /// `Read`.
    HugePages,
}

const HUGE: u64 = 2 << 20;

impl GuestRam {
    /// Prepares the mapping for reading and says how many bytes that concerned.
    ///
    /// It follows the data of the files: reading a hole of a file in memory allocates it, and so would populating it.
    /// A hole that is punched while this runs can still be filled again.
    ///
    /// # Errors
    /// [`OpenError::Io`] where the kernel refuses; before Linux 5.14 the pages are read one by one instead.
    pub fn populate(&self, how: Populate) -> Result<u64, OpenError> {
        if how == Populate::None {
            return Ok(0);
        }
        let mut done = 0_u64;
        for extent in self.extents() {
            let extent = extent.map_err(|error| self.broken(error))?;
            if how == Populate::HugePages {
                self.advise_huge(extent)?;
            }
            match self.populate_extent(extent) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => self.touch(extent)?,
                Err(source) => return Err(self.refused("populating its mapping", source)),
            }
            done = done.saturating_add(extent.len);
        }
        Ok(done)
    }

    fn populate_extent(&self, extent: Extent) -> io::Result<()> {
        let Some((map, offset)) = self.mapped_at(extent.start) else { return Ok(()) };
        let mapping = self.space().maps().get(map).ok_or(io::ErrorKind::NotFound)?;
        // Whole pages of the host: an extent can end inside one where a file's blocks are smaller.
        let first = offset & !0xfff;
        let end = (offset + extent.len).next_multiple_of(4096).min(mapping.len() as u64);
        mapping.populate_read(as_usize(first), as_usize(end - first))
    }

    fn advise_huge(&self, extent: Extent) -> Result<(), OpenError> {
        let Some((map, offset)) = self.mapped_at(extent.start) else { return Ok(()) };
        // Only whole huge pages of data: one with a hole in it would have the hole filled.
        let (first, end) = (offset.next_multiple_of(HUGE), (offset + extent.len) & !(HUGE - 1));
        let Some(mapping) = self.space().maps().get(map).filter(|_| first < end) else { return Ok(()) };
        match mapping.want_huge(as_usize(first), as_usize(end - first)) {
            Ok(()) => Ok(()),
            // A kernel without huge pages, or a file (hugetlbfs) that has nothing else.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
            Err(source) => Err(self.refused("asking for huge pages", source)),
        }
    }

    fn touch(&self, extent: Extent) -> Result<(), OpenError> {
        let mut byte = [0];
        for skip in (0..extent.len).step_by(4096) {
            let page = extent.start.wrapping_add(skip);
            self.read(page, &mut byte).map_err(|error| self.broken(error))?;
        }
        Ok(())
    }

    /// The file that holds `gpa`, and where in it.
    fn mapped_at(&self, gpa: Gpa) -> Option<(usize, u64)> {
        self.map().segments().iter().find_map(|segment| {
            let skip = gpa.get().checked_sub(segment.gpa.get()).filter(|skip| *skip < segment.len)?;
            Some((segment.file, segment.offset + skip))
        })
    }

    fn broken(&self, error: vgpu_perception::PhysError) -> OpenError {
        self.refused("following its data", io::Error::other(error))
    }

    fn refused(&self, action: &'static str, source: io::Error) -> OpenError {
        let path = self.files().first().map(|file| file.path().to_path_buf()).unwrap_or_default();
        OpenError::Io { path, action, source }
    }
}

/// Offsets into a mapping fit: the whole file was mapped.
fn as_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
