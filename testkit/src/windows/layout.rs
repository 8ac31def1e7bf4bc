//! Where each field lies in the kernel's process object, by build; and layouts that no build has.

use crate::rng::Rng;

use super::lists::Listed;

/// How the nodes of the tree of virtual address descriptors look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VadShape {
    /// Server 2003: as Windows 7, but the descriptor names the control area and not a subsection.
    Win2003,
    /// Vista and Windows 7: table embedded in the process, parent first, 64-bit page numbers.
    Win7,
    /// Windows 8.0: table embedded in the process, parent first, 32-bit page numbers.
    Win8,
    /// Windows 8.1 and later: a pointer to the root, children first, 32-bit page numbers with high bytes.
    Win81,
}

impl VadShape {
    /// The shape that a build has.
    #[must_use]
    pub const fn of(build: u32) -> Self {
        match build {
            ..6000 => Self::Win2003,
            6000..9200 => Self::Win7,
            9200..9600 => Self::Win8,
            _ => Self::Win81,
        }
    }
}

/// How entries without P are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PteFormat {
    /// Up to 17134: protection of a prototype pointer at bit 11, page file number at bit 1, never swizzled.
    Old,
    /// From 17763: protection at bit 5, page file number at bit 12, bit 4 says that the entry is not swizzled.
    New,
}

impl PteFormat {
    /// The format that a build has.
    #[must_use]
    pub const fn of(build: u32) -> Self {
        if build >= 17763 { Self::New } else { Self::Old }
    }
}

/// The offset of the table that user mode runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserRoot {
    /// There is no such field.
    Absent,
    /// Only revisions with page table isolation have the field.
    Patched(u32),
    /// Every revision has the field.
    Always(u32),
}

/// One layout: byte offsets in `EPROCESS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What it is called.
    pub name: &'static str,
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Build number.
    pub build: u32,
    /// Bytes of the `KPROCESS` at its start.
    pub kprocess: u32,
    /// Bytes of the whole; where no source says, enough for all fields.
    pub size: u32,
    /// `KPROCESS.DirectoryTableBase`.
    pub directory_table_base: u32,
    /// `KPROCESS.UserDirectoryTableBase`.
    pub user_root: UserRoot,
    /// `UniqueProcessId`.
    pub pid: u32,
    /// `ActiveProcessLinks`.
    pub links: u32,
    /// `CreateTime`.
    pub create_time: u32,
    /// `Peb`.
    pub peb: u32,
    /// `ImageFileName`, 15 bytes.
    pub image_name: u32,
    /// `ExitStatus`.
    pub exit_status: u32,
    /// `ExitTime`.
    pub exit_time: u32,
    /// `VadRoot`.
    pub vad_root: u32,
    /// A pointer that looks like the root of the tree, but is a hint.
    pub vad_hint: Option<u32>,
    /// `SectionBaseAddress`.
    pub section_base: u32,
    /// `InheritedFromUniqueProcessId`.
    pub ppid: u32,
    /// `Wow64Process`.
    pub wow64: u32,
    /// `ThreadListHead` of the `EPROCESS`.
    pub thread_list: u32,
    /// `ActiveThreads`.
    pub active_threads: u32,
    /// `ThreadListHead` of the `KPROCESS`.
    pub kernel_thread_list: u32,
    /// `ObjectTable`.
    pub object_table: u32,
    /// Byte 2 of the dispatcher header.
    pub header_size: u8,
    /// The tree of address descriptors.
    pub vad: VadShape,
    /// Entries without P.
    pub pte: PteFormat,
    /// The kernel finds its own tables at a fixed place.
    pub fixed_self_map: bool,
    /// Every field of the object, where a list has them; else the bytes between the fields above hold anything.
    pub listed: Option<&'static [Listed]>,
}

/// What the columns of the table say; the rest follows from them.
struct Row {
    name: &'static str,
    version: (u32, u32, u32),
    sizes: (u32, u32),
    user_root: UserRoot,
    /// PID, create time, PEB, name, exit status, exit time, VAD root, section base, wow64, thread list.
    columns: [u32; 10],
}

