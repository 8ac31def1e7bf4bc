//! Kernel images in the portable executable format: `ntoskrnl.exe`, and others that look like it.
//!
//! Sections, their addresses and the size are those of a kernel of build 19041; only what a reader looks at has
//! content.

use vgpu_perception::{Extent, Gpa, Gva, PAGE_BYTES, PageSize};

use crate::builder::{GuestBuilder, Space};
use crate::flags;
use crate::rng::Rng;

/// `SizeOfImage`.
pub(super) const IMAGE_BYTES: u64 = 0x104_6000;
const E_LFANEW: usize = 0x110;
const EXPORTS_AT: u32 = 0x13_4000;
const EXPORTS_BYTES: u32 = 0x1_8c17;
/// `PsActiveProcessHead`, in `.data`.
pub(super) const ACTIVE_PROCESS_HEAD: u64 = 0xc1_e200;
/// The head of another list of all processes, in `.data`.
pub(super) const OTHER_PROCESS_HEAD: u64 = 0xc1_f0c0;
/// `NtBuildNumber`, in `.data`.
pub(super) const BUILD_NUMBER: u64 = 0xc0_4010;
/// `PsLoadedModuleList`, in `.data`.
pub(super) const LOADED_MODULES: u64 = 0xc2_a2d0;
/// `PsInitialSystemProcess`, in `ALMOSTRO`.
pub(super) const INITIAL_SYSTEM_PROCESS: u64 = 0xcf_b060;
/// Code that a hint may name.
pub(super) const SOME_CODE: u64 = 0x3f_3480;
/// Code that stays mapped in user mode under page table isolation.
pub(super) const ENTRY_CODE: u64 = 0xa0_d000;
/// A page in the middle that starts like an image.
const FALSE_HEADER: u64 = 0x18_0000;

const SECTIONS: [(&str, u32); 33] = [
    (".rdata", 0x1000),
    (".pdata", 0xc_0000),
    (".idata", 0x13_1000),
    (".edata", EXPORTS_AT),
    ("PROTDATA", 0x14_d000),
    ("GFIDS", 0x14_e000),
    ("Pad1", 0x15_8000),
    (".text", 0x20_0000),
    ("PAGE", 0x5f_0000),
    ("PAGELK", 0x99_0000),
    ("POOLCODE", 0x9b_0000),
    ("PAGEKD", 0x9b_1000),
    ("PAGEVRFY", 0x9b_7000),
    ("PAGEHDLS", 0x9e_7000),
    ("PAGEBGFX", 0x9e_a000),
    ("INITKDBG", 0x9f_1000),
    ("TRACESUP", 0xa0_b000),
    ("KVASCODE", 0xa0_d000),
    ("RETPOL", 0xa1_0000),
    ("MINIEX", 0xa1_2000),
    ("INIT", 0xa1_4000),
    ("Pad2", 0xaa_0000),
    (".data", 0xc0_0000),
    ("ALMOSTRO", 0xcf_b000),
    ("CACHEALI", 0xd2_3000),
    ("PAGEDATA", 0xd2_c000),
    ("PAGEVRFD", 0xd3_e000),
    ("INITDATA", 0xd6_0000),
    ("Pad3", 0xd8_0000),
    ("CFGRO", 0xe0_0000),
    ("Pad4", 0xe0_2000),
    (".rsrc", 0x100_0000),
    (".reloc", 0x104_0000),
];

