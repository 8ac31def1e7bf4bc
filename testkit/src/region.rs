//! Regions in guest RAM, built from values: honest ones and ones that lie in any field.
//!
//! A region that lives, with seqlocks at work, is written by the reference producer; this module lays out still pictures.

use core::mem::offset_of;

use vgpu_perception::abi::{self, producer};
use vgpu_perception::{Extent, Gpa, Gva, PhysRead};
use zerocopy::IntoBytes;

use crate::builder::{GuestBuilder, MappedPage, Space};
use crate::flags;
use crate::frames::Placement;
use crate::ram::Ram;

/// A field of the producer page or the control page, so that a test can make it lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the ABI.
    pub name: &'static str,
    /// Its offset in the region.
    pub offset: u64,
    /// Its size in bytes, 4 or 8.
    pub size: u64,
}

macro_rules! fields {
    ($($name:ident = $offset:expr, $size:expr;)+) => {
        impl Field {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                pub const $name: Self = Self { name: stringify!($name), offset: $offset, size: $size };
            )+
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

const fn desc(slot: u64, field: usize) -> u64 {
    producer::DESC + producer::DESC_BYTES * slot + field as u64
}

const fn cursor(field: usize) -> u64 {
    producer::CURSOR + field as u64
}

const fn geometry(field: usize) -> u64 {
    producer::GEOMETRY + field as u64
}

const fn status(field: usize) -> u64 {
    producer::STATUS + field as u64
}

const fn control(field: usize) -> u64 {
    abi::CONTROL_OFFSET + field as u64
}

fields! {
    LATEST = producer::LATEST, 4;
    SEQ_0 = producer::SEQ, 4;
    SEQ_1 = producer::SEQ + 4, 4;
    SEQ_2 = producer::SEQ + 8, 4;
    FRAME_ID = producer::FRAME_ID, 8;
    DESC_0_WIDTH = desc(0, offset_of!(abi::Desc, width)), 4;
    DESC_0_HEIGHT = desc(0, offset_of!(abi::Desc, height)), 4;
    DESC_0_STRIDE = desc(0, offset_of!(abi::Desc, stride)), 4;
    DESC_0_FORMAT = desc(0, offset_of!(abi::Desc, format)), 4;
    DESC_0_FRAME_ID = desc(0, offset_of!(abi::Desc, frame_id)), 8;
    DESC_0_TIMESTAMP_NS = desc(0, offset_of!(abi::Desc, timestamp_ns)), 8;
    DESC_1_WIDTH = desc(1, offset_of!(abi::Desc, width)), 4;
    DESC_1_HEIGHT = desc(1, offset_of!(abi::Desc, height)), 4;
    DESC_1_STRIDE = desc(1, offset_of!(abi::Desc, stride)), 4;
    DESC_1_FORMAT = desc(1, offset_of!(abi::Desc, format)), 4;
    DESC_1_FRAME_ID = desc(1, offset_of!(abi::Desc, frame_id)), 8;
    DESC_1_TIMESTAMP_NS = desc(1, offset_of!(abi::Desc, timestamp_ns)), 8;
    DESC_2_WIDTH = desc(2, offset_of!(abi::Desc, width)), 4;
    DESC_2_HEIGHT = desc(2, offset_of!(abi::Desc, height)), 4;
    DESC_2_STRIDE = desc(2, offset_of!(abi::Desc, stride)), 4;
    DESC_2_FORMAT = desc(2, offset_of!(abi::Desc, format)), 4;
    DESC_2_FRAME_ID = desc(2, offset_of!(abi::Desc, frame_id)), 8;
    DESC_2_TIMESTAMP_NS = desc(2, offset_of!(abi::Desc, timestamp_ns)), 8;
    CURSOR_SEQ = producer::CURSOR_SEQ, 4;
    CURSOR_VISIBLE = cursor(offset_of!(abi::Cursor, visible)), 4;
    CURSOR_POS = cursor(offset_of!(abi::Cursor, pos)), 8;
    CURSOR_HOTSPOT = cursor(offset_of!(abi::Cursor, hotspot)), 4;
    CURSOR_GLYPH = cursor(offset_of!(abi::Cursor, glyph)), 4;
    CURSOR_ID = cursor(offset_of!(abi::Cursor, id)), 4;
    GEOM_SEQ = producer::GEOM_SEQ, 4;
    VIRT_X = geometry(offset_of!(abi::Geometry, virt_x)), 4;
    VIRT_Y = geometry(offset_of!(abi::Geometry, virt_y)), 4;
    VIRT_W = geometry(offset_of!(abi::Geometry, virt_w)), 4;
    VIRT_H = geometry(offset_of!(abi::Geometry, virt_h)), 4;
    CAP_X = geometry(offset_of!(abi::Geometry, cap_x)), 4;
    CAP_Y = geometry(offset_of!(abi::Geometry, cap_y)), 4;
    DPI = geometry(offset_of!(abi::Geometry, dpi)), 4;
    REFRESH_MHZ = geometry(offset_of!(abi::Geometry, refresh_mhz)), 4;
    HEARTBEAT = producer::HEARTBEAT, 8;
    CONTENT_CHANGE_NS = status(offset_of!(abi::Status, content_change_ns)), 8;
    RUN_EPOCH = producer::RUN_EPOCH, 4;
    STATUS = status(offset_of!(abi::Status, status)), 4;
    BACKEND = status(offset_of!(abi::Status, backend)), 4;
    ERROR_CODE = status(offset_of!(abi::Status, error_code)), 4;
    APPLIED_FPS = status(offset_of!(abi::Status, applied_fps)), 4;
    SUPPORTED_FORMATS = status(offset_of!(abi::Status, supported_formats)), 4;
    CTRL_ACK = status(offset_of!(abi::Status, ctrl_ack)), 4;
    FULL_FRAME_ACK = status(offset_of!(abi::Status, full_frame_ack)), 4;
    CTRL_GEN = control(offset_of!(abi::Control, ctrl_gen)), 4;
    DESIRED_STATE = control(offset_of!(abi::Control, desired_state)), 4;
    TARGET_FPS = control(offset_of!(abi::Control, target_fps)), 4;
    DRAW_CURSOR = control(offset_of!(abi::Control, draw_cursor)), 4;
    FULL_FRAME_REQ = control(offset_of!(abi::Control, full_frame_req)), 4;
    ATTACHED = control(offset_of!(abi::Control, attached)), 4;
    CONSUMER_TICK = control(offset_of!(abi::Control, consumer_tick)), 8;
}

/// What a still picture of a region shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionImage {
    /// Pixels a row of each frame.
    pub width: u32,
    /// Rows of each frame.
    pub height: u32,
    /// How many frames were published; 0: none yet.
    pub frames: u64,
    /// The heartbeat.
    pub heartbeat: u64,
    /// The run epoch.
    pub run_epoch: u32,
}

impl Default for RegionImage {
    fn default() -> Self {
        Self { width: 64, height: 48, frames: 5, heartbeat: 1000, run_epoch: 1 }
    }
}

impl RegionImage {
    /// The slot that frame `frame_id` (from 1) is in.
    #[must_use]
    pub const fn slot_of(frame_id: u64) -> u64 {
        (frame_id - 1) % abi::SLOT_COUNT as u64
    }

    /// The frames that are still in the ring.
    pub fn frames_in_ring(&self) -> impl Iterator<Item = u64> + use<> {
        self.frames.saturating_sub(2).max(1)..=self.frames
    }

    /// The pixels of frame `frame_id`, as they lie in the ring: no two frames share a pixel.
    #[must_use]
    pub fn pixels(&self, frame_id: u64) -> Vec<u8> {
        let count = u64::from(self.width) * u64::from(self.height);
        (0..count)
            .flat_map(|n| (frame_id.wrapping_mul(0x0100_0193) ^ n.wrapping_mul(3)).to_le_bytes()[..4].to_vec())
            .collect()
    }

    /// The producer page.
    ///
    /// # Panics
    /// Where the frame's size or count overflows its field.
    #[must_use]
    pub fn producer_page(&self) -> abi::ProducerPage {
        let mut page: abi::ProducerPage = zerocopy::FromZeros::new_zeroed();
        page.heads.latest = abi::LATEST_NONE.into();
        page.heads.frame_id = self.frames.into();
        for frame_id in self.frames_in_ring() {
            let slot = usize::try_from(Self::slot_of(frame_id)).expect("a slot number fits");
            let writes = u32::try_from(frame_id.div_ceil(3)).expect("the frame count is a small one");
            page.heads.latest = u32::try_from(slot).expect("a slot number fits").into();
            page.heads.seq[slot] = (writes * 2).into();
            page.heads.desc[slot] = abi::Desc {
                width: self.width.into(),
                height: self.height.into(),
                stride: (self.width * abi::BYTES_PER_PIXEL).into(),
                format: abi::Format::BGRA8888.0.into(),
                frame_id: frame_id.into(),
                timestamp_ns: (frame_id * 16_666_667).into(),
            };
        }
        page.cursor.seq = 4.into();
        page.cursor.visible = 1.into();
        page.cursor.pos = (u64::from(17_u32) | u64::from((-5_i32).cast_unsigned()) << 32).into();
        page.cursor.hotspot = (2 | 3 << 16).into();
        page.cursor.glyph = (32 | 32 << 16).into();
        page.cursor.id = abi::CursorId::ARROW.0.into();
        page.geometry.seq = 2.into();
        page.geometry.virt_w = self.width.into();
        page.geometry.virt_h = self.height.into();
        page.geometry.dpi = 96.into();
        page.geometry.refresh_mhz = 60_000.into();
        page.status.heartbeat = self.heartbeat.into();
        page.status.content_change_ns = (self.frames * 16_666_667).into();
        page.status.run_epoch = self.run_epoch.into();
        page.status.status = abi::State::CAPTURING.0.into();
        page.status.backend = abi::Backend::DDA.0.into();
        page.status.applied_fps = 60.into();
        page.status.supported_formats = 1.into();
        page
    }

    /// The control block.
    #[must_use]
    pub fn control(&self) -> abi::Control {
        abi::Control { ctrl_gen: 2.into(), desired_state: abi::Command::RUN.0.into(), ..abi::Control::default() }
    }
}

/// Which pages of the ring the producer has touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// None: only the producer page and the control page are mapped.
    Absent,
    /// Those that hold the image's frames.
    Written,
    /// All, and everything between the control page and the ring too.
    All,
}

