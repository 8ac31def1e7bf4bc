//! The memory of the model.

use core::cell::Cell as Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use vgpu_perception::abi::{self, producer};
use vgpu_perception::{AddressSpace, Cr3, Extent, Gpa, Gva, PhysError, PhysErrorKind, PhysRead, Region};
use vgpu_perception_producer::RegionWrite;

/// Where the region lies in the producer's address space.
pub const BASE: Gva = Gva::new(0x7000_0000_0000);

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PAGE_TABLE: u64 = 0x4000;
const SLOT_TABLES: u64 = 0x5000;
const PRODUCER: u64 = 0x1_0000;
const SLOTS: u64 = 0x2_0000;
const PRESENT_RW_USER: u64 = 7;

/// A handle on the model's region.
#[must_use]
pub fn region() -> Region {
    Region::new(AddressSpace::new(Cr3::new(PML4)), BASE)
}

#[derive(Debug)]
enum Word {
    Narrow(AtomicU32),
    Wide(AtomicU64),
}

/// What a model watches.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    watched: BTreeMap<u64, bool>,
    fixed: BTreeMap<u64, u64>,
    initial: BTreeMap<u64, u64>,
}

impl Guest {
    /// A guest whose frames are `width` x 1 pixels: page tables, and descriptors that say so, all of it constant.
    #[must_use]
    pub fn new(width: u32) -> Self {
        let mut guest = Self::default();
        let index = |shift: u64| (BASE.get() >> shift & 511) * 8;
        guest.fixed.insert(PML4 + index(39), PDPT | PRESENT_RW_USER);
        guest.fixed.insert(PDPT + index(30), PD | PRESENT_RW_USER);
        guest.fixed.insert(PD + index(21), PAGE_TABLE | PRESENT_RW_USER);
        guest.fixed.insert(PAGE_TABLE + index(12), PRODUCER | PRESENT_RW_USER);
        for slot in 0..u64::from(abi::SLOT_COUNT) {
            let window = (abi::RING_OFFSET + slot * abi::SLOT_STRIDE) >> 21;
            let table = SLOT_TABLES + slot * 0x1000;
            guest.fixed.insert(PD + index(21) + window * 8, table | PRESENT_RW_USER);
            guest.fixed.insert(table, (SLOTS + slot * 0x1000) | PRESENT_RW_USER);
            let desc = PRODUCER + producer::DESC + slot * producer::DESC_BYTES;
            guest.fixed.insert(desc, u64::from(width) | 1 << 32);
            guest.fixed.insert(desc + 8, u64::from(width) * 4);
        }
        guest
    }

    /// Watches the `u32` at `offset` of the region.
    #[must_use]
    pub fn narrow(mut self, offset: u64) -> Self {
        self.watched.insert(place(offset), false);
        self
    }

    /// Watches the `u64` at `offset` of the region.
    #[must_use]
    pub fn wide(mut self, offset: u64) -> Self {
        self.watched.insert(place(offset), true);
        self
    }

    /// Watches `latest`, and of each slot its number, its descriptor's `frame_id` and time stamp, and `words` words of
    /// pixels.
    #[must_use]
    pub fn frames(mut self, words: u64) -> Self {
        self = self.narrow(producer::LATEST);
        for slot in 0..abi::SLOT_COUNT {
            let (seq, desc) = (producer::SEQ + 4 * u64::from(slot), producer::DESC + 32 * u64::from(slot));
            self = self.narrow(seq).wide(desc + 16).wide(desc + 24);
            for word in 0..words {
                self = self.wide(abi::RING_OFFSET + u64::from(slot) * abi::SLOT_STRIDE + word * 8);
            }
        }
        self
    }

    /// Watches the page-table entry that maps the producer page.
    #[must_use]
    pub fn entry(mut self) -> Self {
        let at = PAGE_TABLE + (BASE.get() >> 12 & 511) * 8;
        self.watched.insert(at, true);
        self.initial.insert(at, PRODUCER | PRESENT_RW_USER);
        self
    }

