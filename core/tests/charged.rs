//! What is read is spent: no search reads more words than it takes off its budget, however the memory is read. Callers
//! bound what a guest can make them read by the budget alone.

use vgpu_perception::process::guest::{GuestAttach, GuestKernel, GuestSearch};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::scan::{Discovery, ScanScratch};
use vgpu_perception::{Budget, CopyHint, Cr3, Extent, Gpa, PageKind, PhysError, PhysRead, PhysRun, Process, Step};
use vgpu_perception_testkit::windows::{LAYOUTS, Options, Shape, StartBlock, WindowsGuest};
use vgpu_perception_testkit::{Counting, GuestBuilder, LinuxOptions, Ram, Rng, hostile, standard_linux};

/// Memory that is asked for `batch` lines at once.
struct Batched<'r>(&'r Counting<&'r Ram>, usize);

impl PhysRead for Batched<'_> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.0.read(gpa, dst)
    }
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.0.load_u32(gpa)
    }
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.0.load_u64(gpa)
    }
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.0.load_words(gpa, dst)
    }
    fn batch(&self) -> usize {
        self.1
    }
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        self.0.read_runs(runs, dst, hint)
    }
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.0.next_extent(from)
    }
    fn page_kind(&self, page: Gpa) -> PageKind {
        self.0.page_kind(page)
    }
}

/// What was read, and what was spent on it.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    words: u64,
    spent: u64,
    /// By how much a step read more than it spent, at most.
    beyond: u64,
}

impl Sum {
    /// One step; what it spent is within the budget and one piece.
    fn step<T>(&mut self, mem: &Batched<'_>, budget: u64, work: impl FnOnce(&mut Budget) -> T) -> T {
        let mut left = Budget::new(budget);
        let result = work(&mut left);
        let words = mem.0.take().bytes().div_ceil(8);
        assert!(left.spent() <= budget.saturating_add(Budget::PIECE), "{} of {budget}", left.spent());
        self.words += words;
        self.spent += left.spent();
        self.beyond = self.beyond.max(words.saturating_sub(left.spent()));
        result
    }
}

/// From `root`, or from nothing: the kernel, then all its processes' regions, in steps.
fn whole_search(ram: &Ram, root: Option<Cr3>, batch: usize, budget: u64, most: u64) -> Sum {
    let counting = Counting::new(ram);
    let mem = Batched(&counting, batch);
    let mut sum = Sum::default();
    let mut roots = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut attach = root.map(|root| GuestAttach::new(root, None));
    let mut search = GuestSearch::new(None, &mut roots);
    let kernel: GuestKernel = loop {
        let step = sum.step(&mem, budget, |budget| match &mut attach {
            Some(attach) => attach.step(&mem, budget).unwrap(),
            None => search.step(&mem, budget).unwrap(),
        });
        match step {
            Step::Found(kernel) => break kernel,
            Step::Pending if sum.spent < most => {}
            Step::Pending | Step::Done => return sum,
        }
    };
    let (mut processes, mut pages) = (vec![Process::default(); 64], vec![0; 1 << 14]);
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut pages };
    let mut discovery = Discovery::new(kernel.processes(), scratch);
    while sum.spent < most {
        if sum.step(&mem, budget, |budget| discovery.step(&mem, budget).unwrap()) == Step::Done {
            break;
        }
    }
    sum
}

fn in_all_ways(name: &str, ram: &Ram, root: Option<Cr3>, most: u64) {
    let mut failed = false;
    for root in [root, None] {
        for batch in [1, 300] {
            for budget in [1000, 1 << 20] {
                let Sum { words, spent, beyond } = whole_search(ram, root, batch, budget, most);
                let known = root.is_some();
                println!(
                    "{name}, root {known}, {batch} at once, {budget} a step: {words} for {spent}, {beyond} beyond"
                );
                failed |= beyond > 0;
                // What is spent is what is read, but for estimates and for work that is no load.
                assert!(spent > 0 && words > spent / 3, "{name}: {words} words for {spent}");
            }
        }
    }
    assert!(!failed, "{name}: more words were read than were spent, see above");
}

#[test]
fn of_a_linux_guest() {
    for kpti in [false, true] {
        let linux = standard_linux(LinuxOptions { kpti, ..LinuxOptions::default() });
        let root = Cr3::new(linux.kernel.init.root.get());
        in_all_ways("linux", &linux.guest.ram, Some(root), u64::MAX);
    }
}

#[test]
fn of_a_windows_guest() {
    for start_block in [StartBlock::System, StartBlock::Missing] {
        let options = Options { start_block, ..Options::default() };
        let windows = WindowsGuest::build(&LAYOUTS[0], Shape::FourLevel, options);
        in_all_ways("windows", &windows.ram, Some(windows.truth.kcr3), u64::MAX);
    }
}

/// Each page is a root, and its lower half leads to other pages: processes without end.
#[test]
fn of_tables_everywhere() {
    const PAGES: u64 = 4096;
    let ram = Ram::flat(PAGES << 12);
    let mut rng = Rng::new(1);
    for page in 0..PAGES {
        for word in 0..512 {
            let (to, flags) = if word < 256 { (rng.below(PAGES), 0x67) } else { (word * 8, 0x63) };
            // Some are zeros, so that stretches of zeros of every length are met.
            let value = if word < 256 && rng.below(4) < page % 4 { 0 } else { to << 12 | flags };
            ram.write_u64(Gpa::new(page << 12 | word << 3), value);
        }
    }
    in_all_ways("tables everywhere", &ram, Some(Cr3::new(0x1000)), 1 << 24);
}

#[test]
fn of_tables_that_are_endless() {
    let mut guest = GuestBuilder::new(Ram::flat(64 << 20), 1);
    let spaces = [hostile::own_tables(&mut guest), hostile::fan_out_in_turn(&mut guest), hostile::wide(&mut guest)];
    for space in spaces {
        // A kernel half, so that it is taken for a root.
        guest.ram.write_u64(space.root.wrapping_add(8 * 511), space.root.get() | 0x63);
        in_all_ways("endless tables", &guest.ram, Some(Cr3::new(space.root.get())), 1 << 23);
    }
}
