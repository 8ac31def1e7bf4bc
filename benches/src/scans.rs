//! Scans of 64 processes and the search for roots, beside touching every page.

use std::time::Instant;

use vgpu_perception::paging::{Hardware, Pte};
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection};
use vgpu_perception::scan::{FoundBy, ScanScratch};
use vgpu_perception::{
    AddressSpace, Budget, Cr3, Discovery, Gpa, PagingMode, PhysError, PhysRead, Process, ProcessSource, Step,
};
use vgpu_perception_mapped::{GuestRam, Populate};

use crate::image::Image;
use crate::measure::{Goals, Medians, median, print_ms};
use crate::raw::{Host, stream};

const NAIVE: &str = "naive: touch every user page";
const FIRST: &str = "ours: first pass (runs)";
const SECOND: &str = "ours: second pass (pages)";
const WHOLE: &str = "ours: both";
const LINES: &str = "limit: one line of every page";
const AGREEMENT: &str = "ours: roots without CR3 (RootElection)";
const SHARED: &str = "ours: roots with one CR3 (KernelHalf)";

/// The processes of a list.
struct Listed<'l>(core::slice::Iter<'l, u64>);

impl ProcessSource for Listed<'_> {
    type Resolver = Hardware;

    fn next_process<M: PhysRead>(&mut self, _: &M, _: &mut Budget) -> Result<Step<Process>, PhysError> {
        Ok(match self.0.next() {
            Some(root) => Step::Found(Process::unnamed(AddressSpace::new(Cr3::new(*root)))),
            None => Step::Done,
        })
    }
}

/// Walks every table of a process and loads one word of each user page.
fn touch_all(host: &Host, root: u64) -> (u64, u64) {
    let user = |entry: u64| entry & (Pte::PRESENT | Pte::USER) == Pte::PRESENT | Pte::USER;
    let entries = |table: u64| (0..512).map(move |index| host.word((table & Pte::ADDRESS) + index * 8));
    let (mut pages, mut sum) = (0_u64, 0_u64);
    for pml4e in entries(root).take(256).filter(|entry| user(*entry)) {
        for pdpte in entries(pml4e).filter(|entry| user(*entry)) {
            for pde in entries(pdpte).filter(|entry| user(*entry)) {
                if pde & Pte::PAGE != 0 {
                    for page in 0..512 {
                        sum = sum.wrapping_add(host.word((pde & Pte::ADDRESS) + page * 4096));
                    }
                    pages += 512;
                    continue;
                }
                for pte in entries(pde).filter(|entry| user(*entry)) {
                    sum = sum.wrapping_add(host.word(pte & Pte::ADDRESS));
                    pages += 1;
                }
            }
        }
    }
    (pages, sum)
}

/// One whole scan: when the first pass ended, when all was done, and what was found.
fn discover(image: &Image, roots: &[u64], frames: &mut [u64], processes: &mut [Process]) -> (f64, f64) {
    let start = Instant::now();
    let mut scan = Discovery::new(Listed(roots.iter()), ScanScratch { processes, page_bitmap: frames });
    let mut first = None;
    let (mut by_run, mut by_page) = (0, 0);
    loop {
        let mut budget = Budget::new(1 << 14);
        let step = scan.step(image.ram, &mut budget).expect("the scan goes on");
        if first.is_none() && scan.progress().pass == 2 {
            first = Some(start.elapsed().as_nanos() as f64);
        }
        match step {
            Step::Done => break,
            Step::Pending => {}
            Step::Found(candidate) if candidate.by == FoundBy::Page => by_page += 1,
            Step::Found(_) => by_run += 1,
        }
    }
    let all = start.elapsed().as_nanos() as f64;
    assert_eq!((by_run, by_page), (4, 1), "four whole regions, and one whose ring is not there: {:?}", scan.stats());
    (first.unwrap_or(all), all)
}

fn scan(image: &Image, roots: &[u64], rounds: usize, evict: &[u8]) -> Medians {
    let words = ScanScratch::<Hardware>::page_bitmap_words(Gpa::new(4 << 30));
    let mut frames = vec![0_u64; usize::try_from(words).expect("a bitmap fits")];
    let mut processes = vec![Process::default(); 128];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        core::hint::black_box(stream(evict.as_ptr(), evict.len()));
        let start = Instant::now();
        let mut pages = 0;
        for root in roots {
            let (count, sum) = touch_all(&image.host, *root);
            core::hint::black_box(sum);
            pages += count;
        }
        times[0].push(start.elapsed().as_nanos() as f64);
        assert!(pages > 3 << 20, "{pages} pages were mapped");
        core::hint::black_box(stream(evict.as_ptr(), evict.len()));
        let (first, all) = discover(image, roots, &mut frames, &mut processes);
        times[1].push(first);
        times[2].push(all - first);
        times[3].push(all);
    }
    let mut medians = Medians::new();
    for (name, times) in [NAIVE, FIRST, SECOND, WHOLE].into_iter().zip(&mut times) {
        medians.push(name, median(times));
    }
    medians
}

