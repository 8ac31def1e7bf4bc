//! A machine that boots again and again: cold into empty RAM, or warm into what the boot before left behind.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};

use vgpu_perception::{Cr3, Extent, Gpa, Gva, PAGE_BYTES, PageKind, PagingMode, PhysError, PhysRead, abi};
use vgpu_perception_testkit::linux::{LinuxKernel, LinuxProcess};
use vgpu_perception_testkit::windows::{Kind, Layout, Options, RootPlace, Shape, WindowsGuest};
use vgpu_perception_testkit::{GuestBuilder, Placement, Ram, Region, Rng, Space, flags};

use super::life::Life;

/// Boots after which a machine is switched off and on: the first is cold, the others are warm.
pub(crate) const BOOTS: usize = 3;
/// Bytes of RAM of each machine; it is sparse, and three boots have to find large pages in it.
const RAM: u64 = 64 << 30;
/// Where it ends: behind the hole below 4 GiB.
pub(crate) const END: Gpa = Gpa::new(66 << 30);

/// RAM that another's can replace: a machine that was switched off and on.
#[derive(Clone, Debug)]
pub(crate) struct Machine(Arc<Mutex<Ram>>);

impl Machine {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Ram::flat(4096))))
    }

    fn now(&self) -> Ram {
        self.0.lock().unwrap().clone()
    }
}

impl PhysRead for Machine {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.now().read(gpa, dst)
    }
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.now().load_u32(gpa)
    }
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.now().load_u64(gpa)
    }
    fn load_words(&self, gpa: Gpa, words: &mut [u64]) -> Result<(), PhysError> {
        self.now().load_words(gpa, words)
    }
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.now().next_extent(from)
    }
    fn page_kind(&self, page: Gpa) -> PageKind {
        self.now().page_kind(page)
    }
}

/// Which machine, and what runs on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    pub(crate) name: &'static str,
    /// Where RAM below 4 GiB ends.
    low: u64,
    mode: PagingMode,
    windows: bool,
}

pub(crate) const BOARDS: [Board; 6] = [
    Board { name: "pc, Linux", low: 3 << 30, mode: PagingMode::FourLevel, windows: false },
    Board { name: "q35, Linux", low: 2 << 30, mode: PagingMode::FourLevel, windows: false },
    Board { name: "five levels, Windows", low: 3 << 30, mode: PagingMode::FiveLevel, windows: true },
    Board { name: "pc, Windows", low: 3 << 30, mode: PagingMode::FourLevel, windows: true },
    Board { name: "five levels, Linux", low: 3 << 30, mode: PagingMode::FiveLevel, windows: false },
    Board { name: "q35, five levels, Linux", low: 2 << 30, mode: PagingMode::FiveLevel, windows: false },
];

/// A machine that runs.
pub(crate) struct World {
    machine: Machine,
    board: Board,
    rng: Rng,
    guest: GuestBuilder,
    /// Boots since it was switched on.
    boots: usize,
    system: System,
}

enum System {
    Off { before: Option<Box<WindowsGuest>> },
    Linux { kernel: LinuxKernel, processes: Vec<LinuxProcess> },
    Windows { windows: Box<WindowsGuest>, clock: Clock },
}

