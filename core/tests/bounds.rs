//! Bounded work: how much of a guest's memory each operation reads at most, whatever the guest shows. Counted, not
//! timed.
//!
//! Every bound is the one that the operation's documentation states. Where an image reaches it, the count is pinned
//! from below too, so that a bound cannot be right only because the image was harmless.

use core::cell::Cell;

use vgpu_perception::abi::{self, producer};
use vgpu_perception::paging::{
    LeafCursor, LeafStep, Level, NotPresentEntry, NotPresentResolver, PageWalker, Pte, Resolution, Resolved, Rights,
    Trail,
};
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection, guess_mode};
use vgpu_perception::region::{FrameScratch, Region, Sample};
use vgpu_perception::scan::{Discovery, ScanScratch, probe};
use vgpu_perception::{
    Budget, Extent, Gpa, Gva, NextUse, PageSize, PagingMode, PhysError, PhysRead, Process, ProcessSource, RunList, Step,
};
use vgpu_perception_testkit::linux::{LinuxKernel, LinuxOptions, StandardLinux, standard_linux};
use vgpu_perception_testkit::{
    Counting, Field, GuestBuilder, Hooked, Mutating, Placement, Ram, RegionImage, Ring, Rng, Space, flags, hostile,
};

const MODES: [PagingMode; 2] = [PagingMode::FourLevel, PagingMode::FiveLevel];

/// Tables that never end, under both depths.
fn endless() -> Vec<(&'static str, GuestBuilder, Space)> {
    type Make = fn(&mut GuestBuilder) -> Space;
    let makes: [(&str, Make); 4] = [
        ("its own tables", hostile::own_tables),
        ("fan out", hostile::fan_out),
        ("fan out in turn", hostile::fan_out_in_turn),
        ("wide", hostile::wide),
    ];
    let mut images = Vec::new();
    for mode in MODES {
        for (name, make) in makes {
            let mut guest = GuestBuilder::new(Ram::flat(64 << 20), 1).with_mode(mode);
            let space = make(&mut guest);
            images.push((name, guest, space));
        }
    }
    images
}

const fn levels(mode: PagingMode) -> u64 {
    mode.top() as u64
}

#[test]
fn a_translation_reads_one_entry_a_level() {
    let mut rng = Rng::new(3);
    for (name, guest, space) in endless() {
        let mem = Counting::new(&guest.ram);
        let walker = PageWalker::new(&mem, space.space());
        let mut most = 0;
        for _ in 0..10_000 {
            let _ = walker.translate(Gva::new(rng.next_u64() >> rng.below(40)));
            most = most.max(mem.take().accesses());
        }
        assert!(most <= levels(space.mode), "{name}: {most}");
        assert!(walker.translate(Gva::new(0)).is_err() || mem.take().accesses() >= 2, "{name}: something was walked");
    }
}

#[test]
fn a_copy_walks_once_a_page() {
    for (name, guest, space) in endless() {
        let mem = Counting::new(&guest.ram);
        let walker = PageWalker::new(&mem, space.space());
        for start in [0, 0xfff, 0x7fff_f000] {
            let _ = walker.read(Gva::new(start), &mut [0; 64 << 10]);
            let most = 17 * (levels(space.mode) + 1);
            assert!(mem.take().accesses() <= most, "{name} at {start:#x}");
        }
    }
}

/// What a range may cost: a walk for every 2 MiB window that it touches, an entry for every page.
fn range_bound(mode: PagingMode, gva: u64, len: u64) -> u64 {
    let touched = |size: u64| (gva + len - 1) / size - gva / size + 1;
    levels(mode) * touched(2 << 20) + touched(4096)
}

