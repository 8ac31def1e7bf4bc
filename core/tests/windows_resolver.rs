//! What the Windows resolver costs the operations that ask it, on honest guests and on hostile ones: counted, not
//! timed.

use vgpu_perception::paging::{LeafCursor, LeafStep, Level};
use vgpu_perception::process::nt::{NtKernel, NtPaging};
use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::scan::{Discovery, ScanScratch, probe};
use vgpu_perception::{
    AddressSpace, Budget, Gpa, Gva, NextUse, PAGE_BYTES, PageWalker, PhysError, PhysRead, Process, ProcessSource,
    Region, Step,
};
use vgpu_perception_testkit::windows::{
    EntryState, Layout, Options, PageState, PrototypeState, Shape, Trim, WindowsGuest,
};
use vgpu_perception_testkit::{Counting, RegionImage, Ring, flags};

const PAGES_OF_A_FRAME: u64 = 3840 * 2160 * 4 / PAGE_BYTES;

fn away(index: u64, entry: EntryState, prototype: PrototypeState) -> PageState {
    if index < 2 { PageState::PRESENT } else { PageState { entry, prototype } }
}
fn direct(index: u64) -> PageState {
    away(index, EntryState::Direct, PrototypeState::Valid)
}
fn consult(index: u64) -> PageState {
    away(index, EntryState::ConsultVad, PrototypeState::Transition)
}
fn untouched(index: u64) -> PageState {
    away(index, EntryState::Untouched, PrototypeState::Valid)
}
/// A state for each page of a region.
type States = fn(u64) -> PageState;
const STATES: [(&str, States); 3] = [("direct", direct), ("consult", consult), ("untouched", untouched)];

fn build(layout: &str, trim: States, ring: Ring, l1tf: bool) -> WindowsGuest {
    let image = RegionImage { width: 3840, height: 2160, frames: 1, ..RegionImage::default() };
    let options = Options { trim: Trim::With(trim), ring, image, l1tf, ..Options::default() };
    WindowsGuest::build(&Layout::named(layout), Shape::FourLevel, options)
}

fn producer_space(windows: &WindowsGuest) -> AddressSpace<NtPaging> {
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
    let agent = &windows.truth.processes[windows.truth.producer];
    let mut source = kernel.processes();
    loop {
        match source.next_process(&windows.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(process) if process.eprocess == Some(agent.eprocess) => return process.space,
            Step::Found(_) | Step::Pending => {}
            Step::Done => panic!("the producer is on the list"),
        }
    }
}

/// One space and nothing else.
struct One(Option<AddressSpace<NtPaging>>);

impl ProcessSource for One {
    type Resolver = NtPaging;
    fn next_process<M: PhysRead>(&mut self, _mem: &M, _b: &mut Budget) -> Result<Step<Process<NtPaging>>, PhysError> {
        Ok(self.0.take().map_or(Step::Done, |space| Step::Found(Process::unnamed(space))))
    }
}

/// Scans one space with small budgets; gives the candidates, all loads, and by how much a step overdrew at most.
fn scan(windows: &WindowsGuest, space: AddressSpace<NtPaging>, budget: u64, most: u64) -> (Vec<Gva>, u64, u64) {
    let mem = Counting::new(&windows.ram);
    let mut processes = vec![Process::default(); 4];
    let words = ScanScratch::<()>::page_bitmap_words(Gpa::new(6 << 30));
    let mut bitmap = vec![0; usize::try_from(words).unwrap()];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut bitmap };
    let mut discovery = Discovery::new(One(Some(space)), scratch);
    let (mut found, mut all, mut worst) = (Vec::new(), 0, 0);
    loop {
        let step = discovery.step(&mem, &mut Budget::new(budget)).unwrap();
        let count = mem.take().accesses();
        all += count;
        worst = worst.max(count.saturating_sub(budget));
        match step {
            Step::Found(candidate) => found.push(candidate.base),
            Step::Pending => assert!(all < most, "{all} loads and no end"),
            Step::Done => return (found, all, worst),
        }
    }
}

#[test]
fn a_region_that_was_trimmed_is_probed_and_scanned_for_little() {
    for layout in ["8.1", "10 2004", "11 26H1"] {
        for (name, trim) in STATES {
            for l1tf in [true, false] {
                let windows = build(layout, trim, Ring::All, l1tf);
                let space = producer_space(&windows);
                let base = windows.truth.shared.region.base;
                let mem = Counting::new(&windows.ram);
                probe(&mem, &space, base).unwrap();
                let count = mem.take().accesses();
                println!("{layout} {name} {l1tf}: {count} loads to probe");
                assert!(count <= 100_000, "{layout} {name} {l1tf}: {count} loads to probe");
                let (found, all, worst) = scan(&windows, space, 1000, 1 << 24);
                println!("  {all} loads to scan, overdrawn by {worst}");
                assert_eq!(found, [base], "{layout} {name}");
                assert!(worst <= Budget::PIECE, "{layout} {name} {l1tf}: overdrawn by {worst}");
            }
        }
    }
}

