//! Low memory: the processor start block, and tables that look like a process's.

use vgpu_perception::{Gpa, Gva, PAGE_BYTES, PagingMode, PhysRead};

use crate::builder::{GuestBuilder, Space};
use crate::flags;

use super::kernel::{Kernel, SHARED_DATA};

/// Where the start block of the running kernel lies.
pub(super) const START_BLOCK: Gpa = Gpa::new(0x1_3000);
/// Where a start block without a table lies, below the other.
pub(super) const EMPTY_START_BLOCK: Gpa = Gpa::new(0x8000);
/// Where the loader's table lies.
pub const LOADER_TABLE: Gpa = Gpa::new(0x15_0000);
/// Tables with a self-reference and hardly anything else.
pub(super) const DUMMY_TABLES: [Gpa; 2] = [Gpa::new(0x16_0000), Gpa::new(0x19_f000)];

/// Reserves the places of this module; before anything else is allocated.
pub(super) fn reserve(guest: &mut GuestBuilder) {
    for at in DUMMY_TABLES.into_iter().chain([LOADER_TABLE]) {
        guest.frames.reserve(at, PAGE_BYTES);
    }
}

/// Writes a start block: what the other processors run first, with the registers that they are to load.
pub(super) fn start_block(guest: &GuestBuilder, at: Gpa, code: Gva, self_map: Gva, cr3: u64) {
    let five = guest.mode == PagingMode::FiveLevel;
    let fields = [
        (0x00, 0x0000_0001_0006_5de9),
        (0x60, cr3),
        (0x70, code.get()),
        (0x78, self_map.get()),
        (0x80, 0x0007_0106_0007_0106),
        (0x88, 0xd01),
        (0x90, 0x8005_0033),
        (0x98, 0),
        (0xa0, cr3),
        (0xa8, 0x6f8 | u64::from(five) << 12),
    ];
    for (offset, value) in fields {
        guest.ram.write_u64(at.wrapping_add(offset), value);
    }
}

/// Writes the tables with few entries.
pub(super) fn dummy_tables(guest: &mut GuestBuilder, kernel: &Kernel) {
    for root in DUMMY_TABLES {
        guest.ram.touch(root, PAGE_BYTES);
        let table = guest.new_table();
        guest.ram.write_u64(root.wrapping_add(8 * kernel.self_map), root.get() | flags::KERNEL_TABLE);
        guest.ram.write_u64(root, table.get() | flags::USER_TABLE);
        guest.ram.write_u64(root.wrapping_add(8 * 0x1f0), table.get() | flags::KERNEL_TABLE);
    }
}

/// Writes the loader's table: `whole` has all of the kernel half as it was at boot, else only image and shared data.
pub(super) fn loader_table(guest: &mut GuestBuilder, kernel: &Kernel, image: Gva, whole: bool) -> Space {
    let space = Space { root: LOADER_TABLE, mode: guest.mode };
    guest.ram.touch(LOADER_TABLE, PAGE_BYTES);
    let top = space.mode.top();
    for slot in 256..512 {
        let wanted = whole || [image, SHARED_DATA].iter().any(|gva| top.index(*gva) == slot);
        if wanted {
            let entry = guest.ram.load_u64(kernel.space.root.wrapping_add(8 * slot)).expect("the root is in RAM");
            guest.ram.write_u64(LOADER_TABLE.wrapping_add(8 * slot), entry);
        }
    }
    // It identity-maps low memory, as the loader runs there.
    let low = guest.frames.contiguous(PAGE_BYTES, PAGE_BYTES);
    guest.ram.touch(low, PAGE_BYTES);
    guest.ram.write_u64(LOADER_TABLE, low.get() | flags::KERNEL_TABLE);
    let giant = flags::P | flags::W | flags::PS | flags::A | flags::D;
    guest.ram.write_u64(low, if space.mode == PagingMode::FourLevel { giant } else { 0 });
    guest.ram.write_u64(LOADER_TABLE.wrapping_add(8 * kernel.self_map), LOADER_TABLE.get() | flags::KERNEL_TABLE);
    space
}