#[test]
fn a_range_walks_once_a_window() {
    let mut out = RunList::<8192>::new();
    for (name, guest, space) in endless() {
        let mem = Counting::new(&guest.ram);
        let walker = PageWalker::new(&mem, space.space());
        for (start, len) in [(0, 1), (0xfff, 8 << 20), (0x1f_f800, 32 << 20), (0x7fff_f000, 16 << 20)] {
            let _ = walker.runs(Gva::new(start), len, &mut out);
            let most = range_bound(space.mode, start, len);
            let count = mem.take().accesses();
            assert!(count <= most, "{name} at {start:#x} for {len:#x}: {count} > {most}");
        }
    }
}

/// Finds the page of every absent entry in RAM, at the cost of one load.
#[derive(Clone, Copy, Debug)]
struct OneLoad(Gpa);

impl NotPresentResolver for OneLoad {
    const LOADS: u64 = 1;
    type Lookup = ();

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        entry: &NotPresentEntry,
        _lookup: &mut (),
        cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        cost.spend(1);
        mem.load_u64(self.0)?;
        Ok(Resolved::for_page(entry.gva, Resolution::Page { gpa: self.0, rights: Some(Rights::ALL) }))
    }
}

/// Every other page trimmed: no entry is read in vain.
#[test]
fn a_range_of_trimmed_pages_is_bounded_too() {
    const PAGES: u64 = 512;
    let mut guest = GuestBuilder::new(Ram::flat(16 << 20), 1);
    let space = guest.new_space();
    let start = Gva::new(0x4000_0000);
    guest.map_new(space, start, PAGES * 4096, Placement::Scattered, flags::USER_RW);
    for page in (1..PAGES).step_by(2) {
        guest.set_entry(space, Level::Pt, start.wrapping_add(page * 4096), 0x800);
    }
    let mem = Counting::new(&guest.ram);
    let walker = PageWalker::new(&mem, space.space().with_resolver(OneLoad(Gpa::new(0x1000))));
    let mut out = RunList::<1024>::new();
    assert_eq!(walker.runs(start, PAGES * 4096, &mut out), Ok(PAGES * 4096));
    let count = mem.take().accesses();
    let trimmed = PAGES / 2;
    // A walk to the table, an entry for every page, and the resolver's load for every other one.
    assert_eq!(count, 4 + (PAGES - 1) + trimmed);
}

#[test]
fn an_enumeration_reads_what_its_budget_and_its_tables_allow() {
    const TABLES: u64 = 300;
    for (name, guest, space) in endless() {
        for stop in [false, true] {
            let mem = Counting::new(&guest.ram);
            let walker = PageWalker::new(&mem, space.space());
            let fresh = LeafCursor::new(Gva::new(0), space.mode.user_end()).with_tables(TABLES);
            let mut cursor = if stop { fresh.stopping_at_tables() } else { fresh };
            let mut all = 0;
            loop {
                let mut budget = Budget::new(100);
                let step = walker.next_leaf(&mut cursor, &mut budget);
                let count = mem.take().accesses();
                assert!(count <= 100 - budget.left(), "{name}: {count} loads, {} spent", 100 - budget.left());
                all += count;
                if step == LeafStep::Done {
                    break;
                }
            }
            assert!(all <= 512 * TABLES, "{name}: {all}");
            if name == "wide" && space.mode == PagingMode::FourLevel {
                // The one that is not passed over by what repeats in it: the count is near its bound.
                assert!(stop || all > 400 * TABLES / 2, "{name}: {all} is not hostile");
            }
        }
    }
}

#[test]
fn a_probe_reads_at_most_26_000_words() {
    for (name, guest, space) in endless() {
        let mem = Counting::new(&guest.ram);
        for base in [0, 0x20_0000, 0x4000_1000] {
            let _ = probe(&mem, &space.space(), Gva::new(base));
            let count = mem.take().accesses();
            assert!(count <= 26_000, "{name}: {count}");
        }
    }
    // The most that an honest one costs: every page of the ring is there, and none of its tables begins with it.
    let mut guest = GuestBuilder::new(Ram::flat(256 << 20), 2);
    let space = guest.new_space();
    let (base, image) = (Gva::new(0x7000_0010_1000), RegionImage::default());
    vgpu_perception_testkit::Region::place(&mut guest, space, base, image, Placement::Scattered, Ring::All);
    let mem = Counting::new(&guest.ram);
    assert!(probe(&mem, &space.space(), base).is_ok());
    let count = mem.take().accesses();
    assert!((24_576..=26_000).contains(&count), "{count}");
}

