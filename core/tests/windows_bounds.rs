//! What the Windows reader costs at most, whatever the guest shows: counted, not timed.

use core::cell::RefCell;
use std::collections::HashSet;

use vgpu_perception::find::{Finder, Workspace};
use vgpu_perception::paging::Level;
use vgpu_perception::process::guest::{GuestAttach, GuestKernel};
use vgpu_perception::process::nt::{KernelSearch, NtError, NtKernel, ProcessList};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{
    Budget, Extent, Gpa, PAGE_BYTES, PageWalker, PhysError, PhysRead, Process, ProcessSource, Step, WalkError,
    WalkErrorKind,
};
use vgpu_perception_testkit::windows::{
    EntryState, LAYOUTS, LOADER_TABLE, Layout, Options, PageState, PrototypeState, Shape, StartBlock, Trim, VadShape,
    WindowsGuest,
};
use vgpu_perception_testkit::{Counting, Ram, Rng, flags};

fn build(name: &str, options: Options) -> WindowsGuest {
    WindowsGuest::build(&Layout::named(name), Shape::FourLevel, options)
}

/// Loads of a search from nothing, and by how much a step overdrew its budget.
fn search(ram: &Counting<&Ram>, budget: u64) -> (Option<NtKernel>, u64, u64) {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut search = KernelSearch::new(None, &mut scratch);
    let (mut all, mut overdrawn) = (0, 0);
    loop {
        let step = search.step(ram, &mut Budget::new(budget)).unwrap();
        let count = ram.take().accesses();
        all += count;
        overdrawn = overdrawn.max(count.saturating_sub(budget));
        match step {
            Step::Found(kernel) => return (Some(kernel), all, overdrawn),
            Step::Pending => {}
            Step::Done => return (None, all, overdrawn),
        }
    }
}

/// Of guests that are as they should be.
#[test]
fn an_attach_reads_little() {
    let mut most = [0; 4];
    for layout in LAYOUTS {
        let windows = WindowsGuest::build(layout, Shape::FourLevel, Options::default());
        let pages = windows.ram.present_pages().count() as u64;
        let ram = Counting::new(&windows.ram);
        let kernel = NtKernel::attach(&ram, windows.truth.kcr3, None).unwrap();
        let given = ram.take().accesses();
        kernel.revalidate(&ram).unwrap();
        let warm = ram.take().accesses();
        let (found, cold, overdrawn) = search(&ram, 1000);
        assert_eq!(found.map(|found| found.root), Some(kernel.root));
        assert!(warm <= 40, "{}: {warm} loads to re-validate", layout.name);
        assert!(cold <= 20 * pages + (1 << 23), "{}: {cold} loads from nothing", layout.name);
        assert!(overdrawn <= Budget::PIECE, "{}: a step overdrew by {overdrawn}", layout.name);
        for (most, count) in most.iter_mut().zip([given, warm, cold, overdrawn]) {
            *most = count.max(*most);
        }
    }
    println!("at most {most:?} loads: from a root, re-validated, from nothing, beyond the budget of a step");
}

/// Garbage everywhere: pages that read like tables and lead to each other, images without end, lists of nothing. No
/// step runs longer than its budget says.
#[test]
fn no_step_runs_on_in_garbage() {
    for seed in 0..6 {
        let ram = Ram::flat(16 << 20);
        let mut rng = Rng::new(seed);
        let pages = (16_u64 << 20) / PAGE_BYTES;
        for page in 0..pages {
            for word in 0..512 {
                // Entries that lead to pages of this RAM, with bits that a table has; every page names itself once.
                let to = if word == 0x1ed { page } else { rng.below(pages) };
                let value = match rng.below(if seed % 2 == 0 { 8 } else { 40 }) {
                    0 => rng.next_u64(),
                    1 => 0,
                    2 => 0x0000_0001_0006_5de9,
                    3 => 0x0043_003a_005c_0057,
                    _ => (to * PAGE_BYTES) | 0x63,
                };
                let value = if word == 0x1ed { (to * PAGE_BYTES) | 0x63 } else { value };
                ram.write_u64(Gpa::new(page * PAGE_BYTES + word * 8), value);
            }
        }
        let counted = Counting::new(&ram);
        for budget in [1, 1000] {
            let mut scratch = vec![RootCandidate::default(); 64];
            let mut search = KernelSearch::new(None, &mut scratch);
            for _ in 0..4000 {
                let step = search.step(&counted, &mut Budget::new(budget)).unwrap();
                let count = counted.take().accesses();
                assert!(count <= budget + Budget::PIECE, "{seed}: {count} loads in a step of {budget}");
                if step == Step::Done {
                    break;
                }
            }
        }
    }
}