#[test]
fn a_page_of_a_trimmed_frame_costs_eight_loads() {
    for layout in ["8.1", "10 2004", "11 26H1"] {
        for (name, trim) in STATES {
            let windows = build(layout, trim, Ring::Written, true);
            let space = producer_space(&windows);
            let mut dst = vec![0; 34 << 20];
            let mem = Counting::new(&windows.ram);
            let mut region = Region::new(space, windows.truth.shared.region.base);
            let sample = region.sample_frame(&mem, &mut FrameScratch::new(), &mut dst, NextUse::Unknown);
            let Ok(Sample::Fresh(info)) = sample else { panic!("{layout} {name}: {sample:?}") };
            assert_eq!(dst[..info.bytes], windows.truth.shared.region.image.pixels(info.desc.frame_id));
            let count = mem.take();
            // What is copied is no load of a table.
            let loads = count.accesses() - count.runs;
            println!("{layout} {name}: {loads} loads for {PAGES_OF_A_FRAME} pages, {} runs", count.runs);
            assert!(loads <= 8 * PAGES_OF_A_FRAME, "{layout} {name}: {loads} loads for {PAGES_OF_A_FRAME} pages");
        }
    }
}

/// The deepest tree, and the longest chain of subsections before the right one.
#[test]
fn a_hostile_tree_costs_so_much() {
    let mut windows = build("10 2004", consult, Ring::Written, true);
    let space = producer_space(&windows);
    let agent = windows.truth.processes[windows.truth.producer].clone();
    let base = windows.truth.shared.region.base;
    let (array, _) = windows.truth.shared.section.arrays[0];
    let control = windows.truth.shared.section.control_area.get();
    let nodes = windows.kernel.nonpaged.take(&mut windows.guest, 64 * 0xa0, 0x10).get();
    let subs = windows.kernel.nonpaged.take(&mut windows.guest, 257 * 0x40, 0x10).get();
    let put = |at: u64, value: u64| windows.write_kernel(Gva::new(at), &value.to_le_bytes());
    let node = |n: u64| nodes + n * 0xa0;
    let sub = |n: u64| subs + n * 0x40;
    let depth = 60;
    for n in 0..=depth {
        let last = n == depth;
        let first = base.get() / PAGE_BYTES;
        let (first, end) = if last { (first, first + 25_087) } else { (n + 16, n + 16) };
        let around = [0, if last { 0 } else { node(n + 1) }, if n == 0 { 0 } else { node(n - 1) }];
        let pages = [(first & 0xffff_ffff) | (end & 0xffff_ffff) << 32, first >> 32 | (end >> 32) << 8];
        for (at, word) in around.into_iter().chain(pages).enumerate() {
            put(node(n) + 8 * at as u64, word);
        }
    }
    for (at, word) in [(0x48, sub(0)), (0x50, array.get()), (0x58, array.get())] {
        put(node(depth) + at, word);
    }
    for n in 0..255 {
        let last = n == 254;
        put(sub(n), control);
        put(sub(n) + 8, array.get() + n * 8);
        put(sub(n) + 0x10, if last { 0 } else { sub(n + 1) });
        put(sub(n) + 0x28, if last { 0xffff << 32 } else { 1 << 32 });
    }
    windows.set(&agent, windows.truth.layout.vad_root, 8, node(0));
    let mem = Counting::new(&windows.ram);
    let mut dst = vec![0; 34 << 20];
    let mut region = Region::new(space, base);
    let sample = region.sample_frame(&mem, &mut FrameScratch::new(), &mut dst, NextUse::Unknown);
    let loads = mem.take();
    assert!(matches!(sample, Ok(Sample::Fresh(_))), "{sample:?}");
    let loads = loads.accesses() - loads.runs;
    // Once a piece of 2 MiB the way to the section, and twice, since what was found is looked up again.
    let most = 8 * PAGES_OF_A_FRAME + 2 * 18 * (1 << 13);
    println!("{loads} loads for a frame under a hostile tree, of {most}");
    assert!(loads <= most, "{loads} loads for a frame under a hostile tree");
}

