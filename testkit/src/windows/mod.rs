//! A guest as Windows lays one out, for any build whose offsets are known and for ones that never were.
//!
//! Nothing here was taken from a running Windows: it is what public sources say a guest looks like, with the decoys
//! that they warn of. Where they are silent, something plausible is written, so that a reader cannot rely on zeros.
//!
//! ```
//! use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};
//! let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
//! let producer = &windows.truth.processes[windows.truth.producer];
//! assert_eq!(producer.name, "vgpu-agent.exe");
//! windows.set(producer, windows.truth.layout.exit_status, 4, 0);
//! ```

mod build;
mod by_type;
mod check;
mod decoys;
mod eprocess;
mod image;
mod kernel;
mod layout;
mod lists;
mod process;
mod pte;
mod section;
mod shared;
mod vad;

use vgpu_perception::{Cr3, Gpa, Gva, PagingMode, PhysRead};

use crate::builder::{GuestBuilder, Space};
use crate::ram::Ram;
use crate::region::{RegionImage, Ring};

pub use decoys::LOADER_TABLE;
pub use eprocess::STILL_ACTIVE;
pub use kernel::{Kernel, SHARED_DATA};
pub use layout::{LAYOUTS, Layout, PteFormat, UserRoot, VadShape};
pub use lists::{Holds, Listed};
pub use process::{Kind, PrivateState};
pub use pte::{PteCodec, SWIZZLE_MASK};
pub use section::Section;
pub use shared::{EntryState, PageState, PrototypeState, SharedPage, SharedRegion, Trim};

/// How the kernel is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 4-level tables, the kernel in 2 MiB pages.
    FourLevel,
    /// 5-level tables, the kernel in 2 MiB pages.
    FiveLevel,
    /// 4-level tables, the kernel in 4 KiB pages at a base that is a multiple of no more.
    SmallPages,
    /// 4-level tables, the kernel in 2 MiB pages, its base in the middle of one: as every real 8.1 has it.
    MiddleOfPage,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FourLevel, Self::FiveLevel, Self::SmallPages, Self::MiddleOfPage];
}

/// What the start block in low memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartBlock {
    /// There is none.
    Missing,
    /// It names the System process's tables. Below it lies one of a processor that was never started, which names none.
    System,
    /// As [`System`](Self::System), without the other.
    Only,
    /// It names the loader's tables, which have the whole kernel half.
    Loader,
    /// It names the loader's tables, which have the kernel's image and no pool.
    StaleLoader,
}

/// Where the System process's top table lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootPlace {
    /// Below 16 MiB, where it mostly is.
    Low,
    /// Above 16 MiB.
    Middle,
    /// Above 4 GiB; needs more than 3 GiB of RAM.
    High,
}

/// What the list of processes is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListShape {
    /// Circular, through the head.
    Honest,
    /// The last process leads forward to the sixth, never to the head.
    Loop,
    /// The eighth process leads forward to pool memory that is no process.
    Broken,
}

/// What is made, beyond the layout. Everything follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides what is not decided otherwise.
    pub seed: u64,
    /// Bytes of RAM, which straddles the hole above 3 GiB; it is sparse.
    pub ram: u64,
    /// Page table isolation, where the layout has revisions with it; process context identifiers come with it.
    pub kpti: bool,
    /// Entries without P are swizzled, from build 17763 on.
    pub l1tf: bool,
    /// The start block.
    pub start_block: StartBlock,
    /// Where the System process's top table lies.
    pub root: RootPlace,
    /// Parts of the kernel's code cannot be read.
    pub holes: bool,
    /// The list of processes.
    pub list: ListShape,
    /// What the region shows.
    pub image: RegionImage,
    /// Which pages of it were touched.
    pub ring: Ring,
    /// Which of those were trimmed.
    pub trim: Trim,
    /// Prototypes in one subsection.
    pub per_subsection: usize,
    /// The page table over the region's last frame was trimmed too.
    pub trim_table: bool,
    /// The page of paged pool that holds the region's first prototypes was trimmed too.
    pub trim_pool: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            ram: 4 << 30,
            kpti: true,
            l1tf: true,
            start_block: StartBlock::System,
            root: RootPlace::Low,
            holes: true,
            list: ListShape::Honest,
            image: RegionImage::default(),
            ring: Ring::Written,
            trim: Trim::Mixed,
            per_subsection: 1 << 15,
            trim_table: false,
            trim_pool: false,
        }
    }
}

/// A process, as it really is.
#[derive(Clone, Debug)]
pub struct TruthProcess {
    /// Its image name.
    pub name: &'static str,
    /// Its number.
    pub pid: u32,
    /// Its parent's number.
    pub ppid: u32,
    /// What is special about it.
    pub kind: Kind,
    /// Its object.
    pub eprocess: Gva,
    /// Its tables, even where the field that should name them holds garbage.
    pub space: Space,
    /// What `DirectoryTableBase` holds.
    pub table_field: u64,
    /// What `UserDirectoryTableBase` holds: 0 or 1 where there is no table for user mode.
    pub user_table_field: u64,
    /// Its environment block; 0 where it has none.
    pub peb: Gva,
    /// Where its program lies; 0 where it has none.
    pub section_base: Gva,
    /// What `VadRoot` holds in its first 8 bytes.
    pub vad_root: u64,
    /// `CreateTime`.
    pub create_time: u64,
    /// Private pages that are not present.
    pub trimmed: Vec<(Gva, PrivateState)>,
}

