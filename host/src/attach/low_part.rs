//! A memory of which passes see the low part only, while every address can still be read.

use vgpu_perception::{Extent, Gpa, Line, PageKind, PhysError, PhysRead};

/// `ram`, whose extents end at `end`: a search through it is shorter, and what it finds is followed everywhere.
#[derive(Debug)]
pub(super) struct LowPart<'a, M> {
    pub(super) ram: &'a M,
    pub(super) end: Gpa,
}

impl<M: PhysRead> PhysRead for LowPart<'_, M> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.ram.read(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.ram.load_u32(gpa)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.ram.load_u64(gpa)
    }

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.ram.load_words(gpa, dst)
    }

    fn fence_acquire(&self) {
        self.ram.fence_acquire();
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        self.ram.load_lines(at, lines)
    }

    fn batch(&self) -> usize {
        self.ram.batch()
    }

    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        self.ram.load_columns(at, stride, dst)
    }

    fn ram_end(&self) -> Gpa {
        self.ram.ram_end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        if from >= self.end {
            return Ok(None);
        }
        let found = self.ram.next_extent(from)?.filter(|extent| extent.start < self.end);
        Ok(found.map(|extent| Extent { len: extent.len.min(self.end.get() - extent.start.get()), ..extent }))
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        self.ram.page_kind(page)
    }

    fn fills_hole(&self, page: Gpa) -> bool {
        self.ram.fills_hole(page)
    }

    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        self.ram.load_at_once(gpa)
    }

    fn is_cancelled(&self) -> bool {
        self.ram.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use vgpu_perception_testkit::Ram;

    use super::*;

    #[test]
    fn a_pass_ends_where_the_part_does_and_reads_do_not() {
        let ram = Ram::flat(1 << 30);
        for page in [0x3000, 0x5000, 0x6000, 0x9000] {
            ram.write_u64(Gpa::new(page), page);
        }
        let bytes = |memory: &dyn Fn(Gpa) -> Option<Extent>| {
            let mut seen = Vec::new();
            let mut at = Gpa::new(0);
            while let Some(extent) = memory(at) {
                seen.extend((extent.start.get()..extent.end().get()).step_by(4096));
                at = extent.end();
            }
            seen
        };
        let whole = bytes(&|at| ram.next_extent(at).unwrap());
        // Once inside of a stretch, once between two.
        for end in [0x6000, 0x8000] {
            let part = LowPart { ram: &ram, end: Gpa::new(end) };
            let below: Vec<u64> = whole.iter().copied().filter(|page| *page < end).collect();
            assert_eq!(bytes(&|at| part.next_extent(at).unwrap()), below);
            assert!(below.contains(&0x5000) && whole.contains(&0x9000));
            assert_eq!(part.load_u64(Gpa::new(0x9000)), Ok(0x9000), "what lies higher is read");
            assert!(part.is_ram(Gpa::new(0x9000)) && !part.is_ram(Gpa::new(1 << 30)));
            assert_eq!(part.next_extent(Gpa::new(end)), Ok(None));
        }
    }
}