/// A list that goes on for longer than any guest's: each node leads back to the one before it, and none is a process.
#[test]
fn a_list_without_an_end_is_followed_so_far() {
    let mut windows = build("10 2004", Options::default());
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
    let nodes = u64::from(ProcessList::NODES) + 5000;
    let at = windows.kernel.nonpaged.take(&mut windows.guest, nodes * 16, 16);
    let node = |n: u64| at.wrapping_add(n * 16);
    let links = u64::from(windows.truth.layout.links);
    let last = windows.truth.processes.last().unwrap().eprocess.wrapping_add(links);
    let mut bytes = Vec::new();
    for n in 0..nodes {
        bytes.extend(node(n + 1).get().to_le_bytes());
        bytes.extend(if n == 0 { last.get() } else { node(n - 1).get() }.to_le_bytes());
    }
    windows.write_kernel(at, &bytes);
    windows.write_kernel(last, &at.get().to_le_bytes());
    let ram = Counting::new(&windows.ram);
    let mut source = kernel.processes();
    let (mut found, mut steps) = (0, 0);
    loop {
        steps += 1;
        match source.next_process(&ram, &mut Budget::new(1)).unwrap() {
            Step::Found(_) => found += 1,
            Step::Pending => {}
            Step::Done => break,
        }
    }
    let all = ram.take().accesses();
    assert_eq!(found, windows.truth.processes.len() - 1);
    assert!(source.stats().broken && source.stats().strange > 60_000, "{:?}", source.stats());
    assert!(steps >= u64::from(ProcessList::NODES), "{steps} steps");
    assert!(all <= u64::from(ProcessList::NODES) << 12, "{all} loads");
    println!("{all} loads along {} nodes", ProcessList::NODES);
}

/// The range where the kernel is looked for is full of tables that are the same, and holds no image.
#[test]
fn a_search_for_the_image_in_endless_tables_ends() {
    let windows = build("10 2004", Options { start_block: StartBlock::Missing, ..Options::default() });
    let mut guest = windows.guest.clone();
    let [table, below, lowest, page] = [(); 4].map(|()| guest.new_table());
    for index in 0..512 {
        // Entries that differ in bits that mean nothing: none is passed over as the one before it.
        for (from, to) in [(table, below), (below, lowest), (lowest, page)] {
            guest.ram.write_u64(from.wrapping_add(index * 8), to.get() | flags::KERNEL_TABLE | index << 52);
        }
    }
    let slot = Level::Pml4.index(windows.truth.nt_base) * 8;
    for process in &windows.truth.processes {
        guest.ram.write_u64(process.space.root.wrapping_add(slot), table.get() | flags::KERNEL_TABLE);
    }
    guest.ram.write_u64(LOADER_TABLE.wrapping_add(slot), 0);
    let ram = Counting::new(&windows.ram);
    let root = windows.truth.kcr3;
    assert_eq!(NtKernel::attach(&ram, root, None), Err(NtError::NoImage { root }));
    let once = ram.take().accesses();
    assert!(once <= 1 << 25, "{once} loads for one root");
    // Every root leads into the same tables: only some of them are followed to the end.
    let (found, all, overdrawn) = search(&ram, 1 << 16);
    assert_eq!(found, None);
    assert!(once > 1 << 20 && all <= 40 * once, "{all} loads for all roots");
    assert!(overdrawn <= Budget::PIECE, "{overdrawn} loads beyond the budget of a step");
    println!("{once} loads for one root, {all} for all");

    // The same from a root that is given, in steps: no one of them runs to the end.
    let mut attach = GuestAttach::new(root, None);
    let mut workspace = Workspace::new(vec![RootCandidate::default(); 64], vec![Process::default(); 8], vec![0; 64]);
    let mut finder = Finder::new(&mut workspace).root(root);
    let mut done = [false; 2];
    let mut steps = 0;
    while done != [true; 2] {
        if !done[0] {
            let step = attach.step(&ram, &mut Budget::new(1 << 16)).unwrap();
            // The root leads to no Windows, and then counts as one of any kernel.
            done[0] = matches!(step, Step::Found(GuestKernel::Roots(_)));
        } else {
            done[1] = finder.step_kernel(&ram, &mut Budget::new(1 << 16)).unwrap();
        }
        let loads = ram.take().accesses();
        assert!(loads <= (1 << 16) + Budget::PIECE, "{loads} loads in a step");
        steps += 1;
    }
    assert!(steps > 30, "{steps} steps");
    assert_eq!(attach.not_windows(), Some(NtError::NoImage { root }));
    assert_eq!(finder.not_windows(), Some(NtError::NoImage { root }));
}

/// While a kernel that stands still is put aside, the search for another goes on in pieces: what a piece overdraws is
/// charged too. Each of these pages is compared with the roots of 32 kernels.
#[test]
fn pieces_of_a_search_are_charged_whole() {
    let windows = build("10 2004", Options::default());
    let mut guest = windows.guest.clone();
    let image = guest.entry(windows.kernel.space, Level::Pml4, windows.truth.nt_base).unwrap();
    for n in 0..96 {
        let page = guest.new_table();
        guest.ram.write_u64(page.wrapping_add(0x1f0 * 8), image);
        for slot in 300..304 {
            guest.ram.write_u64(page.wrapping_add(slot * 8), (0x100_0000 + (slot + n * 8) * 4096) | 0x63);
        }
    }
    let ram = Counting::new(&windows.ram);
    for budget in [1000, 20_000, 36_769, 1 << 16] {
        let (found, _, overdrawn) = search(&ram, budget);
        assert!(found.is_some(), "where nothing moves, the one that stands still is given");
        println!("{overdrawn} loads beyond a budget of {budget}");
        assert!(overdrawn <= Budget::PIECE, "{overdrawn} loads beyond a budget of {budget}");
    }
}