/// A region in a process.
#[derive(Clone, Debug)]
pub struct Region {
    /// The process.
    pub space: Space,
    /// The region's first address there.
    pub base: Gva,
    /// What it shows.
    pub image: RegionImage,
    /// The pages of the region that are mapped, ascending.
    pub pages: Vec<MappedPage>,
}

impl Region {
    /// Makes a region in new memory of a process.
    ///
    /// Frames are written wherever their pages are mapped. With [`Placement::Contiguous`], or large pages, the pages of a
    /// ring that is not [`Ring::All`] leave gaps in physical memory as in virtual.
    ///
    /// # Panics
    /// Where `base` is not a multiple of the page size, a page is mapped there already, or the RAM is too full.
    pub fn place(
        guest: &mut GuestBuilder,
        space: Space,
        base: Gva,
        image: RegionImage,
        placement: Placement,
        ring: Ring,
    ) -> Self {
        let size = placement.page_size();
        let pieces = guest.frames.place(abi::REGION_BYTES.next_multiple_of(size.bytes()), placement);
        let mut region = Self { space, base, image, pages: Vec::new() };
        for (skip, gpa) in each_page(&pieces, size.bytes()) {
            if region.wants(ring, skip, size.bytes()) {
                region.pages.push(guest.map(space, base.wrapping_add(skip), gpa, size, flags::USER_RW));
            }
        }
        region.fill(&guest.ram);
        region
    }