fn guest(placement: Placement, image: RegionImage) -> (StandardLinux, Region) {
    let linux = standard_linux(LinuxOptions { placement, image, ..LinuxOptions::default() });
    let region = Region::new(linux.region.space.space(), linux.region.base);
    (linux, region)
}

/// The words that each small read may load in one try, a walk included.
const LINE: u64 = 17 + 5;

fn lines<M: PhysRead>(mem: &Counting<M>, region: &mut Region) -> u64 {
    let mut most = 0;
    let mut note = || most = most.max(mem.take().accesses());
    let _ = region.read_cursor(mem);
    note();
    let _ = region.read_geometry(mem);
    note();
    let _ = region.read_status(mem);
    note();
    let pulse = region.read_pulse(mem);
    note();
    if let Ok(Sample::Fresh(pulse)) = pulse {
        let _ = region.confirm_alive(mem, pulse);
        note();
    }
    most
}

#[test]
fn small_reads_take_8_tries_at_most() {
    let (linux, mut region) = guest(Placement::Scattered, RegionImage::default());
    let ram = &linux.guest.ram;
    let quiet = lines(&Counting::new(ram), &mut region);
    assert!(quiet <= LINE, "{quiet}");

    // A writer that moves every number, and a kernel that moves the page, before every single load.
    let other = ram.clone();
    other.touch(Gpa::new(0x3000), 4096);
    let entry = linux.guest.entry_at(linux.region.space, Level::Pt, linux.region.base).unwrap();
    let mapped = ram.load_u64(entry).unwrap();
    let elsewhere = mapped & !Pte::ADDRESS | 0x3000;
    let numbers = [Field::CURSOR_SEQ, Field::GEOM_SEQ, Field::RUN_EPOCH];
    let storms: [&dyn Fn(u64); 2] =
        [&|number| numbers.iter().for_each(|field| linux.region.set(ram, *field, 2 * number)), &|number| {
            ram.write_u64(entry, if number % 2 == 0 { elsewhere } else { mapped });
        }];
    for (which, storm) in storms.iter().enumerate() {
        let mem = Counting::new(Hooked::new(ram, |event: vgpu_perception_testkit::ReadEvent| storm(event.number)));
        let count = lines(&mem, &mut region);
        assert!((8 * 6..=8 * LINE).contains(&count), "storm {which}: {count}");
    }
}

/// What a frame of `pages` may cost in one try: the producer page's words and walk, a copy for every page, and its
/// page-table entries twice. A stretch of 2 MiB touches two page tables unless it begins with one.
fn frame_bound(bytes: u64) -> u64 {
    let windows = 2 * bytes.div_ceil(2 << 20);
    let pages = bytes.div_ceil(4096);
    LINE + pages + 2 * (pages + 5 * windows)
}