/// A tree of descriptors that is a chain, as deep as memory allows.
#[test]
fn a_tree_without_an_end_is_followed_so_far() {
    fn untouched(index: u64) -> PageState {
        let away = PageState { entry: EntryState::Untouched, prototype: PrototypeState::Transition };
        if index == 0 { PageState::PRESENT } else { away }
    }
    let mut windows = build("10 2004", Options { trim: Trim::With(untouched), ..Options::default() });
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
    assert_eq!(windows.truth.layout.vad, VadShape::Win81);
    let agent = windows.truth.processes[windows.truth.producer].clone();
    let mut source = kernel.processes();
    let space = loop {
        match source.next_process(&windows.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(process) if process.eprocess == Some(agent.eprocess) => break process.space,
            Step::Found(_) | Step::Pending => {}
            Step::Done => panic!("the producer is on the list"),
        }
    };
    let ram = Counting::new(&windows.ram);
    let shared = &windows.truth.shared;
    let page = shared.pages.iter().find(|page| page.index > 0).unwrap();
    let gva = shared.region.base.wrapping_add(page.index * PAGE_BYTES);
    assert_eq!(PageWalker::new(&ram, space).translate(gva).unwrap().gpa, page.frame.unwrap());
    let honest = ram.take().accesses();

    // Every node lies left of the page and has a child on its right.
    let chain = windows.kernel.nonpaged.take(&mut windows.guest, 1 << 16, 16);
    let node = |n: u64| chain.wrapping_add(n * 0x90);
    for n in 0..400 {
        let words = [0, node(n + 1).get(), if n == 0 { 0 } else { node(n - 1).get() }, (n + 16) << 32 | (n + 16), 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        windows.write_kernel(node(n), &bytes);
    }
    windows.set(&agent, windows.truth.layout.vad_root, 8, chain.get());
    assert!(matches!(
        PageWalker::new(&ram, space).translate(gva),
        Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. })
    ));
    let endless = ram.take().accesses();
    assert!(honest < endless && endless <= 1 << 13, "{honest} and {endless} loads");

    // A node that is its own child is no node.
    windows.write_kernel(chain.wrapping_add(8), &chain.get().to_le_bytes());
    assert!(matches!(
        PageWalker::new(&ram, space).translate(gva),
        Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. })
    ));
    assert!(ram.take().accesses() < 100);
    println!("{honest} loads for a page of a shared section, {endless} down an endless tree");
}

/// Which lines of RAM were loaded.
struct Lines<'r> {
    ram: &'r Ram,
    seen: RefCell<HashSet<u64>>,
}

impl PhysRead for Lines<'_> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        for line in gpa.get() / 64..=(gpa.get() + dst.len() as u64 - 1) / 64 {
            self.seen.borrow_mut().insert(line);
        }
        self.ram.read(gpa, dst)
    }
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.seen.borrow_mut().insert(gpa.get() / 64);
        self.ram.load_u32(gpa)
    }
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.seen.borrow_mut().insert(gpa.get() / 64);
        self.ram.load_u64(gpa)
    }
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.ram.next_extent(from)
    }
}

/// With nothing known, a page of RAM that is no table costs one pair of lines that lie side by side: in the sieve for
/// tables that name themselves and in the one for roots together.
#[test]
fn the_first_sieve_takes_one_pair_of_lines_a_page() {
    const PAGES: u64 = 4096;
    let ram = Ram::flat((PAGES + 256) * PAGE_BYTES);
    let mut rng = Rng::new(3);
    for page in 256..256 + PAGES {
        for word in 0..512 {
            ram.write_u64(Gpa::new(page * PAGE_BYTES + word * 8), rng.next_u64());
        }
    }
    let lines = Lines { ram: &ram, seen: RefCell::default() };
    let mut scratch = vec![RootCandidate::default(); 64];
    let mut search = KernelSearch::new(None, &mut scratch);
    assert_eq!(search.step(&lines, &mut Budget::unlimited()), Ok(Step::Done));
    let seen = lines.seen.into_inner();
    let last = seen.iter().filter(|line| *line % 64 == 63).count() as u64;
    assert_eq!(last, PAGES, "the last line of each page");
    // Of random pages one in thirty has a last line that could be a table's; of those more is looked at.
    let others: HashSet<_> = seen.iter().filter(|line| *line % 64 < 62).map(|line| line / 64).collect();
    assert!(others.len() as u64 <= PAGES / 20, "more than the last pair of {} of {PAGES} pages", others.len());
}
