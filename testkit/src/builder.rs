//! Page tables in guest RAM: address spaces of any shape, honest and hostile ones.

use vgpu_perception::paging::{Level, Pte};
use vgpu_perception::{AddressSpace, Cr3, Extent, Gpa, Gva, PageSize, PagingMode, PhysRead};

use crate::flags;
use crate::frames::{FrameAllocator, Placement};
use crate::naive::{self, NaiveSpace};
use crate::ram::Ram;

/// A guest under construction: its RAM, and which frames of it are still free.
#[derive(Clone, Debug)]
pub struct GuestBuilder {
    /// The RAM.
    pub ram: Ram,
    /// The free frames.
    pub frames: FrameAllocator,
    /// Levels of the tables that are made.
    pub mode: PagingMode,
}

/// An address space: where its top table lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The top table.
    pub root: Gpa,
    /// How many levels there are.
    pub mode: PagingMode,
}

impl Space {
    /// The value for `CR3`, without flags.
    #[must_use]
    pub const fn cr3(self) -> Cr3 {
        Cr3::new(self.root.get())
    }

    /// The space as the library takes it.
    #[must_use]
    pub fn space(self) -> AddressSpace {
        AddressSpace::new(self.cr3()).with_mode(self.mode)
    }

    /// The space as the naive walker takes it.
    #[must_use]
    pub const fn naive(self) -> NaiveSpace {
        NaiveSpace { cr3: self.root.get(), levels: self.mode.top() as u32, phys_bits: 52 }
    }
}

/// A page that was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedPage {
    /// Its first address.
    pub gva: Gva,
    /// Its first physical address.
    pub gpa: Gpa,
    /// Its size.
    pub size: PageSize,
}

impl GuestBuilder {
    /// A guest with nothing in `ram` yet, 4-level tables; the places of everything follow from `seed`.
    #[must_use]
    pub fn new(ram: Ram, seed: u64) -> Self {
        let frames = FrameAllocator::new(&ram.segments(), seed);
        Self { ram, frames, mode: PagingMode::FourLevel }
    }

    /// The same with tables of `mode`.
    #[must_use]
    pub fn with_mode(self, mode: PagingMode) -> Self {
        Self { mode, ..self }
    }

    /// A free frame, present and zero: for a table.
    pub fn new_table(&mut self) -> Gpa {
        let frame = self.frames.frame();
        self.ram.touch(frame, 4096);
        frame
    }

    /// An address space that maps nothing.
    pub fn new_space(&mut self) -> Space {
        Space { root: self.new_table(), mode: self.mode }
    }

    /// Where the entry of `level` that translates `gva` lies; `None` where a table above it is missing or a large page.
    #[must_use]
    pub fn entry_at(&self, space: Space, level: Level, gva: Gva) -> Option<Gpa> {
        let mut at = space.mode.top();
        let mut table = space.root;
        while at > level {
            let entry = Pte::new(self.ram.load_u64(slot(table, at, gva)).ok()?);
            if !entry.is_present() || entry.is_leaf(at) {
                return None;
            }
            table = entry.table();
            at = at.below()?;
        }
        Some(slot(table, level, gva))
    }

    /// The entry of `level` that translates `gva`.
    #[must_use]
    pub fn entry(&self, space: Space, level: Level, gva: Gva) -> Option<u64> {
        self.ram.load_u64(self.entry_at(space, level, gva)?).ok()
    }

    /// Sets the entry of `level` that translates `gva` to any value.
    ///
    /// # Panics
    /// Where a table above it is missing.
    pub fn set_entry(&self, space: Space, level: Level, gva: Gva, value: u64) {
        let at = self.entry_at(space, level, gva).expect("the tables above the entry exist");
        self.ram.write_u64(at, value);
    }