/// All roots of a source.
fn count_roots(image: &Image, mut source: impl ProcessSource) -> usize {
    let mut count = 0;
    loop {
        match source.next_process(image.ram, &mut Budget::unlimited()).expect("the source goes on") {
            Step::Found(_) => count += 1,
            Step::Pending => {}
            Step::Done => return count,
        }
    }
}

fn attach(image: &Image, rounds: usize) -> Medians {
    let mut candidates = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut times = [const { Vec::new() }; 3];
    let all = image.typical.len() + image.adversarial.len() + 1;
    for _ in 0..rounds {
        let start = Instant::now();
        let mut sum = 0_u64;
        for page in (0..4_u64 << 30).step_by(4096) {
            sum = sum.wrapping_add(image.host.word(page + 4088));
        }
        core::hint::black_box(sum);
        times[0].push(start.elapsed().as_nanos() as f64);
        let start = Instant::now();
        let found = count_roots(image, RootElection::new(Some(PagingMode::FourLevel), &mut candidates));
        times[1].push(start.elapsed().as_nanos() as f64);
        assert_eq!(found, all, "every root is found without a first one");
        let start = Instant::now();
        let reference = AddressSpace::new(Cr3::new(image.root));
        assert_eq!(count_roots(image, KernelHalf::new(reference)), all, "every root is found from one");
        times[2].push(start.elapsed().as_nanos() as f64);
    }
    let mut medians = Medians::new();
    for (name, times) in [LINES, AGREEMENT, SHARED].into_iter().zip(&mut times) {
        medians.push(name, median(times));
    }
    medians
}

/// What the first touch of a mapping costs, by knob.
fn first_touch(image: &Image) {
    println!("\n## First touch of a fresh mapping of 4 GiB\n");
    for (name, how) in [
        ("none: faults at the first read", Populate::None),
        ("Populate::Read", Populate::Read),
        ("Populate::HugePages", Populate::HugePages),
    ] {
        let ram = GuestRam::open_flat(image.path()).expect("the RAM file maps");
        let start = Instant::now();
        ram.populate(how).expect("it populates");
        let populated = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        let mut sum = 0_u64;
        for page in (0..4_u64 << 30).step_by(4096) {
            sum = sum.wrapping_add(ram.load_u64(Gpa::new(page)).expect("RAM"));
        }
        core::hint::black_box(sum);
        let touched = start.elapsed().as_secs_f64() * 1e3;
        println!(
            "figure: {name:<32} {:>6.1} ms a GiB, then {:>6.1} ms a GiB to touch every page",
            populated / 4.0,
            touched / 4.0
        );
    }
}

/// Measures and prints scans and the search for roots.
pub(crate) fn run(image: &Image, goals: &mut Goals, quick: bool) {
    let rounds = if quick { 3 } else { 9 };
    let evict = vec![1_u8; 96 << 20];
    let typical = scan(image, &image.typical, rounds, &evict);
    let adversarial = scan(image, &image.adversarial, rounds, &evict);
    print_ms(
        "Scan of 65 processes, 256 MiB each, caches cold",
        NAIVE,
        &[("S1 typical", &typical), ("S2 adversarial", &adversarial)],
    );
    println!();
    goals.at_most("scan, typical, first pass / touching every page", typical.of(FIRST) / typical.of(NAIVE), 0.01);
    goals.at_most(
        "scan, adversarial, first pass / touching every page",
        adversarial.of(FIRST) / adversarial.of(NAIVE),
        0.30,
    );
    goals.at_most("scan, typical, second pass / touching every page", typical.of(SECOND) / typical.of(NAIVE), 0.45);
    goals.at_most(
        "scan, adversarial, second pass / touching every page",
        adversarial.of(SECOND) / adversarial.of(NAIVE),
        0.45,
    );
    let roots = attach(image, rounds);
    print_ms("Roots of 131 address spaces in 4 GiB", LINES, &[("", &roots)]);
    println!();
    goals.at_most("roots without CR3 / one line of every page", roots.of(AGREEMENT) / roots.of(LINES), 1.4);
    goals.at_most("roots with one CR3 / one line of every page", roots.of(SHARED) / roots.of(LINES), 1.4);
    first_touch(image);
}