const fn row(row: &Row) -> Layout {
    let [pid, create_time, peb, image_name, exit_status, exit_time, vad_root, section_base, wow64, thread_list] =
        row.columns;
    let (major, minor, build) = row.version;
    let (kprocess, size) = row.sizes;
    let old = build < 9200;
    Layout {
        name: row.name,
        major,
        minor,
        build,
        kprocess,
        size,
        directory_table_base: 0x28,
        user_root: row.user_root,
        pid,
        links: pid + 8,
        create_time,
        peb,
        image_name,
        exit_status,
        exit_time,
        vad_root,
        vad_hint: if vad_root < exit_status {
            Some(exit_status + 4)
        } else if build >= 9600 {
            Some(vad_root + 8)
        } else {
            None
        },
        section_base,
        ppid: section_base + 0x20,
        wow64,
        thread_list,
        active_threads: thread_list + if old { 0x20 } else { 0x10 },
        kernel_thread_list: if build < 7600 { 0x70 } else { 0x30 },
        object_table: match build {
            ..7600 => pid + 0x80,
            7600..9200 => image_name - 0xe0,
            _ => peb + 0x20,
        },
        header_size: Layout::header_size(build, kprocess),
        vad: VadShape::of(build),
        pte: PteFormat::of(build),
        fixed_self_map: build <= 14393,
        listed: None,
    }
}

macro_rules! table {
    ($($name:literal, $version:expr, $sizes:expr, $user_root:expr, [$($column:literal)+];)+) => {
        /// Every layout of which the public offsets are known.
        pub const LAYOUTS: &[Layout] = &[
            $(row(&Row {
                name: $name, version: $version, sizes: $sizes, user_root: $user_root, columns: [$($column),+],
            })),+
        ];
    };
}

use UserRoot::{Absent, Always, Patched};