    /// Makes the tables down to `level` for `gva`, and says where its entry of `level` lies. Tables above a page of the
    /// user half grant everything, as operating systems have it; tables of the kernel half are supervisor ones, and
    /// both are upgraded where `user` asks for it.
    ///
    /// # Panics
    /// Where a large page is in the way.
    pub fn make_tables(&mut self, space: Space, level: Level, gva: Gva, user: bool) -> Gpa {
        let mut at = space.mode.top();
        let mut table = space.root;
        while at > level {
            let place = slot(table, at, gva);
            let mut raw = self.ram.load_u64(place).expect("a table is in RAM");
            assert!(raw & flags::P == 0 || !Pte::new(raw).is_leaf(at), "{gva}: a large page is in the way");
            if raw & flags::P == 0 {
                raw = self.new_table().get() | flags::KERNEL_TABLE;
            }
            if user {
                raw |= flags::U;
            }
            self.ram.write_u64(place, raw);
            table = Pte::new(raw).table();
            at = at.below().expect("there is a level below one that is above another");
        }
        slot(table, level, gva)
    }

    /// Maps one page; `entry_flags` are the entry's other bits, P among them, PS is added for large pages.
    ///
    /// # Panics
    /// Where an address is not a multiple of `size`, or a large page is in the way.
    pub fn map(&mut self, space: Space, gva: Gva, gpa: Gpa, size: PageSize, entry_flags: u64) -> MappedPage {
        assert!(gva.is_aligned(size) && gpa.is_aligned(size), "{gva} or {gpa} is not a multiple of the page size");
        let (level, ps) = match size {
            PageSize::Size4K => (Level::Pt, 0),
            PageSize::Size2M => (Level::Pd, flags::PS),
            PageSize::Size1G => (Level::Pdpt, flags::PS),
        };
        let place = self.make_tables(space, level, gva, entry_flags & flags::U != 0);
        self.ram.write_u64(place, gpa.get() | entry_flags | ps);
        MappedPage { gva, gpa, size }
    }

    /// Maps `len` bytes of new memory, which holds zeros and is no data yet.
    ///
    /// # Panics
    /// Where `gva` or `len` is not a multiple of the page size, or the RAM is too full.
    pub fn map_new(
        &mut self,
        space: Space,
        gva: Gva,
        len: u64,
        placement: Placement,
        entry_flags: u64,
    ) -> Vec<MappedPage> {
        let pieces = self.frames.place(len, placement);
        self.map_pieces(space, gva, &pieces, placement.page_size(), entry_flags)
    }

    /// Maps physical pieces one after the other.
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn map_pieces(
        &mut self,
        space: Space,
        gva: Gva,
        pieces: &[Extent],
        size: PageSize,
        entry_flags: u64,
    ) -> Vec<MappedPage> {
        let mut mapped = Vec::new();
        let mut at = gva;
        for piece in pieces {
            for skip in (0..piece.len).step_by(usize::try_from(size.bytes()).expect("a page size fits")) {
                mapped.push(self.map(space, at, piece.start.wrapping_add(skip), size, entry_flags));
                at = at.wrapping_add(size.bytes());
            }
        }
        mapped
    }

    /// Clears the entry that maps the page of `gva`, of whatever size.
    ///
    /// # Panics
    /// Where nothing is mapped.
    pub fn unmap(&self, space: Space, gva: Gva) {
        for level in [Level::Pdpt, Level::Pd, Level::Pt] {
            if let Some(at) = self.entry_at(space, level, gva)
                && Pte::new(self.ram.load_u64(at).expect("a table is in RAM")).is_leaf(level)
            {
                self.ram.write_u64(at, 0);
                return;
            }
        }
        panic!("{gva} is not mapped");
    }

    /// Where `gva` lies in physical memory, by the naive walker.
    ///
    /// # Panics
    /// Where nothing is mapped.
    #[must_use]
    pub fn gpa(&self, space: Space, gva: Gva) -> Gpa {
        match naive::translate(&self.ram, space.naive(), gva.get()) {
            Ok(page) => Gpa::new(page.gpa),
            Err(fault) => panic!("{gva} has no translation: {fault:?}"),
        }
    }