#[test]
fn a_frame_is_copied_8_times_at_most() {
    let image = RegionImage { width: 1280, height: 720, ..RegionImage::default() };
    let bytes = u64::from(image.width * image.height * 4);
    for placement in [Placement::Scattered, Placement::Fragments64K, Placement::Large2M] {
        let (linux, mut region) = guest(placement, image);
        let ram = &linux.guest.ram;
        let mut dst = vec![0; usize::try_from(bytes).unwrap()];
        let mut sample = |mem: &dyn Fn(&mut Region, &mut [u8]) -> bool| {
            region.forget_frames();
            mem(&mut region, &mut dst)
        };
        let counted = Counting::new(ram);
        assert!(sample(&|region, dst| {
            let mut scratch = FrameScratch::new();
            region.sample_frame(&counted, &mut scratch, dst, NextUse::Unknown).unwrap().fresh().is_some()
        }));
        let quiet = counted.take();
        assert_eq!(quiet.run_bytes, bytes, "{placement:?}: each byte once");
        assert!(quiet.accesses() <= frame_bound(bytes), "{placement:?}: {quiet:?}");

        let latest = linux.region.get(ram, Field::LATEST);
        let seq = linux.region.gpa(producer::seq(u32::try_from(latest).unwrap()).unwrap()).unwrap();
        let next = Cell::new(100);
        let torn = Counting::new(Hooked::new(ram, |event: vgpu_perception_testkit::ReadEvent| {
            if event.gpa == seq {
                next.set(next.get() + 2);
                ram.write_u32(seq, next.get());
            }
        }));
        assert!(!sample(&|region, dst| {
            let mut scratch = FrameScratch::new();
            region.sample_frame(&torn, &mut scratch, dst, NextUse::Unknown).unwrap().fresh().is_some()
        }));
        let count = torn.take();
        assert!(count.accesses() <= 8 * frame_bound(bytes), "{placement:?}: {count:?}");
    }
}

#[test]
fn reads_are_bounded_where_nothing_is_read_the_same_twice() {
    let (linux, _) = guest(Placement::Scattered, RegionImage::default());
    for seed in 0..300 {
        let mem = Counting::new(Mutating::new(&linux.guest.ram, seed, 1 + seed % 40));
        let mut region = Region::new(linux.region.space.space(), linux.region.base);
        let count = lines(&mem, &mut region);
        assert!(count <= 8 * LINE, "seed {seed}: {count}");
        let mut dst = vec![0; 1 << 20];
        let _ = region.sample_frame(&mem, &mut FrameScratch::new(), &mut dst, NextUse::Unknown);
        let count = mem.take().accesses();
        assert!(count <= 8 * frame_bound(1 << 20), "seed {seed}: {count}");
        let _ = probe(&mem, &linux.region.space.space(), linux.region.base);
        let count = mem.take().accesses();
        assert!(count <= 26_000, "seed {seed}: {count}");
    }
}

/// A trail is re-read entry by entry.
#[test]
fn a_trail_costs_what_its_walk_cost() {
    let (linux, _) = guest(Placement::Scattered, RegionImage::default());
    let mem = Counting::new(&linux.guest.ram);
    let walker = PageWalker::new(&mem, linux.region.space.space());
    let (_, trail): (_, Trail) = walker.translate_with_trail(linux.region.base).unwrap();
    let walk = mem.take().accesses();
    assert_eq!(trail.still_holds(&mem), Ok(true));
    assert_eq!((walk, mem.take().accesses()), (4, 4));
}

/// Address spaces that were listed beforehand.
struct Listed(Vec<Space>);

impl ProcessSource for Listed {
    type Resolver = vgpu_perception::paging::Hardware;

    fn next_process<M: PhysRead>(
        &mut self,
        _mem: &M,
        _budget: &mut Budget,
    ) -> Result<Step<Process<Self::Resolver>>, PhysError> {
        Ok(self.0.pop().map_or(Step::Done, |space| Step::Found(Process::unnamed(space.space()))))
    }
}

/// All loads of an operation that is driven to its end, and the most by which one step overdrew its budget.
fn drive<M: PhysRead, T>(
    mem: &Counting<M>,
    budget: u64,
    mut step: impl FnMut(&mut Budget) -> Step<T>,
) -> (u64, u64, usize) {
    let (mut all, mut overdrawn, mut found) = (0, 0, 0);
    loop {
        let mut left = Budget::new(budget);
        let step = step(&mut left);
        let count = mem.take().accesses();
        all += count;
        overdrawn = overdrawn.max(count.saturating_sub(budget));
        match step {
            Step::Found(_) => found += 1,
            Step::Pending => {}
            Step::Done => return (all, overdrawn, found),
        }
    }
}

