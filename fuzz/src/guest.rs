//! Guests from bytes: a handful of pages, some of them tables, some of them a region, all of them open to lies.

use arbitrary::{Arbitrary, Result, Unstructured};
use vgpu_perception::{AddressSpace, Cr3, Gpa, Gva, PagingMode, abi};
use vgpu_perception_producer::{Producer, RegionWrite};
use vgpu_perception_testkit::{GuestBuilder, Ram, RegionImage, Space, flags};

/// Bytes of RAM: few enough that entries often name a page that exists. The first MiB stays empty.
pub(crate) const RAM: u64 = 2 << 20;

/// One of the 256 pages above the first MiB.
pub(crate) const fn page(number: u8) -> u64 {
    (1 << 20) + ((number as u64) << 12)
}

/// As many as the rest of the bytes gives, at most `most`.
pub(crate) fn rest<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>, most: usize) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while !u.is_empty() && all.len() < most {
        all.push(u.arbitrary()?);
    }
    Ok(all)
}

/// A word that is written somewhere.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Lie {
    page: u8,
    word: u16,
    value: Value,
}

/// Values that mean something to tables and regions, and any others.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    Any(u64),
    Small(u8),
    Entry {
        page: u8,
        bits: u16,
        high: bool,
    },
    /// A page of 2 MiB or 1 GiB, its PAT bit as it comes.
    Large {
        number: u8,
        giant: bool,
        pat: bool,
        bits: u16,
    },
}

impl Value {
    fn get(self) -> u64 {
        match self {
            Self::Any(value) => value,
            Self::Small(value) => value.into(),
            Self::Entry { page, bits, high } => self::page(page) | u64::from(bits & 0xfff) | u64::from(high) << 63,
            Self::Large { number, giant, pat, bits } => {
                let frame = u64::from(number) << if giant { 30 } else { 21 };
                frame | u64::from(pat) << 12 | u64::from(bits & 0xfff) | flags::PS | flags::P
            }
        }
    }
}

impl Lie {
    pub(crate) fn tell(self, ram: &Ram) {
        ram.write_u64(self.at(), self.value.get());
    }

    pub(crate) fn at(self) -> Gpa {
        Gpa::new(page(self.page) + u64::from(self.word % 512) * 8)
    }
}

/// A guest with one address space and one region in it, both as they should be.
pub(crate) struct Small {
    pub(crate) guest: GuestBuilder,
    pub(crate) space: Space,
    pub(crate) base: Gva,
    pub(crate) producer: Producer<Writer>,
}

impl Small {
    pub(crate) fn build(u: &mut Unstructured<'_>) -> Result<Self> {
        let mode = if u.arbitrary()? { PagingMode::FiveLevel } else { PagingMode::FourLevel };
        let mut guest = GuestBuilder::new(Ram::flat(RAM), u64::from(u.arbitrary::<u8>()?)).with_mode(mode);
        let space = guest.new_space();
        // A kernel half, so that the root can be found: one table, shared with a second root.
        let kernel = guest.new_table();
        let other = guest.new_space();
        for root in [space.root, other.root] {
            guest.ram.write_u64(root.wrapping_add(511 * 8), kernel.get() | flags::KERNEL_TABLE);
        }
        guest.ram.write_u64(kernel.wrapping_add(510 * 8), 0xe3);
        let base = Gva::new(0x7000_0000_0000 + u64::from(u.arbitrary::<u16>()?) * 0x1000);
        let image = RegionImage {
            width: 16,
            height: 16,
            frames: u64::from(u.arbitrary::<u8>()? % 6),
            ..RegionImage::default()
        };
        let page = guest.new_table();
        let control = guest.new_table();
        guest.map(space, base, page, vgpu_perception::PageSize::Size4K, flags::USER_RW);
        guest.map(
            space,
            base.wrapping_add(abi::CONTROL_OFFSET),
            control,
            vgpu_perception::PageSize::Size4K,
            flags::USER_RW,
        );
        let mut slots = Vec::new();
        for slot in 0..abi::SLOT_COUNT {
            let at = base.wrapping_add(abi::slot_offset(slot).unwrap_or_default());
            let frame = guest.new_table();
            guest.map(space, at, frame, vgpu_perception::PageSize::Size4K, flags::USER_RW);
            slots.push(frame);
        }
        let slots = slots.try_into().unwrap_or_default();
        let producer = image.write(Writer { ram: guest.ram.clone(), page, control, slots });
        Ok(Self { guest, space, base, producer })
    }

    pub(crate) fn space(&self) -> AddressSpace {
        AddressSpace::new(Cr3::new(self.space.root.get())).with_mode(self.space.mode)
    }
}

/// The region's memory as its producer writes it: the first page of each part; what lies beyond is not there.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    ram: Ram,
    page: Gpa,
    control: Gpa,
    slots: [Gpa; abi::SLOT_COUNT as usize],
}

impl Writer {
    fn place(&self, offset: u64) -> Option<Gpa> {
        let (page, skip) = match offset.checked_sub(abi::RING_OFFSET) {
            None if offset < abi::CONTROL_OFFSET => (self.page, offset),
            None => (self.control, offset - abi::CONTROL_OFFSET),
            Some(at) => (*self.slots.get(usize::try_from(at / abi::SLOT_STRIDE).ok()?)?, at % abi::SLOT_STRIDE),
        };
        (skip < abi::PAGE).then(|| page.wrapping_add(skip))
    }
}

impl RegionWrite for Writer {
    fn store_u32(&self, offset: u64, value: u32) {
        if let Some(gpa) = self.place(offset) {
            self.ram.write_u32(gpa, value);
        }
    }

    fn store_u64(&self, offset: u64, value: u64) {
        if let Some(gpa) = self.place(offset) {
            self.ram.write_u64(gpa, value);
        }
    }
}