/// The first page: DOS header, PE header, data directories, section table.
fn header(code_section: &str) -> Vec<u8> {
    let mut page = vec![0_u8; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ\x90\0\x03\0\0\0");
    put(0x3c, &u32::try_from(E_LFANEW).expect("small").to_le_bytes());
    put(E_LFANEW, b"PE\0\0");
    put(E_LFANEW + 4, &0x8664_u16.to_le_bytes());
    put(E_LFANEW + 6, &33_u16.to_le_bytes());
    put(E_LFANEW + 8, &0x6123_4567_u32.to_le_bytes());
    put(E_LFANEW + 20, &240_u16.to_le_bytes());
    put(E_LFANEW + 22, &0x22_u16.to_le_bytes());
    let optional = E_LFANEW + 24;
    put(optional, &0x20b_u16.to_le_bytes());
    put(optional + 32, &0x1000_u32.to_le_bytes());
    put(optional + 36, &0x1000_u32.to_le_bytes());
    put(optional + 56, &u32::try_from(IMAGE_BYTES).expect("small").to_le_bytes());
    put(optional + 60, &0x1000_u32.to_le_bytes());
    put(optional + 68, &1_u16.to_le_bytes());
    put(optional + 108, &16_u32.to_le_bytes());
    put(optional + 112, &EXPORTS_AT.to_le_bytes());
    put(optional + 116, &EXPORTS_BYTES.to_le_bytes());
    let ends = SECTIONS.iter().skip(1).map(|section| section.1).chain([u32::try_from(IMAGE_BYTES).expect("small")]);
    for (n, ((name, at), end)) in SECTIONS.iter().zip(ends).enumerate() {
        let entry = optional + 240 + 40 * n;
        let name = if *name == "POOLCODE" { code_section } else { name };
        put(entry, name.as_bytes());
        put(entry + 8, &(end - at).to_le_bytes());
        put(entry + 12, &at.to_le_bytes());
        put(entry + 16, &(end - at).to_le_bytes());
        put(entry + 20, &at.to_le_bytes());
    }
    page
}

/// The names that the image exports: some real, most made up, sorted as the format wants them.
fn export_names() -> Vec<String> {
    let real = [
        "ExAllocatePoolWithTag",
        "IoCreateDevice",
        "KeBugCheckEx",
        "MmGetPhysicalAddress",
        "MmIsAddressValid",
        "NtBuildGUID",
        "NtBuildLab",
        "NtBuildNumber",
        "ObReferenceObjectByHandle",
        "PsGetCurrentProcess",
        "PsGetProcessId",
        "PsInitialSystemProcess",
        "PsInitialSystemProcessEx",
        "PsInitialSystem",
        "PsLoadedModuleList",
        "PsLookupProcessByProcessId",
        "PsProcessType",
        "RtlInitUnicodeString",
        "ZwClose",
    ];
    let mut names: Vec<String> = real.iter().map(ToString::to_string).collect();
    for prefix in ["Cc", "Ex", "FsRtl", "Io", "Ke", "Mm", "Nt", "Ob", "Ps", "Rtl", "Se", "Zw"] {
        for verb in ["Acquire", "Allocate", "Create", "Delete", "Free", "Query", "Release", "Set"] {
            for noun in
                ["Buffer", "Context", "Event", "File", "Key", "Lock", "Mutant", "Object", "Pool", "Port", "Token"]
            {
                names.push(format!("{prefix}{verb}{noun}"));
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The export directory with all it refers to, as it lies at [`EXPORTS_AT`].
fn exports(image_name: &str, rng: &mut Rng) -> Vec<u8> {
    let names = export_names();
    let (named, by_number) = (names.len(), 40);
    let functions_at = 40;
    let names_at = functions_at + 4 * (named + by_number);
    let numbers_at = names_at + 4 * named;
    let strings_at = numbers_at + 2 * named;
    let mut out = vec![0_u8; strings_at];
    let rva = |at: usize| EXPORTS_AT + u32::try_from(at).expect("the directory is small");
    let mut put = |at: usize, bytes: &[u8]| {
        if out.len() < at + bytes.len() {
            out.resize(at + bytes.len(), 0);
        }
        out[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let mut strings = strings_at;
    let mut string = |text: &str, put: &mut dyn FnMut(usize, &[u8])| {
        let at = strings;
        put(at, text.as_bytes());
        put(at + text.len(), &[0]);
        strings += text.len() + 1;
        at
    };
    let name_at = string(image_name, &mut put);
    put(4, &0x6123_4567_u32.to_le_bytes());
    put(12, &rva(name_at).to_le_bytes());
    put(16, &1_u32.to_le_bytes());
    put(20, &u32::try_from(named + by_number).expect("small").to_le_bytes());
    put(24, &u32::try_from(named).expect("small").to_le_bytes());
    put(28, &rva(functions_at).to_le_bytes());
    put(32, &rva(names_at).to_le_bytes());
    put(36, &rva(numbers_at).to_le_bytes());
    let forward_at = string("HAL.HalMoved", &mut put);
    // Where in the table of functions each name is: any order will do, and no name is at its own number.
    let mut order: Vec<usize> = (0..named + by_number).collect();
    for n in (1..order.len()).rev() {
        order.swap(n, usize::try_from(rng.below(n as u64 + 1)).expect("small"));
    }
    for (n, name) in names.iter().enumerate() {
        let text_at = string(name, &mut put);
        put(names_at + 4 * n, &rva(text_at).to_le_bytes());
        put(numbers_at + 2 * n, &u16::try_from(order[n]).expect("small").to_le_bytes());
        let target = match name.as_str() {
            "PsInitialSystemProcess" => u32::try_from(INITIAL_SYSTEM_PROCESS).expect("small"),
            "PsLoadedModuleList" => u32::try_from(LOADED_MODULES).expect("small"),
            "NtBuildNumber" => u32::try_from(BUILD_NUMBER).expect("small"),
            "ZwClose" => rva(forward_at),
            _ => u32::try_from(rng.between(0x20_0000, 0x9b_0000) & !15).expect("small"),
        };
        put(functions_at + 4 * order[n], &target.to_le_bytes());
    }
    for number in &order[named..] {
        let target = u32::try_from(rng.between(0x20_0000, 0x9b_0000) & !15).expect("small");
        put(functions_at + 4 * number, &target.to_le_bytes());
    }
    assert!(out.len() <= usize::try_from(EXPORTS_BYTES).expect("small"), "the exports fit their directory");
    out
}

/// How an image is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// 2 MiB pages, else 4 KiB.
    pub large: bool,
    /// Some pages of code cannot be read, as in guests whose hypervisor hides them.
    pub holes: bool,
}

/// Puts an image at `base`. `name` is what its export directory says, `code_section` replaces the name that marks
/// kernels.
pub(super) fn place(
    guest: &mut GuestBuilder,
    space: Space,
    base: Gva,
    (name, code_section): (&str, &str),
    mapping: Mapping,
    rng: &mut Rng,
) {
    let outside = Gpa::new(guest.ram.segments().iter().map(|segment| segment.end().get()).max().unwrap_or(0));
    let mut at = 0;
    if mapping.large && !base.get().is_multiple_of(2 << 20) {
        // Its first page and its last are large ones that hold something else too.
        let first = base.align_down(PageSize::Size2M).get();
        for here in (first..base.get() + IMAGE_BYTES).step_by(2 << 20) {
            let piece = Extent { start: guest.frames.contiguous(2 << 20, 2 << 20), len: 2 << 20 };
            let rwx = flags::P | flags::W | flags::A | flags::D | flags::G;
            guest.map_pieces(space, Gva::new(here), &[piece], PageSize::Size2M, rwx);
        }
        at = IMAGE_BYTES;
    }
    while at < IMAGE_BYTES {
        let here = base.wrapping_add(at);
        let is_text = (0x40_0000..0x60_0000).contains(&at);
        if mapping.large && !(mapping.holes && is_text) {
            let piece = Extent { start: guest.frames.contiguous(2 << 20, 2 << 20), len: 2 << 20 };
            let rwx = flags::P | flags::W | flags::A | flags::D | flags::G;
            guest.map_pieces(space, here, &[piece], PageSize::Size2M, rwx);
            at += 2 << 20;
            continue;
        }
        let entry = match at {
            0 => flags::P | flags::W | flags::A | flags::D | flags::G | flags::NX,
            1..0x20_0000 => flags::P | flags::A | flags::G | flags::NX,
            0x20_0000..0xc0_0000 => flags::P | flags::A | flags::G,
            _ => flags::P | flags::W | flags::A | flags::D | flags::G | flags::NX,
        };
        let gpa = if mapping.holes && is_text && at % 0x7000 == 0 { outside } else { guest.frames.frame() };
        guest.map(space, here, gpa, PageSize::Size4K, entry);
        if mapping.holes && is_text && at % 0x5000 == 0 {
            guest.unmap(space, here);
        }
        at += PAGE_BYTES;
    }
    guest.write(space, base, &header(code_section));
    guest.write(space, base.wrapping_add(EXPORTS_AT.into()), &exports(name, rng));
    guest.write(space, base.wrapping_add(FALSE_HEADER), b"MZ\x90\0\x03\0\0\0");
    guest.write(space, base.wrapping_add(FALSE_HEADER + 0x3c), &0x7fff_0000_u32.to_le_bytes());
    for at in [0x20_0000, 0x3f_3000, 0x6a_0000, 0xa0_d000] {
        let code: Vec<u8> = (0..512).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        guest.write(space, base.wrapping_add(at), &code);
    }
}