    /// Writes bytes at a virtual address, across pages.
    ///
    /// # Panics
    /// Where a page is not mapped.
    pub fn write(&self, space: Space, gva: Gva, bytes: &[u8]) {
        let mut at = gva;
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = PageSize::Size4K.bytes() - at.offset_in(PageSize::Size4K);
            let count = rest.len().min(usize::try_from(left).expect("less than a page fits"));
            let (head, tail) = rest.split_at(count);
            self.ram.write_u8s(self.gpa(space, at), head);
            at = at.wrapping_add(count as u64);
            rest = tail;
        }
    }
}

const fn slot(table: Gpa, level: Level, gva: Gva) -> Gpa {
    table.wrapping_add(level.index(gva) * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn random_mappings(mode: PagingMode, seed: u64) {
        let mut guest = GuestBuilder::new(Ram::split(64 << 30, 3 << 30), seed).with_mode(mode);
        let mut rng = Rng::new(seed);
        let space = guest.new_space();
        let placements = [Placement::Scattered, Placement::Fragments64K, Placement::Contiguous, Placement::Large2M];
        let mut mapped = Vec::new();
        let half = mode.user_end().get();
        for n in 0..24_u64 {
            let placement = if n < 2 { Placement::Large1G } else { *rng.pick(&placements) };
            let size = placement.page_size().bytes();
            // One 512 GiB slot for each keeps them apart.
            let mut gva = ((n * 5 + 1) << 39) + (rng.below(256) << 30) + rng.below((1 << 30) / size) * size;
            if n % 3 == 0 {
                gva += 0_u64.wrapping_sub(half);
            }
            let user = n % 3 != 0;
            let entry_flags = flags::P
                | if rng.one_in(2) { flags::W } else { 0 }
                | if user { flags::U } else { 0 }
                | if rng.one_in(2) { flags::NX } else { 0 };
            let pages = guest.map_new(space, Gva::new(gva), size * rng.between(1, 20), placement, entry_flags);
            mapped.extend(pages.into_iter().map(|page| (page, entry_flags)));
        }
        mapped.sort_by_key(|(page, _)| page.gva);
        let found = naive::leaves(&guest.ram, space.naive(), 0, u64::MAX, usize::MAX);
        assert_eq!(found.len(), mapped.len());
        for (found, (page, entry_flags)) in found.iter().zip(&mapped) {
            assert_eq!((found.gva, found.gpa, found.size), (page.gva.get(), page.gpa.get(), page.size.bytes()));
            assert_eq!(found.user, entry_flags & flags::U != 0);
            assert_eq!(found.writable, entry_flags & flags::W != 0);
            assert_eq!(found.executable, entry_flags & flags::NX == 0);
            let inside = page.gva.get() + rng.below(page.size.bytes());
            let translated = naive::translate(&guest.ram, space.naive(), inside).unwrap();
            assert_eq!(translated.gpa, page.gpa.get() + (inside - page.gva.get()));
            guest.unmap(space, page.gva);
        }
        assert_eq!(naive::leaves(&guest.ram, space.naive(), 0, u64::MAX, usize::MAX), []);
    }

    #[test]
    fn every_mapping_is_found_again() {
        for seed in 0..4 {
            random_mappings(PagingMode::FourLevel, seed);
            random_mappings(PagingMode::FiveLevel, seed);
        }
    }

    #[test]
    fn hostile_entries_are_kept_as_they_are() {
        let mut guest = GuestBuilder::new(Ram::flat(64 << 20), 1);
        let space = guest.new_space();
        let gva = Gva::new(0x1234_5000);
        guest.map_new(space, gva, 4096, Placement::Scattered, flags::USER_RW);
        guest.set_entry(space, Level::Pd, gva, 0xdead_beef_0000_0001);
        assert_eq!(guest.entry(space, Level::Pd, gva), Some(0xdead_beef_0000_0001));
        guest.set_entry(space, Level::Pml4, gva, space.root.get() | flags::USER_TABLE);
        // A root that is its own lower tables maps itself.
        let itself = naive::leaves(&guest.ram, space.naive(), 0, u64::MAX, 1000);
        assert_eq!(itself.iter().map(|page| page.gpa).collect::<Vec<_>>(), [space.root.get()]);
    }
}