    /// Watches the page-table entry that maps the page of `slot`.
    #[must_use]
    pub fn slot_entry(mut self, slot: u64) -> Self {
        let at = SLOT_TABLES + slot * 0x1000;
        self.watched.insert(at, true);
        self.initial.insert(at, (SLOTS + slot * 0x1000) | PRESENT_RW_USER);
        self
    }

    /// Gives the words a place in the present execution.
    #[must_use]
    pub fn build(&self) -> (LoomRam, LoomWrite) {
        let word = |(at, wide): (&u64, &bool)| {
            let initial = self.initial.get(at).copied().unwrap_or(0);
            let word = if *wide {
                Word::Wide(AtomicU64::new(initial))
            } else {
                Word::Narrow(AtomicU32::new(u32::try_from(initial).unwrap_or(0)))
            };
            (*at, word)
        };
        let words = Arc::new(Words {
            words: self.watched.iter().map(word).collect(),
            fixed: self.fixed.clone(),
            pages: [PML4, PDPT, PD, PAGE_TABLE, PRODUCER].into_iter().collect(),
        });
        (LoomRam::new(words.clone()), LoomWrite { words, fault: WriterFault::None, stores: Counter::new(0) })
    }
}

/// Where a byte of the region lies in guest physical memory.
fn place(offset: u64) -> u64 {
    if offset < abi::RING_OFFSET {
        PRODUCER + offset
    } else {
        let slot = (offset - abi::RING_OFFSET) / abi::SLOT_STRIDE;
        SLOTS + slot * 0x1000 + (offset - abi::RING_OFFSET) % abi::SLOT_STRIDE
    }
}

#[derive(Debug)]
struct Words {
    words: BTreeMap<u64, Word>,
    fixed: BTreeMap<u64, u64>,
    pages: BTreeSet<u64>,
}

impl Words {
    fn load(&self, at: u64) -> u64 {
        match self.words.get(&at) {
            Some(Word::Wide(word)) => word.load(Ordering::Relaxed),
            Some(Word::Narrow(_)) | None => self.narrow(at) | self.narrow(at + 4) << 32,
        }
    }

    /// The `u32` at `at`: watched, or half of a constant.
    fn narrow(&self, at: u64) -> u64 {
        match self.words.get(&at) {
            Some(Word::Narrow(word)) => u64::from(word.load(Ordering::Relaxed)),
            _ => self.fixed.get(&(at & !7)).map_or(0, |word| word >> (at % 8 * 8) & 0xffff_ffff),
        }
    }
}

/// A defect that is built into the reader's memory: which of its fences it leaves out, counted from 0 for
/// each view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderFault {
    /// None.
    None,
    /// The fences of each try that these numbers name, by bit; a try has `every` of them.
    Fences {
        /// Which.
        drop: u32,
        /// How many a whole try has.
        every: u32,
    },
}

/// What the reader sees.
#[derive(Debug)]
pub struct LoomRam {
    words: Arc<Words>,
    fault: ReaderFault,
    fences: Counter<u32>,
    loads: Counter<u64>,
}

impl LoomRam {
    const fn new(words: Arc<Words>) -> Self {
        Self { words, fault: ReaderFault::None, fences: Counter::new(0), loads: Counter::new(0) }
    }

    /// The same memory with a defect.
    #[must_use]
    pub fn with(mut self, fault: ReaderFault) -> Self {
        self.fault = fault;
        self
    }

    /// A second view, for a second reader.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { fault: self.fault, ..Self::new(self.words.clone()) }
    }

    /// How many words were loaded: retries are bounded.
    #[must_use]
    pub const fn loads(&self) -> u64 {
        self.loads.get()
    }

    fn word(&self, at: u64) -> u64 {
        self.loads.set(self.loads.get() + 1);
        self.words.load(at)
    }
}

impl PhysRead for LoomRam {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        for (at, chunk) in (gpa.get()..).step_by(8).zip(dst.chunks_mut(8)) {
            let bytes = self.word(at).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.loads.set(self.loads.get() + 1);
        u32::try_from(self.words.narrow(gpa.get())).map_err(|_| PhysError::new(gpa, PhysErrorKind::Misaligned))
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        Ok(self.word(gpa.get()))
    }

