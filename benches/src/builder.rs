//! What a guest is built of: page tables, producer pages, frames in no order.

use vgpu_perception::paging::Pte;
use vgpu_perception_producer::{FrameMeta, Producer, RegionWrite};

use crate::writer::Writer;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const USER_RW: u64 = Pte::PRESENT | Pte::WRITABLE | Pte::USER;

/// Tables and pages of a guest, written as a guest writes them.
pub(crate) struct Builder {
    pub(crate) writer: Writer,
    pub(crate) seed: u64,
    /// Free frames for tables, in no order.
    pub(crate) tables: Vec<u64>,
    /// The upper entries that every root has.
    pub(crate) kernel: Vec<(u64, u64)>,
}

impl Builder {
    pub(crate) fn zeroed(&mut self) -> u64 {
        let frame = self.tables.pop().expect("a frame for a table");
        for at in (frame..frame + PAGE).step_by(8) {
            self.writer.store_u64(at, 0);
        }
        frame
    }

    pub(crate) fn space(&mut self) -> u64 {
        let root = self.zeroed();
        for (index, entry) in &self.kernel {
            self.writer.store_u64(root + index * 8, *entry);
        }
        root
    }

    pub(crate) fn map(&mut self, root: u64, gva: u64, gpa: u64, entry: u64, large: bool) {
        let mut table = root;
        for shift in if large { vec![39, 30] } else { vec![39, 30, 21] } {
            let at = table + ((gva >> shift) & 511) * 8;
            let mut below = self.writer.load_u64(at);
            if below & Pte::PRESENT == 0 {
                below = self.zeroed() | USER_RW;
                self.writer.store_u64(at, below);
            }
            table = below & Pte::ADDRESS;
        }
        let (shift, size) = if large { (21, Pte::PAGE) } else { (12, 0) };
        self.writer.store_u64(table + ((gva >> shift) & 511) * 8, gpa | entry | size);
    }

    /// One frame, in slot 0; the pixels stay as they are.
    pub(crate) fn publish(&mut self, page: u64, control: u64, meta: FrameMeta) {
        let mut producer = Producer::new(Pages { writer: &self.writer, page, control });
        for _ in 0..3 {
            producer.begin_publish(&meta).expect("a frame that fits").finish();
            if self.writer.load_u64(page).trailing_zeros() >= 32 {
                break;
            }
        }
        producer.beat();
        assert_eq!(self.writer.load_u64(page) as u32, 0, "the frame is in slot 0");
    }
}

/// The first two pages of a region, for the reference producer.
pub(crate) struct Pages<'w> {
    pub(crate) writer: &'w Writer,
    pub(crate) page: u64,
    pub(crate) control: u64,
}

impl Pages<'_> {
    fn at(&self, offset: u64) -> u64 {
        assert!(offset < 2 * PAGE, "the pixels are not written here");
        if offset < PAGE { self.page + offset } else { self.control + offset - PAGE }
    }
}

impl RegionWrite for Pages<'_> {
    fn store_u32(&self, offset: u64, value: u32) {
        self.writer.store_u32(self.at(offset), value);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.writer.store_u64(self.at(offset), value);
    }
}

/// Puts items into an order that is always the same and none.
pub(crate) fn shuffle<T>(seed: &mut u64, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(seed, last as u64 + 1) as usize);
    }
}

/// A number below `limit`, from a generator that always gives the same ones.
pub(crate) fn below(seed: &mut u64, limit: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    ((u128::from(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(limit)) >> 64) as u64
}
