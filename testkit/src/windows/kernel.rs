//! The kernel half that all processes share: its top table with the self-reference, pools, the shared data page.

use vgpu_perception::{Gpa, Gva, PAGE_BYTES, PageSize, PagingMode, PhysRead};

use crate::builder::{GuestBuilder, Space};
use crate::flags;
use crate::frames::Placement;
use crate::rng::Rng;

use super::layout::Layout;

/// A page of the kernel, as Windows marks it.
pub(super) const KERNEL_PAGE: u64 = flags::P | flags::W | flags::A | flags::D | flags::G | flags::NX;
/// Where the kernel maps the page that it shares with user mode.
pub const SHARED_DATA: Gva = Gva::new(0xffff_f780_0000_0000);
/// Where user mode sees the same page.
pub(super) const SHARED_DATA_USER: Gva = Gva::new(0x7ffe_0000);

/// Kernel memory that is handed out piece by piece, each page at a frame of its own.
#[derive(Clone, Debug)]
pub struct Pool {
    space: Space,
    next: u64,
    mapped: u64,
}

impl Pool {
    const fn new(space: Space, base: Gva) -> Self {
        Self { space, next: base.get(), mapped: base.get() }
    }

    /// `len` bytes at a multiple of `align`.
    pub fn take(&mut self, guest: &mut GuestBuilder, len: u64, align: u64) -> Gva {
        let start = self.next.next_multiple_of(align);
        self.next = start + len;
        while self.mapped < self.next {
            let at = Gva::new(self.mapped);
            guest.map_new(self.space, at, PAGE_BYTES, Placement::Scattered, KERNEL_PAGE);
            self.mapped += PAGE_BYTES;
        }
        Gva::new(start)
    }
}

/// The kernel's own address space.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The System process's tables.
    pub space: Space,
    /// Which entry of each top table names the table itself.
    pub self_map: u64,
    /// Where process objects and address descriptors lie.
    pub nonpaged: Pool,
    /// Where prototypes lie.
    pub paged: Pool,
    /// Where driver images may be put.
    pub drivers: Gva,
    /// The page shared with user mode.
    pub shared_data: Gpa,
}

impl Kernel {
    /// Lays out the kernel half at `root`.
    ///
    /// # Panics
    /// Where the frame at `root` is taken.
    pub fn build(guest: &mut GuestBuilder, layout: &Layout, root: Gpa, rng: &mut Rng) -> Self {
        guest.frames.reserve(root, PAGE_BYTES);
        guest.ram.touch(root, PAGE_BYTES);
        let space = Space { root, mode: guest.mode };
        let five = guest.mode == PagingMode::FiveLevel;
        // The top entry of each range; nothing is in more than one.
        let tops: [u64; 10] = match (five, layout.build < 9200) {
            (true, _) => [0x191, 0x195, 0x19a, 0x1a3, 0x1b0, 0x1b7, 0x1c4, 0x1d8, 0x1e1, 0x1f0],
            (false, true) => [0x1f5, 0x1f1, 0x1f3, 0x1f2, 0x1f4, 0x1f6, 0x1f7, 0x1f8, 0x1f9, 0x1ff],
            (false, false) => [0x15a, 0x182, 0x10a, 0x1a9, 0x1b3, 0x1c7, 0x1d2, 0x1e4, 0x1f2, 0x1ff],
        };
        let base_of = |top: u64| {
            let (shift, sign) = if five { (48, 0xfe00_0000_0000_0000) } else { (39, 0xffff_0000_0000_0000) };
            Gva::new(sign | top << shift)
        };
        let inside = |rng: &mut Rng| rng.below(1 << 8) << 30 | rng.below(1 << 9) << 21;
        let nonpaged = Pool::new(space, base_of(tops[0]).wrapping_add(inside(rng)));
        // A pointer to a prototype has 48 bits: with 57-bit addresses the paged pool has to be in the part that they
        // reach.
        let paged = if five { Gva::new(0xffff_c180_0000_0000) } else { base_of(tops[1]) };
        let paged = Pool::new(space, paged.wrapping_add(inside(rng)));
        for top in &tops[2..] {
            let at = base_of(*top).wrapping_add(inside(rng));
            guest.map_new(space, at, 4 * PAGE_BYTES, Placement::Scattered, KERNEL_PAGE);
        }
        let drivers = base_of(tops[2]).wrapping_add(0x30_0000_0000 & !0xfff);
        let shared_data = guest.frames.frame();
        guest.map(space, SHARED_DATA, shared_data, PageSize::Size4K, KERNEL_PAGE);
        write_shared_data(guest, layout, shared_data);
        let self_map = self_map_index(layout, &tops, five, rng);
        let mut kernel = Self { space, self_map, nonpaged, paged, drivers, shared_data };
        kernel.nonpaged.take(guest, 64, 16);
        kernel.paged.take(guest, 64, 16);
        // Software bits that a reader has to mask.
        let slot = root.wrapping_add(8 * tops[2]);
        let entry = guest.ram.load_u64(slot).expect("the root is in RAM");
        guest.ram.write_u64(slot, entry | 0x0a00_0000_0000_0800);
        kernel.refer_to_itself(guest, space, layout);
        kernel
    }