    fn fence_acquire(&self) {
        let number = self.fences.get();
        self.fences.set(number + 1);
        let dropped = match self.fault {
            ReaderFault::None => false,
            ReaderFault::Fences { drop, every } => drop >> (number % every) & 1 == 1,
        };
        if !dropped {
            fence(Ordering::Acquire);
        }
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        let start = self.words.pages.range(from.get()..).next();
        Ok(start.map(|start| Extent { start: Gpa::new(*start), len: 0x1000 }))
    }
}

/// A defect that is built into the writer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterFault {
    /// None.
    None,
    /// Release fences after the odd number are left out.
    NoFence,
    /// Release stores are relaxed.
    RelaxedRelease,
    /// The release store of this offset alone is relaxed.
    RelaxedAt(u64),
    /// Sequence numbers are never odd: only the last store of a write is made.
    NeverOdd,
}

/// What the producer writes.
#[derive(Debug)]
pub struct LoomWrite {
    words: Arc<Words>,
    fault: WriterFault,
    stores: Counter<u64>,
}

impl LoomWrite {
    /// The same memory with a defect.
    #[must_use]
    pub fn with(mut self, fault: WriterFault) -> Self {
        self.fault = fault;
        self
    }

    /// Maps the producer page elsewhere, as a kernel does that moves a page: the entry first, and only then may the old
    /// frame get other contents, which `then` stores at `offset` of the old page.
    pub fn move_page_and_reuse(&self, offset: u64, then: u64) {
        self.unmap_and_reuse(PAGE_TABLE + (BASE.get() >> 12 & 511) * 8, offset, then);
    }

    /// The same for the page of `slot`: its first word then holds `then`, which is no pixels of the region's.
    pub fn move_slot_and_reuse(&self, slot: u64, then: u64) {
        self.unmap_and_reuse(SLOT_TABLES + slot * 0x1000, abi::RING_OFFSET + slot * abi::SLOT_STRIDE, then);
    }

    fn unmap_and_reuse(&self, at: u64, offset: u64, then: u64) {
        if let Some(Word::Wide(entry)) = self.words.words.get(&at) {
            entry.store(0, Ordering::Relaxed);
        }
        self.fence_release();
        if let Some(Word::Wide(word)) = self.words.words.get(&place(offset)) {
            word.store(then, Ordering::Relaxed);
        }
    }

    fn is_seq(offset: u64) -> bool {
        matches!(offset, producer::CURSOR_SEQ | producer::GEOM_SEQ)
            || (producer::SEQ..producer::SEQ + 4 * u64::from(abi::SLOT_COUNT)).contains(&offset)
    }

    fn release(&self, offset: u64) {
        let relaxed = match self.fault {
            WriterFault::RelaxedRelease => true,
            WriterFault::RelaxedAt(at) => at == offset,
            WriterFault::None | WriterFault::NoFence | WriterFault::NeverOdd => false,
        };
        if !relaxed {
            fence(Ordering::Release);
        }
    }
}

impl RegionWrite for LoomWrite {
    fn store_u32(&self, offset: u64, value: u32) {
        self.stores.set(self.stores.get() + 1);
        if self.fault == WriterFault::NeverOdd && Self::is_seq(offset) && value % 2 == 1 {
            return;
        }
        if let Some(Word::Narrow(word)) = self.words.words.get(&place(offset)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.stores.set(self.stores.get() + 1);
        if let Some(Word::Wide(word)) = self.words.words.get(&place(offset)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn fence_release(&self) {
        if self.fault != WriterFault::NoFence {
            fence(Ordering::Release);
        }
    }

    fn store_release_u32(&self, offset: u64, value: u32) {
        self.release(offset);
        self.store_u32(offset, value);
    }

    fn store_release_u64(&self, offset: u64, value: u64) {
        self.release(offset);
        self.store_u64(offset, value);
    }
}
