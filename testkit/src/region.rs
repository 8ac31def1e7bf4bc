//! Regions in guest RAM: written by the reference producer, and then made to lie in any field.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use vgpu_perception::abi::{self, producer};
use vgpu_perception::{Extent, Gpa, Gva, PhysRead};
use vgpu_perception_producer::{
    CursorState, FrameMeta, GeometryState, Lifecycle, Producer, RegionWrite, Start, pattern,
};

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

    /// The pixels of frame `frame_id`, as they lie in the ring: the producer's test picture.
    #[must_use]
    pub fn pixels(&self, frame_id: u64) -> Vec<u8> {
        let row = usize::try_from(self.width * abi::BYTES_PER_PIXEL).expect("a row fits");
        let mut pixels = vec![0; row * usize::try_from(self.height).expect("a height fits")];
        for (y, row) in (0..).zip(pixels.chunks_exact_mut(row)) {
            pattern::fill_row(frame_id, self.width, self.height, y, row);
        }
        pixels
    }

    /// When frame `frame_id` was captured, on the guest's clock.
    #[must_use]
    pub const fn timestamp_ns(frame_id: u64) -> u64 {
        frame_id * 16_666_667
    }

    /// The cursor that the image shows.
    #[must_use]
    pub const fn cursor() -> CursorState {
        CursorState {
            visible: true,
            x: 17,
            y: -5,
            hot_x: 2,
            hot_y: 3,
            glyph_w: 32,
            glyph_h: 32,
            id: abi::CursorId::ARROW,
        }
    }

    /// The geometry that the image shows.
    #[must_use]
    pub const fn geometry(&self) -> GeometryState {
        GeometryState {
            virt_x: 0,
            virt_y: 0,
            virt_w: self.width,
            virt_h: self.height,
            cap_x: 0,
            cap_y: 0,
            dpi: 96,
            refresh_mhz: 60_000,
        }
    }

    /// Writes the image; the producer that is handed back can go on from there.
    ///
    /// # Panics
    /// Where the frames are of a size that cannot be.
    pub fn write<W: RegionWrite>(&self, region: W) -> Producer<W> {
        let start = Start { run_epoch: self.run_epoch, heartbeat: self.heartbeat, ..Start::default() };
        let mut producer = Producer::start(region, start);
        producer.set_status(&Lifecycle {
            status: abi::State::CAPTURING,
            backend: abi::Backend::DDA,
            error_code: 0,
            applied_fps: 60,
        });
        producer.set_geometry(&self.geometry());
        // Twice, so that its number is not the geometry's.
        producer.set_cursor(&CursorState { visible: false, ..Self::cursor() });
        producer.set_cursor(&Self::cursor());
        for frame_id in 1..=self.frames {
            let meta = FrameMeta { width: self.width, height: self.height, timestamp_ns: Self::timestamp_ns(frame_id) };
            producer.publish(&meta, &self.pixels(frame_id)).expect("the image's size can be");
        }
        producer
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
    /// Frames are written wherever their pages are mapped. With [`Placement::Contiguous`], or large pages, the pages of
    /// a ring that is not [`Ring::All`] leave gaps in physical memory as in virtual.
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

    /// Writes the image to the pages that there are.
    pub(crate) fn fill(&self, ram: &Ram) {
        self.image.write(RegionInRam { ram, region: self, strict: false });
    }

    /// The region as its producer writes it, from any thread: for `Producer::start`, or for [`RegionImage::write`].
    #[must_use]
    pub const fn writer<'r>(&'r self, ram: &'r Ram) -> RegionInRam<'r> {
        RegionInRam { ram, region: self, strict: true }
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

/// A region inside guest RAM, for its writer: offsets are translated to wherever the pages are.
///
/// Storing to a page that is not mapped panics: the guest's kernel would make one, this one does not.
#[derive(Clone, Copy, Debug)]
pub struct RegionInRam<'r> {
    ram: &'r Ram,
    region: &'r Region,
    /// Stores to pages that are not there are errors, not lost.
    strict: bool,
}

impl RegionInRam<'_> {
    fn gpa(&self, offset: u64) -> Option<Gpa> {
        let gpa = self.region.gpa(offset);
        assert!(gpa.is_some() || !self.strict, "offset {offset:#x} of the region is not mapped");
        gpa
    }
}

impl RegionWrite for RegionInRam<'_> {
    fn store_u32(&self, offset: u64, value: u32) {
        if let Some(gpa) = self.gpa(offset) {
            self.ram.store_u32(gpa, value, Ordering::Relaxed);
        }
    }

    fn store_u64(&self, offset: u64, value: u64) {
        if let Some(gpa) = self.gpa(offset) {
            self.ram.store_u64(gpa, value, Ordering::Relaxed);
        }
    }

    fn store_bytes(&self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let in_page = usize::try_from(4096 - at % 4096).expect("less than a page fits");
            let (head, tail) = rest.split_at(rest.len().min(in_page));
            if let Some(gpa) = self.gpa(at) {
                self.ram.store_u8s(gpa, head, Ordering::Relaxed);
            }
            at += head.len() as u64;
            rest = tail;
        }
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
    fn a_producer_lives_in_guest_ram() {
        let mut guest = GuestBuilder::new(Ram::flat(1 << 30), 7);
        let space = guest.new_space();
        let image = RegionImage { frames: 1, ..RegionImage::default() };
        let base = Gva::new(0x7f12_3456_7000);
        let region = Region::place(&mut guest, space, base, image, Placement::Scattered, Ring::All);
        let mut producer = image.write(region.writer(&guest.ram));
        let pixels = image.pixels(2);
        let meta = FrameMeta { width: image.width, height: image.height, timestamp_ns: 5 };
        assert_eq!(producer.publish(&meta, &pixels), Ok(2));
        producer.beat();
        assert_eq!(region.get(&guest.ram, Field::LATEST), 1);
        assert_eq!(region.get(&guest.ram, Field::HEARTBEAT), image.heartbeat + 1);
        let at = naive::translate(&guest.ram, space.naive(), base.get() + ring_offset(2)).unwrap().gpa;
        assert_eq!(guest.ram.bytes(Gpa::new(at), 64), pixels[..64]);
        let absent = Region { pages: region.pages[..2].to_vec(), ..region };
        let ram = guest.ram.clone();
        let store = move || absent.writer(&ram).store_bytes(abi::RING_OFFSET, &[1; 8]);
        assert!(std::panic::catch_unwind(core::panic::AssertUnwindSafe(store)).is_err());
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