/// One absent PML4E, one descriptor over all of the user half, prototypes that all read alike.
fn endless(value: impl Fn(Gpa) -> u64) -> (WindowsGuest, AddressSpace<NtPaging>) {
    let mut windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let agent = windows.truth.processes[windows.truth.producer].clone();
    let [t3, t2, t1, page, data] = [(); 5].map(|()| windows.guest.new_table());
    for n in 0..512 {
        for (from, to) in [(t3, t2), (t2, t1), (t1, page)] {
            windows.ram.write_u64(from.wrapping_add(n * 8), to.get() | flags::KERNEL_TABLE);
        }
        windows.ram.write_u64(page.wrapping_add(n * 8), value(data));
    }
    let root = Gpa::new(windows.truth.kcr3.table().get());
    let free = |n: &u64| windows.ram.load_u64(root.wrapping_add(n * 8)) == Ok(0);
    let slot = (256..512_u64).find(free).unwrap();
    windows.ram.write_u64(root.wrapping_add(slot * 8), t3.get() | flags::KERNEL_TABLE);
    let array = 0xffff_0000_0000_0000 | slot << 39;
    let at = windows.kernel.nonpaged.take(&mut windows.guest, 0x400, 0x10).get();
    let (node, sub, control, segment) = (at, at + 0x100, at + 0x200, at + 0x300);
    let put = |at: u64, value: u64| windows.write_kernel(Gva::new(at), &value.to_le_bytes());
    let (first, last) = (0x10_u64, (1_u64 << 35) - 1);
    (0..0x80).for_each(|n| put(at + n * 8, 0));
    for (at, word) in [
        (node + 0x18, (first & 0xffff_ffff) | (last & 0xffff_ffff) << 32),
        (node + 0x20, first >> 32 | (last >> 32) << 8),
        (node + 0x48, sub),
        (node + 0x50, array),
        (node + 0x58, array + 8),
        (sub, control),
        (sub + 8, array),
        (sub + 0x10, sub),
        (sub + 0x28, 0xffff_ffff << 32),
        (control, segment),
        (segment, control),
    ] {
        put(at, word);
    }
    windows.set(&agent, windows.truth.layout.vad_root, 8, node);
    let space = producer_space(&windows);
    assert!(space.resolver.knows_descriptors());
    (windows, space)
}

/// Every free entry of the top table says "ask the descriptor", and the descriptor has a page for everything.
#[test]
fn a_space_without_an_end_is_left_in_time() {
    let (windows, space) = endless(|data| data.get() | flags::P | flags::W);
    for n in 0..256 {
        let at = space.root.table().wrapping_add(n * 8);
        if windows.ram.load_u64(at) == Ok(0) {
            windows.ram.write_u64(at, 0xffff_ffff_0000_0420);
        }
    }
    let (_, all, worst) = scan(&windows, space, 1 << 16, 1 << 31);
    println!("{all} loads to scan a space without an end, overdrawn by {worst}");
    assert!(worst <= Budget::PIECE, "overdrawn by {worst}");
}

/// The same, and nothing of it is in RAM: passed over, a page of prototypes at a time.
#[test]
fn what_is_absent_is_passed_over_at_once() {
    let (windows, space) = endless(|_| 0x80);
    windows.ram.write_u64(space.root.table().wrapping_add(8 * 8), 0xffff_ffff_0000_0420);
    let mem = Counting::new(&windows.ram);
    let walker = PageWalker::new(&mem, space);
    let mut cursor = LeafCursor::new(Gva::new(8 << 39), Gva::new((8 << 39) + (1 << 30)));
    let mut skipped = 0;
    loop {
        match walker.next_leaf(&mut cursor, &mut Budget::unlimited()) {
            LeafStep::Skipped(_) => skipped += 1,
            LeafStep::Done => break,
            step => panic!("{step:?}"),
        }
    }
    let loads = mem.take().accesses();
    println!("{loads} loads, {skipped} steps over 1 GiB that is not in RAM");
    assert!(skipped <= (1 << 18) / 512 + 1, "{skipped} steps over 2^18 pages");
    assert!(loads <= 2 * (1 << 18), "{loads} loads over 2^18 pages");

    // Private memory, and what no descriptor covers: in one go, up to the next that does.
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let space = producer_space(&windows);
    let slot = (1..256_u64).find(|n| windows.ram.load_u64(space.root.table().wrapping_add(n * 8)) == Ok(0)).unwrap();
    windows.ram.write_u64(space.root.table().wrapping_add(slot * 8), 0xffff_ffff_0000_0420);
    let mem = Counting::new(&windows.ram);
    let walker = PageWalker::new(&mem, space);
    let mut cursor = LeafCursor::new(Gva::new(slot << 39), Gva::new((slot + 1) << 39));
    let mut steps = 0;
    while walker.next_leaf(&mut cursor, &mut Budget::unlimited()) != LeafStep::Done {
        steps += 1;
    }
    assert!(steps <= 4, "{steps} steps over 512 GiB of nothing");
    assert!(mem.take().accesses() < 2000);
    assert_eq!(Level::Pml4.index(Gva::new(slot << 39)), slot);
}