/// The clock of a Windows kernel, which goes on while the kernel runs.
struct Clock {
    runs: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    fn start(windows: &WindowsGuest) -> Self {
        let runs = Arc::new(AtomicBool::new(true));
        let (windows, go_on) = (windows.clone(), Arc::clone(&runs));
        let thread = spawn(move || {
            while go_on.load(Ordering::Relaxed) {
                windows.tick(156_250);
                sleep(Duration::from_millis(2));
            }
        });
        Self { runs, thread: Some(thread) }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.runs.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl World {
    /// Switches `board` on, with nothing in its RAM.
    pub(crate) fn switch_on(machine: &Machine, board: Board, seed: u64) -> Self {
        let ram = Ram::split(RAM, board.low);
        *machine.0.lock().unwrap() = ram.clone();
        let guest = GuestBuilder::new(ram, seed).with_mode(board.mode);
        let (machine, rng) = (machine.clone(), Rng::new(seed ^ 0x5eed));
        let mut world = Self { machine, board, rng, guest, boots: 0, system: System::Off { before: None } };
        world.boot();
        world
    }

    /// Resets it: nothing runs any more, and its firmware has written over some of what was there.
    pub(crate) fn reset(&mut self) {
        let off = System::Off { before: None };
        if let System::Windows { windows, clock } = core::mem::replace(&mut self.system, off) {
            drop(clock);
            self.system = System::Off { before: Some(windows) };
        }
        let pages: Vec<_> = self.guest.ram.present_pages().collect();
        for page in pages {
            if self.rng.one_in(4) {
                let word = self.rng.next_u64();
                for at in (0..4096).step_by(8) {
                    self.guest.ram.write_u64(page.wrapping_add(at), word.wrapping_mul(at | 1));
                }
            }
        }
    }

    /// Boots into what is there; a program writes pages that read like roots.
    pub(crate) fn boot(&mut self) {
        let off = System::Off { before: None };
        let before = match core::mem::replace(&mut self.system, off) {
            System::Off { before } => before,
            _ => panic!("the machine was not reset"),
        };
        self.system = if self.board.windows { self.boot_windows(before) } else { self.boot_linux() };
        self.boots += 1;
        let forged = self.rng.between(8, 48);
        self.forge(forged);
        *self.machine.0.lock().unwrap() = self.guest.ram.clone();
    }

    fn boot_linux(&mut self) -> System {
        let isolated = self.rng.one_in(2);
        let kernel = LinuxKernel::build(&mut self.guest, isolated);
        let processes = (0..8).map(|_| kernel.spawn(&mut self.guest, &mut self.rng)).collect();
        System::Linux { kernel, processes }
    }

    fn boot_windows(&mut self, before: Option<Box<WindowsGuest>>) -> System {
        let layout = Layout::named(self.rng.pick::<&str>(&["7 SP1", "8.1", "10 2004", "11 24H2"]));
        let shape = match self.board.mode {
            PagingMode::FourLevel => *self.rng.pick(&[Shape::FourLevel, Shape::SmallPages, Shape::MiddleOfPage]),
            PagingMode::FiveLevel => Shape::FiveLevel,
        };
        let root = [RootPlace::Low, RootPlace::Middle, RootPlace::High][self.boots % BOOTS];
        let options = Options { seed: self.rng.next_u64(), ram: RAM, root, ..Options::default() };
        let windows = Box::new(match before {
            Some(mut before) => {
                // What its processes took since is taken.
                before.guest = self.guest.clone();
                before.reboot(&layout, shape, options)
            }
            None => WindowsGuest::build(&layout, shape, options),
        });
        self.guest = windows.guest.clone();
        let clock = Clock::start(&windows);
        System::Windows { windows, clock }
    }

    /// Writes pages that agree with each other, and lead to real tables.
    fn forge(&mut self, pages: u64) {
        let victim = match &self.system {
            System::Off { .. } => return,
            System::Linux { kernel, .. } => kernel.init,
            System::Windows { windows, .. } => windows.kernel.space,
        };
        let image = Gva::new(if self.board.windows { 0xffff_f800_0000_0000 } else { 0xffff_ffff_8100_0000 });
        let Some(entry) = self.guest.entry(victim, victim.mode.top(), image) else { return };
        for _ in 0..pages {
            let page = self.guest.new_table();
            self.guest.ram.write_u64(page.wrapping_add(511 * 8), entry);
            for slot in 300..304 {
                self.guest.ram.write_u64(page.wrapping_add(slot * 8), (0x100_0000 + slot * 4096) | 0x63);
            }
        }
    }

    /// A process with a region in it, for the producer of that number.
    pub(crate) fn start(&mut self, number: u64) -> Life {
        let base = Gva::new(0x1000_0000_0000 + self.rng.below(1 << 20) * (1 << 20));
        let space = match &mut self.system {
            System::Off { .. } => panic!("nothing runs on a machine that was reset"),
            System::Linux { kernel, processes } => {
                // Every third is a process that is there already.
                if self.rng.one_in(3) {
                    self.rng.pick(processes).space
                } else {
                    let process = kernel.spawn_empty(&mut self.guest);
                    let space = process.space;
                    self.guest.map_new(space, Gva::new(0x40_0000), 0x8000, Placement::Scattered, flags::USER_RW);
                    processes.push(process);
                    space
                }
            }
            System::Windows { windows, .. } => {
                let hosts: Vec<_> = windows.truth.processes.iter().filter(|one| one.kind == Kind::User).collect();
                self.rng.pick(&hosts).space
            }
        };
        let region = self.place(space, base);
        self.sync(space);
        Life::begin(&self.guest.ram, region, number)
    }

    /// Maps the producer page, the control page, and of each slot what a frame takes: scattered, one page after the
    /// other, or both.
    fn place(&mut self, space: Space, base: Gva) -> Region {
        let image = Life::image();
        let frame = u64::from(image.width) * u64::from(image.height) * u64::from(abi::BYTES_PER_PIXEL);
        let slots = (0..u64::from(abi::SLOT_COUNT)).map(|slot| (abi::RING_OFFSET + slot * abi::SLOT_STRIDE, frame));
        let mut pages = Vec::new();
        for (from, len) in [(0, abi::CONTROL_OFFSET + abi::PAGE)].into_iter().chain(slots) {
            let placement = *self.rng.pick(&[Placement::Scattered, Placement::Contiguous]);
            let (at, len) = (base.wrapping_add(from), len.next_multiple_of(PAGE_BYTES));
            pages.extend(self.guest.map_new(space, at, len, placement, flags::USER_RW));
        }
        Region { space, base, image, pages }
    }

    /// Ends the process of a producer that was killed, in one of the ways in which kernels leave memory behind.
    pub(crate) fn bury(&mut self, dead: &Life) -> &'static str {
        let Region { space, ref pages, .. } = dead.region;
        match self.rng.below(4) {
            0 => "left as it was",
            1 => {
                for page in pages {
                    self.guest.unmap(space, page.gva);
                }
                "unmapped"
            }
            2 => {
                for page in pages {
                    self.guest.unmap(space, page.gva);
                    self.guest.ram.write_u8s(page.gpa, &[0x5a; 4096]);
                }
                "unmapped, its pages another's"
            }
            _ => {
                // The producer page is another's, while the tables that name it are still there.
                let page = dead.region.gpa(0).expect("the producer page is mapped");
                self.guest.ram.write_u8s(page, &[0; 4096]);
                "its page another's, its tables left"
            }
        }
    }

    /// Brings roots of user mode up to date.
    fn sync(&self, space: Space) {
        if let System::Linux { processes, .. } = &self.system {
            processes.iter().filter(|process| process.space == space).for_each(|process| process.sync(&self.guest));
        }
    }

    /// Whether `root` is `life`'s process. Linux keeps a second root for user mode in the next page.
    pub(crate) fn is_of(&self, root: Cr3, life: &Life) -> bool {
        let pair = if matches!(self.system, System::Linux { .. }) { 4096 } else { 0 };
        (root.table().get() & !pair) == (life.region.space.root.get() & !pair)
    }
}