    /// Sets the entry of a top table that names the table itself.
    fn refer_to_itself(&self, guest: &GuestBuilder, space: Space, layout: &Layout) {
        let nx = if layout.fixed_self_map { 0 } else { flags::NX };
        let entry = space.root.get() | flags::KERNEL_TABLE | nx;
        guest.ram.write_u64(space.root.wrapping_add(8 * self.self_map), entry);
    }

    /// A process's tables: an empty user half under the kernel's upper half.
    pub fn new_root(&self, guest: &mut GuestBuilder, layout: &Layout) -> Space {
        let space = guest.new_space();
        for slot in 256..512 {
            let entry = guest.ram.load_u64(self.space.root.wrapping_add(8 * slot)).expect("the root is in RAM");
            guest.ram.write_u64(space.root.wrapping_add(8 * slot), entry);
        }
        self.refer_to_itself(guest, space, layout);
        space
    }

    /// The tables that user mode runs on under page table isolation: nearly no kernel half. Call it when the user half
    /// of `of` is complete; `of` `None` makes the one of the System process, which has no user half at all.
    pub fn new_user_root(
        &self,
        guest: &mut GuestBuilder,
        layout: &Layout,
        of: Option<Space>,
        entry_code: Gva,
    ) -> Space {
        let user = guest.new_space();
        if let Some(of) = of {
            for slot in 0..256 {
                let entry = guest.ram.load_u64(of.root.wrapping_add(8 * slot)).expect("the root is in RAM");
                guest.ram.write_u64(user.root.wrapping_add(8 * slot), entry);
            }
        }
        let code = guest.gpa(self.space, entry_code);
        guest.map(user, entry_code, code, PageSize::Size4K, flags::KERNEL_RX);
        self.refer_to_itself(guest, user, layout);
        user
    }
}

fn self_map_index(layout: &Layout, taken: &[u64], five: bool, rng: &mut Rng) -> u64 {
    if layout.fixed_self_map && !five {
        return 0x1ed;
    }
    loop {
        let index = rng.between(0x100, 0x1ef);
        if !taken.contains(&index) {
            return index;
        }
    }
}

/// `KUSER_SHARED_DATA`, as far as readers look at it.
fn write_shared_data(guest: &GuestBuilder, layout: &Layout, page: Gpa) {
    for at in (0..0x30).step_by(8) {
        guest.ram.write_u64(page.wrapping_add(at), 0x0fa0_0000_0001_d7a0 + at * 77);
    }
    let root: Vec<u8> = "C:\\Windows".encode_utf16().flat_map(u16::to_le_bytes).collect();
    guest.ram.write_u8s(page.wrapping_add(0x30), &root);
    if layout.shares_build() {
        guest.ram.write_u32(page.wrapping_add(0x260), layout.build);
    }
    guest.ram.write_u32(page.wrapping_add(0x264), if layout.name.contains("Server") { 3 } else { 1 });
    guest.ram.write_u32(page.wrapping_add(0x26c), layout.major);
    guest.ram.write_u32(page.wrapping_add(0x270), layout.minor);
}