impl TruthProcess {
    /// Whether a list of live processes has it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.kind != Kind::Exited
    }
}

/// What a reader should find.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The layout that was asked for.
    pub layout: Layout,
    /// The System process's tables, without flags.
    pub kcr3: Cr3,
    /// Page table isolation is on.
    pub kpti: bool,
    /// Levels of the tables.
    pub mode: PagingMode,
    /// The start block, where there is one.
    pub start_block: Option<Gpa>,
    /// Where the kernel's image lies.
    pub nt_base: Gva,
    /// Its size.
    pub nt_bytes: u64,
    /// `PsInitialSystemProcess`, the variable.
    pub initial_system_process: Gva,
    /// `PsActiveProcessHead`.
    pub active_process_head: Gva,
    /// `NtBuildNumber`, the variable.
    pub build_number: Gva,
    /// Which entry of each top table names the table itself.
    pub self_map: u64,
    /// How absent entries are encoded.
    pub codec: PteCodec,
    /// Every process on the list, System first; the order is the list's.
    pub processes: Vec<TruthProcess>,
    /// Which of them owns the region.
    pub producer: usize,
    /// The region.
    pub shared: SharedRegion,
    /// The made-up region of another process.
    pub forged: SharedRegion,
}

/// A guest, and what there is to be found in it.
#[derive(Clone, Debug)]
pub struct WindowsGuest {
    /// Its RAM.
    pub ram: Ram,
    /// What is still free of it, and the way to its tables.
    pub guest: GuestBuilder,
    /// The kernel half.
    pub kernel: Kernel,
    /// What a reader should find.
    pub truth: Truth,
}

/// Where the region lies in the producer: a multiple of 64 KiB and of no more.
pub const REGION_BASE: Gva = Gva::new(0x1f0_4563_0000);
/// Where the made-up region lies in its process: on 8.1 and later so high that its page numbers need more than 32 bits.
#[must_use]
pub const fn forged_base(layout: &Layout) -> Gva {
    Gva::new(if layout.build >= 9600 { 0x7ff4_1a2b_0000 } else { 0x5a0_1a2b_0000 })
}

impl WindowsGuest {
    /// Lays the guest out.
    ///
    /// # Panics
    /// Where the options leave too little RAM (1 GiB will do).
    #[must_use]
    pub fn build(layout: &Layout, shape: Shape, options: Options) -> Self {
        build::Builder::new(layout, shape, options).build()
    }

    /// Lays another guest out in the memory that this one left behind, as a warm reboot does: this one's pages stay as
    /// they are, but for the start block.
    ///
    /// # Panics
    /// Where both have their top table at the same place, or RAM is short.
    #[must_use]
    pub fn reboot(&self, layout: &Layout, shape: Shape, options: Options) -> Self {
        build::Builder::again(&self.guest, layout, shape, options).build()
    }

    /// The clock that Windows keeps in the page shared with user mode goes on by `ticks` of 100 ns; back, where
    /// negative.
    ///
    /// # Panics
    /// Where the page is not in RAM.
    pub fn tick(&self, ticks: i64) {
        let at = self.kernel.shared_data.wrapping_add(8);
        let now = self.ram.load_u64(at).expect("the page is in RAM");
        self.ram.write_u64(at, now.wrapping_add_signed(ticks));
    }

    /// Where byte `offset` of a process object lies in RAM.
    #[must_use]
    pub fn field(&self, process: &TruthProcess, offset: u32) -> Gpa {
        self.guest.gpa(self.kernel.space, process.eprocess.wrapping_add(offset.into()))
    }

    /// Sets `bytes` (up to 8) of a process object at `offset`.
    ///
    /// # Panics
    /// Where `bytes` is more than 8.
    pub fn set(&self, process: &TruthProcess, offset: u32, bytes: usize, value: u64) {
        self.guest.write(
            self.kernel.space,
            process.eprocess.wrapping_add(offset.into()),
            &value.to_le_bytes()[..bytes],
        );
    }

    /// Reads 8 bytes of a process object at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// Where `offset` is no multiple of 8.
    #[must_use]
    pub fn get(&self, process: &TruthProcess, offset: u32) -> u64 {
        self.ram.load_u64(self.field(process, offset)).expect("the object is in RAM")
    }

    /// Writes anything in the kernel half.
    pub fn write_kernel(&self, at: Gva, bytes: &[u8]) {
        self.guest.write(self.kernel.space, at, bytes);
    }

    /// The process of that name.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn process(&self, name: &str) -> &TruthProcess {
        self.truth.processes.iter().find(|process| process.name == name).expect("the guest has a process of this name")
    }
}
