//! A small guest.

use std::path::PathBuf;

use vgpu_perception::abi::{self, producer};
use vgpu_perception::paging::Pte;
use vgpu_perception::{AddressSpace, Cr3, Gpa, Gva, PhysRead, Region};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_producer::FrameMeta;

use crate::builder::{Builder, PAGE, USER_RW, shuffle};
use crate::writer::Writer;

/// A guest with one process, and a region in it whose frame is one page: for what needs many guests or a small one.
pub(crate) struct SmallGuest {
    pub(crate) ram: GuestRam,
    pub(crate) region: Region,
    /// Where the words lie that a poll reads: the entries on the way to the producer page, and of that page the
    /// cursor, which slot is the latest, and its number.
    #[allow(dead_code, reason = "of no use to what counts instructions")]
    pub(crate) polled: [Gpa; 10],
}

impl SmallGuest {
    /// Builds the guest number `nth`, with 1 MiB of RAM and a frame of `width` by `height` pixels in pages that lie in
    /// no order; its file has no name any more when this returns.
    pub(crate) fn build(nth: usize, width: u32, height: u32) -> Self {
        let path = PathBuf::from(format!("/dev/shm/vgpu-bench-{}-{nth}.ram", std::process::id()));
        let writer = Writer::create(&path, 1 << 20).expect("the RAM file");
        let mut builder = Builder { writer, seed: 42, tables: Vec::new(), kernel: Vec::new() };
        builder.tables = (1..256).map(|frame| frame * PAGE).collect();
        shuffle(&mut builder.seed, &mut builder.tables);
        // Systems place regions anywhere: were entries at the same place in every guest's tables, they would all want
        // the same few places in a cache.
        let (root, base) = (builder.space(), (1 << 40) + (nth as u64 * 0x1_5a73_d000) % (1 << 39));
        let (page, control) = (builder.zeroed(), builder.zeroed());
        for (offset, page) in [(0, page), (PAGE, control)] {
            builder.map(root, base + offset, page, USER_RW, false);
        }
        for offset in (0..u64::from(width * height * 4)).step_by(PAGE as usize) {
            let pixels = builder.zeroed();
            for word in (pixels..pixels + PAGE).step_by(8) {
                builder.writer.store_u64(word, word ^ (word << 21));
            }
            builder.map(root, base + abi::RING_OFFSET + offset, pixels, USER_RW, false);
        }
        builder.publish(page, control, FrameMeta { width, height, timestamp_ns: 1 });
        let mut polled = [Gpa::new(page); 10];
        let mut table = root;
        for (at, shift) in polled.iter_mut().zip([39, 30, 21, 12]) {
            *at = Gpa::new(table + ((base >> shift) & 511) * 8);
            table = builder.writer.load_u64(at.get()) & Pte::ADDRESS;
        }
        let lines = [producer::LATEST, producer::DESC + producer::DESC_FRAME_ID];
        let words = lines.into_iter().chain((producer::CURSOR..).step_by(8));
        for (at, offset) in polled[4..].iter_mut().zip(words) {
            *at = Gpa::new(page + offset);
        }
        let ram = GuestRam::open_flat(&path).expect("the RAM file maps");
        let _ = std::fs::remove_file(&path);
        let region = Region::new(AddressSpace::new(Cr3::new(root)), Gva::new(base));
        Self { ram, region, polled }
    }
}

impl SmallGuest {
    /// The lines of those words, where they lie here.
    #[allow(dead_code, reason = "of no use to what counts instructions")]
    pub(crate) fn polled_lines(&self) -> impl Iterator<Item = *const u8> {
        self.polled.iter().map(|at| self.ram.window(*at, 8).expect("mapped RAM").as_ptr())
    }
}
