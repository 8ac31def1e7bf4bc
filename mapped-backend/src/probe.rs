//! Does this RAM change at all? A guest started with `share=off` writes to private copies, and its file stands still.

use vgpu_perception::{Gpa, PhysError, PhysRead};

use crate::ram::GuestRam;

const PAGE: usize = 4096;

/// What a second look at RAM found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// None of these pages changed. The guest is paused, or its RAM is not shared with its file (`share=off`,
    /// `private`): this process then sees what the file held when the guest started. Or too few pages were looked at.
    Frozen {
        /// How many pages were compared.
        pages: usize,
    },
    /// The guest writes to this file.
    Changing {
        /// How many pages were compared.
        pages: usize,
        /// How many of them differ.
        changed: usize,
    },
}

/// A first look at RAM: one number for each of a number of pages that are spread evenly over the data of its files.
///
/// A guest writes somewhere all the time (clocks, run queues), but only to some of its pages: looking at all of them is
/// sure, at the cost of reading all RAM that has data twice; 8 bytes are kept a page. The caller waits between the
/// looks.
///
/// ```no_run
/// # use vgpu_perception_mapped::{Change, ChangeProbe, GuestRam};
/// # fn of(ram: &GuestRam) -> Result<(), vgpu_perception::PhysError> {
/// let probe = ChangeProbe::new(ram, usize::MAX)?;
/// std::thread::sleep(std::time::Duration::from_millis(500));
/// if let Change::Frozen { .. } = probe.compare(ram)? {
///     eprintln!("this RAM never changes: was the guest started with share=on?");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ChangeProbe {
    pages: Vec<(Gpa, u64)>,
}

impl ChangeProbe {
    /// Looks at no more than `max_pages` pages.
    ///
    /// # Errors
    /// [`PhysError`] where RAM could not be read.
    pub fn new(ram: &GuestRam, max_pages: usize) -> Result<Self, PhysError> {
        let mut total = 0;
        each_page(ram, |_| {
            total += 1;
            Ok(())
        })?;
        let step = total / max_pages.max(1) + usize::from(total % max_pages.max(1) != 0);
        let mut pages = Vec::with_capacity(total.min(max_pages));
        let mut index = 0;
        each_page(ram, |gpa| {
            if index % step.max(1) == 0 && pages.len() < max_pages {
                pages.push((gpa, digest(ram, gpa)?));
            }
            index += 1;
            Ok(())
        })?;
        Ok(Self { pages })
    }

    /// How many pages were looked at.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Looks again.
    ///
    /// # Errors
    /// [`PhysError`] where RAM could not be read.
    pub fn compare(&self, ram: &GuestRam) -> Result<Change, PhysError> {
        let (pages, mut changed) = (self.pages.len(), 0);
        for (gpa, before) in &self.pages {
            changed += usize::from(digest(ram, *gpa)? != *before);
        }
        Ok(if changed == 0 { Change::Frozen { pages } } else { Change::Changing { pages, changed } })
    }
}

fn each_page(ram: &GuestRam, mut page: impl FnMut(Gpa) -> Result<(), PhysError>) -> Result<(), PhysError> {
    for extent in ram.extents() {
        let extent = extent?;
        let mut skip = 0;
        while skip + PAGE as u64 <= extent.len {
            page(extent.start.wrapping_add(skip))?;
            skip += PAGE as u64;
        }
    }
    Ok(())
}

/// A number that differs where the page does, for all that matters here (FNV-1a over words; no guest gains by fooling
/// it).
fn digest(ram: &GuestRam, gpa: Gpa) -> Result<u64, PhysError> {
    let mut words = [0; PAGE / 8];
    ram.load_words(gpa, &mut words)?;
    Ok(words.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, word| (sum ^ word).wrapping_mul(0x0100_0000_01b3)))
}