fn roots<S: ProcessSource, M: PhysRead>(mem: &Counting<M>, source: &mut S, budget: u64) -> (u64, u64, usize) {
    drive(mem, budget, |left| source.next_process(mem, left).unwrap())
}

/// 2^16 roots that all agree: the pass over RAM stays one load a page, and a constant for each that passes.
#[test]
fn two_to_the_16_roots() {
    const ROOTS: usize = 1 << 16;
    let mut guest = GuestBuilder::new(Ram::flat(1 << 30), 1);
    let kernel = LinuxKernel::build(&mut guest, false);
    let spaces = hostile::many_roots(&mut guest, &kernel, ROOTS);
    let pages = (1 << 30) / 4096;
    let mem = Counting::new(&guest.ram);

    let mut source = KernelHalf::new(kernel.init.space());
    let (all, overdrawn, found) = roots(&mem, &mut source, 1000);
    assert!(found >= ROOTS, "{found}");
    assert!(all <= 256 + pages + found as u64 * (768 + 1024), "KernelHalf: {all}");
    assert!(overdrawn <= 8 * 1000 + 768 + 1024, "KernelHalf: {overdrawn} beyond its budget");

    let mut candidates = vec![RootCandidate::default(); 4096];
    let mut source = RootElection::new(None, &mut candidates);
    let (all, overdrawn, found) = roots(&mem, &mut source, 1000);
    assert!(found >= ROOTS, "{found}");
    // Two groups: the kernel's and the boot trampoline's. What there is no room for passes twice.
    let (collected, given) = (16 + 512 * 4 + 1024 + 2 * 768, 2 * 768 + 1024);
    let once = 2 * 1024 * 9 + 256;
    assert!(all <= 3 * 10 * pages + (found as u64 + 16) * (collected + given) + once, "RootElection: {all}");
    assert!(overdrawn <= Budget::PIECE, "RootElection: {overdrawn} beyond its budget");
    assert!(guess_mode(&mem, kernel.init.cr3()).is_some());
    assert!(mem.take().accesses() <= 2 * 1024 * 5);

    // Each space maps the same page: in batches, since the memory for processes is smaller than their number.
    let mut processes = vec![Process::default(); 1 << 12];
    let mut frames = vec![0; usize::try_from(pages / 64).unwrap()];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut scan = Discovery::new(Listed(spaces), scratch);
    let (all, overdrawn, found) = drive(&mem, 1000, |left| scan.step(&mem, left).unwrap());
    assert_eq!(found, 0);
    // A top table, the three that they share, no more: enumerated by both passes.
    assert!(all <= ROOTS as u64 * 4 * 4 * 512, "Discovery: {all}");
    assert!(overdrawn <= Budget::PIECE, "Discovery: {overdrawn} beyond its budget");
}

/// The entry of a table, by its page's number and its index.
type Entry = fn(u64, u64) -> u64;

/// Tables without an end that cost no memory: every page is one, whose entries are computed.
struct Computed {
    entry: Entry,
    loads: Cell<u64>,
}

impl Computed {
    const PAGES: u64 = 1 << 14;

    const fn new(entry: Entry) -> Self {
        Self { entry, loads: Cell::new(0) }
    }
}

impl PhysRead for Computed {
    fn read(&self, _gpa: Gpa, _dst: &mut [u8]) -> Result<(), PhysError> {
        unreachable!("a scan reads words")
    }

    fn load_u32(&self, _gpa: Gpa) -> Result<u32, PhysError> {
        unreachable!("a scan reads words of 64 bits")
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.loads.set(self.loads.get() + 1);
        Ok((self.entry)(gpa.get() >> 12, gpa.get() >> 3 & 511))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        let end = Self::PAGES * 4096;
        Ok((from.get() < end).then(|| Extent { start: from, len: end - from.get() }))
    }
}