    pub(crate) fn wants(&self, ring: Ring, skip: u64, len: u64) -> bool {
        let heads = skip < abi::CONTROL_OFFSET + abi::PAGE;
        let frame_bytes = u64::from(self.image.width) * u64::from(self.image.height) * u64::from(abi::BYTES_PER_PIXEL);
        let written = self.image.frames_in_ring().any(|frame_id| {
            let start = ring_offset(frame_id);
            skip < start + frame_bytes && start < skip + len
        });
        heads || ring == Ring::All || (ring == Ring::Written && written)
    }

    pub(crate) fn fill(&self, ram: &Ram) {
        self.write(ram, abi::PRODUCER_OFFSET, self.image.producer_page().as_bytes());
        self.write(ram, abi::CONTROL_OFFSET, self.image.control().as_bytes());
        for frame_id in self.image.frames_in_ring() {
            self.write(ram, ring_offset(frame_id), &self.image.pixels(frame_id));
        }
    }

    fn write(&self, ram: &Ram, offset: u64, bytes: &[u8]) {
        for (n, chunk) in bytes.chunks(4096).enumerate() {
            if let Some(gpa) = self.gpa(offset + 4096 * n as u64) {
                ram.write_u8s(gpa, chunk);
            }
        }
    }

    /// Where byte `offset` of the region lies; `None` where its page is not mapped.
    #[must_use]
    pub fn gpa(&self, offset: u64) -> Option<Gpa> {
        let gva = self.base.wrapping_add(offset);
        let after = self.pages.partition_point(|page| page.gva <= gva);
        let page = self.pages.get(after.checked_sub(1)?)?;
        let skip = gva.get() - page.gva.get();
        (skip < page.size.bytes()).then(|| page.gpa.wrapping_add(skip))
    }