table! {
    // name, version, (KPROCESS, EPROCESS), user root, [pid create peb name exit-status exit-time vad section wow64
    // threads]
    "2003 SP1", (5, 2, 3790), (0xb8, 0x3e0), Absent,
        [0xd8 0xc0 0x2c0 0x268 0x38c 0xc8 0x398 0x1f8 0x2a8 0x290];
    "Vista SP2", (6, 0, 6002), (0xc0, 0x3e8), Absent,
        [0xe0 0xc8 0x290 0x238 0x374 0xd0 0x380 0x1d0 0x278 0x260];
    "7 SP1", (6, 1, 7601), (0x160, 0x4d0), Patched(0x110),
        [0x180 0x168 0x338 0x2e0 0x444 0x170 0x448 0x270 0x320 0x308];
    "8", (6, 2, 9200), (0x2c8, 0x660), Absent,
        [0x2e0 0x2d0 0x3e8 0x438 0x58c 0x610 0x590 0x3b0 0x418 0x470];
    "8.1", (6, 3, 9600), (0x2c8, 0x6b8), Patched(0x270),
        [0x2e0 0x2d0 0x3e8 0x438 0x5d4 0x640 0x5d8 0x3b0 0x418 0x470];
    "10 1507", (10, 0, 10240), (0x2d8, 0x798), Absent,
        [0x2e8 0x308 0x3f8 0x448 0x604 0x670 0x608 0x3c0 0x428 0x480];
    "10 1507 LTSB", (10, 0, 10240), (0x2d8, 0x7a8), Always(0x278),
        [0x2e8 0x308 0x3f8 0x448 0x614 0x678 0x608 0x3c0 0x428 0x480];
    "10 1511", (10, 0, 10586), (0x2d8, 0x788), Absent,
        [0x2e8 0x308 0x3f8 0x450 0x60c 0x678 0x610 0x3c0 0x428 0x488];
    "10 1607", (10, 0, 14393), (0x2d8, 0x7b0), Patched(0x278),
        [0x2e8 0x308 0x3f8 0x450 0x61c 0x688 0x620 0x3c0 0x428 0x488];
    "10 1703", (10, 0, 15063), (0x2d8, 0x818), Patched(0x278),
        [0x2e0 0x308 0x3f8 0x450 0x624 0x690 0x628 0x3c0 0x428 0x488];
    "10 1709", (10, 0, 16299), (0x2d8, 0x838), Patched(0x278),
        [0x2e0 0x308 0x3f8 0x450 0x624 0x690 0x628 0x3c0 0x428 0x488];
    "10 1803", (10, 0, 17134), (0x2d8, 0x848), Always(0x278),
        [0x2e0 0x308 0x3f8 0x450 0x624 0x690 0x628 0x3c0 0x428 0x488];
    "10 1809", (10, 0, 17763), (0x2d8, 0x850), Always(0x278),
        [0x2e0 0x308 0x3f8 0x450 0x624 0x690 0x628 0x3c0 0x428 0x488];
    "10 1903", (10, 0, 18362), (0x2e0, 0x880), Always(0x280),
        [0x2e8 0x310 0x3f8 0x450 0x654 0x6c0 0x658 0x3c8 0x428 0x488];
    "10 2004", (10, 0, 19041), (0x438, 0xa40), Always(0x388),
        [0x440 0x468 0x550 0x5a8 0x7d4 0x840 0x7d8 0x520 0x580 0x5e0];
    "Server 2022", (10, 0, 20348), (0x438, 0xb80), Always(0x388),
        [0x440 0x468 0x550 0x5a8 0x7d4 0x840 0x7d8 0x520 0x580 0x5e0];
    "11 21H2", (10, 0, 22000), (0x438, 0xb80), Always(0x388),
        [0x440 0x468 0x550 0x5a8 0x7d4 0x840 0x7d8 0x520 0x580 0x5e0];
    "11 22H2", (10, 0, 22621), (0x438, 0xb80), Always(0x388),
        [0x440 0x468 0x550 0x5a8 0x7d4 0x840 0x7d8 0x520 0x580 0x5e0];
    "11 24H2", (10, 0, 26100), (0x1c8, 0x840), Always(0x158),
        [0x1d0 0x1f8 0x2e0 0x338 0x554 0x5c0 0x558 0x2b0 0x310 0x370];
    "11 26H1", (10, 0, 28000), (0x1c8, 0x840), Always(0x158),
        [0x1d0 0x1f8 0x2e0 0x338 0x554 0x5c0 0x558 0x2b0 0x310 0x370];
}

impl Layout {
    /// The size no longer fits a byte from 19041 on, and the field is 0.
    pub(super) const fn header_size(build: u32, kprocess: u32) -> u8 {
        if kprocess / 4 <= 0xff && build < 19041 { (kprocess / 4) as u8 } else { 0 }
    }

    /// The layout of that name in [`LAYOUTS`].
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn named(name: &str) -> Self {
        *LAYOUTS.iter().find(|layout| layout.name == name).expect("the table has a layout of this name")
    }