/// Every page leads to 512 different ones, and none to itself.
const fn tangled(page: u64, index: u64) -> u64 {
    (((page + 1 + index * 31) % Computed::PAGES) << 12) | flags::USER_TABLE
}

/// Two levels of tables, then nothing but pages of 1 GiB.
const fn huge(page: u64, index: u64) -> u64 {
    match page {
        0 => (1 + index) << 12 | flags::USER_TABLE,
        1..=512 => (513 + index) << 12 | flags::USER_TABLE,
        _ => flags::PS | flags::USER_TABLE,
    }
}

#[test]
fn a_scan_of_endless_tables_ends() {
    let images: [(&str, Entry, u64, PagingMode); 3] = [
        ("tangled", tangled, 0, PagingMode::FourLevel),
        ("pages of 1 GiB, four levels", huge, 1, PagingMode::FourLevel),
        ("pages of 1 GiB, five levels", huge, 0, PagingMode::FiveLevel),
    ];
    for (name, entry, root, mode) in images {
        let mem = Computed::new(entry);
        let mut processes = [Process::default(); 1];
        let mut frames = vec![0; (1 << 30) / 4096 / 64];
        let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
        let space = Space { root: Gpa::new(root << 12), mode };
        let mut scan = Discovery::new(Listed(vec![space]), scratch);
        let mut overdrawn = 0;
        loop {
            let before = mem.loads.get();
            let step = scan.step(&mem, &mut Budget::new(100_000)).unwrap();
            overdrawn = overdrawn.max((mem.loads.get() - before).saturating_sub(100_000));
            if step == Step::Done {
                break;
            }
        }
        let all = mem.loads.get();
        let most = 4 * 512 * LeafCursor::TABLES + 2 * 44 * Computed::PAGES + 26_000 * (scan.stats().judged + 1);
        println!("{name}, {mode:?}: {all} loads of {most}, at most {overdrawn} beyond a budget; {:?}", scan.stats());
        assert!(all <= most, "{name}: {all} > {most}");
        assert!(overdrawn <= Budget::PIECE, "{name}: {overdrawn} beyond its budget");
    }
}

/// A process of the guest with a region in it, and where its producer page lies.
fn with_a_region(guest: &mut GuestBuilder) -> (Space, Gpa) {
    let space = guest.new_space();
    let base = Gva::new(0x7000_0000_0000);
    let (image, placement) = (RegionImage::default(), Placement::Scattered);
    let region = vgpu_perception_testkit::Region::place(guest, space, base, image, placement, Ring::Written);
    (space, region.gpa(0).unwrap())
}

/// A page that reads like a producer's, in every entry of many tables: each place is judged, and no step does much more
/// than it was allowed to.
#[test]
fn a_scan_of_a_page_that_is_everywhere_keeps_to_its_budget() {
    const TABLES: u64 = 8;
    let mut guest = GuestBuilder::new(Ram::flat(256 << 20), 4);
    let (space, page) = with_a_region(&mut guest);
    let everywhere = Gva::new(0x1000_0000_0000);
    for n in 0..TABLES * 512 {
        guest.map(space, everywhere.wrapping_add(n * 4096), page, PageSize::Size4K, flags::USER_RW);
    }
    let mem = Counting::new(&guest.ram);
    for words in [(256 << 20) / 4096 / 64, 0] {
        let mut processes = [Process::default(); 1];
        let mut frames = vec![0; words];
        let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
        let mut scan = Discovery::new(Listed(vec![space]), scratch);
        let (all, overdrawn, found) = drive(&mem, 1000, |left| scan.step(&mem, left).unwrap());
        assert!(found >= 1);
        let stats = scan.stats();
        assert!(stats.judged >= TABLES * 512, "{stats:?}");
        println!("everywhere: {all} loads for {} places, at most {overdrawn} beyond a budget of 1000", stats.judged);
        assert!(all <= 26_000 * (stats.judged + 1) + 4 * (512 * 44) * (TABLES + 100), "{all}: {stats:?}");
        assert!(overdrawn <= Budget::PIECE, "{overdrawn} beyond its budget");
    }
}