    /// Sets a field to any value, cut to its size.
    ///
    /// # Panics
    /// Where the field's page is not mapped.
    pub fn set(&self, ram: &Ram, field: Field, value: u64) {
        let gpa = self.gpa(field.offset).expect("the field's page is mapped");
        if field.size == 8 {
            ram.write_u64(gpa, value);
        } else {
            ram.write_u32(gpa, u32::try_from(value & 0xffff_ffff).expect("32 bits fit"));
        }
    }

    /// Reads a field.
    ///
    /// # Panics
    /// Where the field's page is not mapped.
    #[must_use]
    pub fn get(&self, ram: &Ram, field: Field) -> u64 {
        let gpa = self.gpa(field.offset).expect("the field's page is mapped");
        let value = if field.size == 8 { ram.load_u64(gpa) } else { ram.load_u32(gpa).map(u64::from) };
        value.expect("the field is in RAM")
    }

    /// Adds one to the heartbeat, as a producer that lives.
    pub fn tick(&self, ram: &Ram) {
        self.set(ram, Field::HEARTBEAT, self.get(ram, Field::HEARTBEAT).wrapping_add(1));
    }

    /// Maps the same memory in another process, with entry flags of its own.
    pub fn alias(&self, guest: &mut GuestBuilder, space: Space, base: Gva, entry_flags: u64) -> Self {
        let map = |page: &MappedPage| {
            let skip = page.gva.get() - self.base.get();
            guest.map(space, base.wrapping_add(skip), page.gpa, page.size, entry_flags)
        };
        Self { space, base, image: self.image, pages: self.pages.iter().map(map).collect() }
    }
}

const fn ring_offset(frame_id: u64) -> u64 {
    abi::RING_OFFSET + abi::SLOT_STRIDE * RegionImage::slot_of(frame_id)
}

fn each_page(pieces: &[Extent], size: u64) -> impl Iterator<Item = (u64, Gpa)> + '_ {
    let pages =
        pieces.iter().flat_map(move |piece| (0..piece.len / size).map(move |n| piece.start.wrapping_add(n * size)));
    pages.enumerate().map(move |(n, gpa)| (n as u64 * size, gpa))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;

    #[test]
    fn a_region_reads_back_through_its_tables() {
        for placement in [Placement::Scattered, Placement::Fragments64K, Placement::Contiguous, Placement::Large2M] {
            let mut guest = GuestBuilder::new(Ram::flat(1 << 30), 5);
            let space = guest.new_space();
            let base = Gva::new(0x7f12_3460_0000);
            let image = RegionImage { width: 200, height: 90, ..RegionImage::default() };
            let region = Region::place(&mut guest, space, base, image, placement, Ring::Written);
            for frame_id in image.frames_in_ring() {
                let pixels = image.pixels(frame_id);
                for offset in [0, 4096, pixels.len() - 8] {
                    let gva = base.get() + ring_offset(frame_id) + offset as u64;
                    let found = naive::translate(&guest.ram, space.naive(), gva).unwrap();
                    assert_eq!(guest.ram.bytes(Gpa::new(found.gpa), 8), pixels[offset..offset + 8]);
                }
            }
            assert_eq!(region.get(&guest.ram, Field::LATEST), 1);
            assert_eq!(region.get(&guest.ram, Field::FRAME_ID), 5);
            let pages = naive::user_leaves(&guest.ram, space.naive(), usize::MAX);
            assert_eq!(pages.len(), region.pages.len());
            assert!(pages.iter().all(|page| page.user && page.writable));
        }
    }

    #[test]
    fn ring_pages_may_be_absent_and_fields_may_lie() {
        let mut guest = GuestBuilder::new(Ram::flat(1 << 30), 6);
        let space = guest.new_space();
        let none = RegionImage { frames: 0, ..RegionImage::default() };
        let region = Region::place(&mut guest, space, Gva::new(0x1000_0000), none, Placement::Scattered, Ring::Absent);
        assert_eq!(region.pages.len(), 2);
        assert_eq!(region.get(&guest.ram, Field::LATEST), u64::from(abi::LATEST_NONE));
        for field in Field::ALL {
            region.set(&guest.ram, *field, 0x0123_4567_89ab_cdef);
            let kept = if field.size == 8 { 0x0123_4567_89ab_cdef } else { 0x89ab_cdef };
            assert_eq!(region.get(&guest.ram, *field), kept, "{}", field.name);
        }
        let other = guest.new_space();
        let alias = region.alias(&mut guest, other, Gva::new(0x2000_0000), flags::P | flags::W | flags::NX);
        assert_eq!(alias.get(&guest.ram, Field::RUN_EPOCH), 0x89ab_cdef);
        assert!(!naive::translate(&guest.ram, other.naive(), 0x2000_0000).unwrap().user);
    }
}