    /// A layout as a later build could have it: in no table, but with the distances that every known build since 8.1
    /// keeps.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut slots = |from: u32, to: u32| 8 * u32::try_from(rng.between(from.into(), to.into())).expect("small");
        loop {
            let kprocess = 0x1c0 + slots(0, 90);
            let pid = kprocess + slots(1, 5);
            let create_time = pid + 0x18 + slots(0, 5);
            let section_base = create_time + 0x10 + slots(4, 24);
            let peb = section_base + 0x30 + slots(0, 3);
            let image_name = peb + 0x48 + slots(0, 6);
            let thread_list = image_name + 0x38;
            let exit_status = image_name + 0x144 + slots(0, 40);
            let exit_time = exit_status + 0x6c;
            let size = (exit_time + 0x40 + slots(0, 80)).next_multiple_of(16);
            let user_root = 0x140 + slots(0, (kprocess - 0x150) / 8);
            let columns = [
                pid,
                create_time,
                peb,
                image_name,
                exit_status,
                exit_time,
                exit_status + 4,
                section_base,
                peb + 0x30,
                thread_list,
            ];
            let made = row(&Row {
                name: "random",
                version: (10, 0, 27_000),
                sizes: (kprocess, size),
                user_root: Always(user_root),
                columns,
            });
            if LAYOUTS.iter().all(|known| (known.image_name, known.pid) != (made.image_name, made.pid)) {
                return made;
            }
        }
    }

    /// The offset of the user root in a guest with (or without) page table isolation.
    #[must_use]
    pub const fn user_root_at(&self, kpti: bool) -> Option<u32> {
        match self.user_root {
            Absent => None,
            Patched(at) => {
                if kpti {
                    Some(at)
                } else {
                    None
                }
            }
            Always(at) => Some(at),
        }
    }

    /// Bytes by which the descriptor of a section grew since Vista.
    #[must_use]
    pub const fn descriptor_growth(&self) -> usize {
        if self.build >= 28000 { 8 } else { 0 }
    }

    /// `SUBSECTION.PtesInSubsection`.
    #[must_use]
    pub const fn subsection_ptes(&self) -> u32 {
        match self.build {
            ..6000 => 0x24,
            6000..9841 => 0x18,
            _ => 0x2c,
        }
    }

    /// Whether the build number is in the page that the kernel shares with user mode.
    #[must_use]
    pub const fn shares_build(&self) -> bool {
        self.major >= 10
    }

    /// Bytes at `vad_root`: a pointer, or an embedded table.
    #[must_use]
    pub const fn vad_root_bytes(&self) -> u32 {
        if matches!(self.vad, VadShape::Win81) { 8 } else { 0x38 }
    }

    /// The fields as `(offset, bytes)`, apart from each other.
    #[must_use]
    pub fn fields(&self) -> Vec<(u32, u32)> {
        let mut fields = vec![
            (0, 0x18),
            (0x18, 0x10),
            (self.directory_table_base, 8),
            (self.kernel_thread_list, 0x10),
            (self.pid, 8),
            (self.links, 0x10),
            (self.create_time, 8),
            (self.peb, 8),
            (self.image_name, 16),
            (self.exit_status, 4),
            (self.exit_time, 8),
            (self.vad_root, self.vad_root_bytes()),
            (self.section_base, 8),
            (self.ppid, 8),
            (self.wow64, 8),
            (self.thread_list, 0x10),
            (self.active_threads, 4),
            (self.object_table, 8),
        ];
        fields.extend(self.user_root_at(true).map(|at| (at, 0x10)));
        fields.extend(self.vad_hint.map(|at| (at, 8)));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(layout: &Layout) {
        let mut fields = layout.fields();
        fields.sort_unstable();
        for pair in fields.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{}: {pair:x?}", layout.name);
        }
        let (last, bytes) = fields[fields.len() - 1];
        assert!(last + bytes <= layout.size, "{}", layout.name);
        for at in [layout.pid, layout.image_name, layout.vad_root, layout.exit_time, layout.peb, layout.kprocess] {
            assert!(at.is_multiple_of(8), "{}: {at:#x}", layout.name);
        }
        assert_eq!(layout.ppid, layout.section_base + 0x20);
        if layout.build >= 9200 {
            assert_eq!((layout.wow64, layout.thread_list), (layout.peb + 0x30, layout.image_name + 0x38));
        } else {
            assert_eq!((layout.wow64, layout.thread_list), (layout.image_name + 0x40, layout.image_name + 0x28));
        }
        if layout.build >= 9600 && layout.vad_root > layout.exit_status {
            assert_eq!((layout.exit_time, layout.vad_root), (layout.exit_status + 0x6c, layout.exit_status + 4));
        }
    }

    #[test]
    fn fields_do_not_overlap_and_keep_their_distances() {
        LAYOUTS.iter().for_each(check);
        assert_eq!(LAYOUTS.len(), 20);
    }

    #[test]
    fn random_layouts_are_consistent_and_in_no_table() {
        for seed in 0..500 {
            let layout = Layout::random(seed);
            check(&layout);
            assert!(LAYOUTS.iter().all(|known| known.pid != layout.pid || known.image_name != layout.image_name));
        }
    }
}