/// Pages side by side that all read like a producer's, with room for 64 of them to be remembered: however small the
/// budget of a step is, each is looked at no more often, and the scan gets on.
#[test]
fn many_likely_pages_and_tiny_budgets_make_no_more_work() {
    const COPIES: u64 = 200;
    let mut guest = GuestBuilder::new(Ram::flat(256 << 20), 4);
    let copies = guest.frames.place(COPIES * 4096, Placement::Contiguous)[0].start;
    let (space, page) = with_a_region(&mut guest);
    for at in (0..COPIES * 4096).step_by(8) {
        guest.ram.write_u64(copies.wrapping_add(at), guest.ram.load_u64(page.wrapping_add(at % 4096)).unwrap());
    }
    for n in 0..COPIES {
        let gva = Gva::new(0x1000_0000_0000 + n * 4096);
        guest.map(space, gva, copies.wrapping_add(n * 4096), PageSize::Size4K, flags::USER_RW);
    }
    let mem = Counting::new(&guest.ram);
    let mut loads = Vec::new();
    for budget in [1, 50, u64::MAX] {
        let mut processes = [Process::default(); 1];
        let mut frames = vec![0; (256 << 20) / 4096 / 64];
        let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
        let mut scan = Discovery::new(Listed(vec![space]), scratch);
        let before = mem.counts().accesses();
        let mut steps = 0_u64;
        while scan.step(&mem, &mut Budget::new(budget)).unwrap() != Step::Done {
            steps += 1;
            assert!(steps < 1_000_000, "a budget of {budget} gets nowhere: {:?}", scan.stats());
        }
        loads.push(mem.counts().accesses() - before);
        let stats = scan.stats();
        assert!(stats.judged > COPIES, "each copy is judged: {stats:?}");
    }
    println!("{COPIES} likely pages: {loads:?} loads by budget");
    // Where a step ends, entries that follow each other are read one by one.
    assert!(loads.iter().all(|one| one.abs_diff(loads[2]) < 100), "a small budget makes more work: {loads:?}");
}

/// The pages of the ring: what the bound of a probe rests on.
const _: () = assert!(abi::REGION_BYTES - abi::RING_OFFSET == 24_576 * 4096);

/// Endless spaces come first in the batch: what is honest behind them gets its turn long before they end.
#[test]
fn endless_spaces_keep_no_other_waiting() {
    let mut guest = GuestBuilder::new(Ram::flat(256 << 20), 1);
    let mut spaces: Vec<_> = (0..4).map(|_| hostile::fan_out_in_turn(&mut guest)).collect();
    let honest = guest.new_space();
    let base = Gva::new(0x7000_0000_0000);
    let image = RegionImage::default();
    vgpu_perception_testkit::Region::place(&mut guest, honest, base, image, Placement::Scattered, Ring::Written);
    spaces.push(honest);
    let mem = Counting::new(&guest.ram);
    let mut processes = [Process::default(); 8];
    let mut frames = vec![0; (256 << 20) / 4096 / 64];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut scan = Discovery::new(Listed(spaces), scratch);
    loop {
        match scan.step(&mem, &mut Budget::new(100_000)).unwrap() {
            Step::Found(candidate) if candidate.process.space.root.table() == honest.root => break,
            Step::Done => panic!("the honest one was not found: {:?}", scan.stats()),
            Step::Found(_) | Step::Pending => {}
        }
    }
    let loads = mem.counts().accesses();
    println!("{loads} loads until the honest one was found");
    // At most five enumerations of the first 2^12 tables of four spaces; to the end of one of them it is 2^27 loads.
    assert!(loads <= 5 * 4 * 512 * (1 << 12), "{loads} loads until the honest one was found");
}
