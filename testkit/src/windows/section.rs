//! Shared memory as the memory manager describes it: control area, segment, subsections, prototypes.

use vgpu_perception::{Gpa, Gva};

use crate::builder::GuestBuilder;

use super::kernel::Kernel;
use super::layout::{Layout, VadShape};

/// A section object's memory.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its control area.
    pub control_area: Gva,
    /// The first of its subsections.
    pub subsection: Gva,
    /// The arrays of prototypes, in order: address and number of entries.
    pub arrays: Vec<(Gva, u64)>,
}

impl Section {
    /// Writes a section whose prototypes have the given values. Each subsection holds at most `per_subsection` of them;
    /// `file` is the file that it maps, 0 for memory backed by the page file.
    pub fn build(
        guest: &mut GuestBuilder,
        kernel: &mut Kernel,
        layout: &Layout,
        prototypes: &[u64],
        per_subsection: usize,
        file: u64,
    ) -> Self {
        let chunks: Vec<&[u64]> = prototypes.chunks(per_subsection).collect();
        let control_area = kernel.nonpaged.take(guest, 0x80 + 0x38, 0x10);
        let segment = kernel.paged.take(guest, 0x58, 0x10).wrapping_add(0x10);
        let old = layout.vad == VadShape::Win2003;
        let mut subsections = vec![control_area.wrapping_add(if old { 0x48 } else { 0x80 })];
        while subsections.len() < chunks.len() {
            subsections.push(kernel.nonpaged.take(guest, 0x48, 0x10).wrapping_add(0x10));
        }
        let mut arrays = Vec::new();
        for chunk in &chunks {
            let bytes: Vec<u8> = chunk.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            let array = kernel.paged.take(guest, bytes.len() as u64 + 0x10, 0x10).wrapping_add(0x10);
            guest.write(kernel.space, array, &bytes);
            guest.write(kernel.space, Gva::new(array.get() - 12), b"MmSt");
            arrays.push((array, chunk.len() as u64));
        }
        let put = |at: Gva, offset: u64, value: u64| {
            guest.write(kernel.space, at.wrapping_add(offset), &value.to_le_bytes());
        };
        put(control_area, 0, segment.get());
        put(control_area, 0x18, 2 << 32 | 1);
        put(control_area, if old { 0x30 } else { 0x40 }, file);
        put(segment, 0, control_area.get());
        put(segment, 8, prototypes.len() as u64);
        put(segment, 0x40, arrays.first().map_or(0, |(array, _)| array.get()));
        for (n, (array, count)) in arrays.iter().enumerate() {
            put(subsections[n], 0, control_area.get());
            let (base, next) = if old { (0x18, 0x28) } else { (8, 0x10) };
            put(subsections[n], base, array.get());
            put(subsections[n], next, subsections.get(n + 1).map_or(0, |next| next.get()));
            let count = u32::try_from(*count).expect("a subsection is small").to_le_bytes();
            guest.write(kernel.space, subsections[n].wrapping_add(layout.subsection_ptes().into()), &count);
        }
        Self { control_area, subsection: subsections[0], arrays }
    }

    /// Where the prototype of page `index` lies.
    ///
    /// # Panics
    /// Where there is no such page.
    #[must_use]
    pub fn prototype(&self, index: u64) -> Gva {
        let mut left = index;
        for (array, count) in &self.arrays {
            if left < *count {
                return array.wrapping_add(8 * left);
            }
            left -= count;
        }
        panic!("the section has no page {index}");
    }

    /// Where the prototypes begin.
    #[must_use]
    pub fn first_prototype(&self) -> Gva {
        self.arrays[0].0
    }

    /// The last prototype of the first array.
    #[must_use]
    pub fn last_contiguous(&self) -> Gva {
        let (array, count) = self.arrays[0];
        array.wrapping_add(8 * (count - 1))
    }

    /// Where in RAM the prototype of page `index` lies.
    #[must_use]
    pub fn prototype_gpa(&self, guest: &GuestBuilder, kernel: &Kernel, index: u64) -> Gpa {
        guest.gpa(kernel.space, self.prototype(index))
    }
}
