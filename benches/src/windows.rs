//! Attaching to a Windows guest of 4 GiB, every page of which holds data: with nothing known, with a root, and again.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use vgpu_perception::process::nt::{KernelSearch, NtKernel, RootOrigin};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{Budget, Gpa, PhysRead, ProcessSource, Step};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_testkit::windows::{LOADER_TABLE, Layout, Options, RootPlace, Shape, StartBlock, WindowsGuest};

use crate::measure::{Medians, median, print_ms};

const LINES: &str = "limit: one line of every page";
const NOTHING: &str = "ours: nothing known -> process list";
const ROOT: &str = "ours: a root known -> process list";
const KEPT: &str = "ours: kernel kept, re-validated -> process list";
const REVALIDATED: &str = "ours: re-validation alone";

/// A guest in a RAM file that goes with it.
struct Guest {
    path: PathBuf,
    ram: GuestRam,
    windows: WindowsGuest,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Guest {
    /// `self_maps`: whether top tables name themselves.
    fn new(name: &str, start_block: StartBlock, root: RootPlace, self_maps: bool) -> Self {
        let path = PathBuf::from(format!("/dev/shm/vgpu-bench-{}-{name}.ram", std::process::id()));
        let options = Options { ram: 4 << 30, start_block, root, kpti: self_maps, ..Options::default() };
        let windows = WindowsGuest::build(&Layout::named("11 22H2"), Shape::FourLevel, options);
        if !self_maps {
            let slot = 8 * windows.truth.self_map;
            for root in windows.truth.processes.iter().map(|one| one.space.root).chain([LOADER_TABLE]) {
                windows.ram.write_u64(root.wrapping_add(slot), 0);
            }
        }
        let segments = windows.ram.to_file(&path).expect("/dev/shm has room for 4 GiB");
        fill(&path);
        let map = segments.iter().map(|at| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 });
        let ram = GuestRam::open(&path, SegmentMap::new(map).expect("a map")).expect("the file is mapped");
        Self { path, ram, windows }
    }
}

/// Writes numbers into every page of zeros but the first MiB: a guest that has run for a while has no holes.
fn fill(path: &Path) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let len = file.metadata().expect("it has a length").len();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut block = vec![0_u8; 2 << 20];
    for at in (0..len).step_by(block.len()) {
        let part = usize::try_from(len - at).unwrap_or(usize::MAX).min(block.len());
        let block = &mut block[..part];
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(block)).expect("it is read");
        for (n, page) in block.chunks_mut(4096).enumerate() {
            if at + n as u64 * 4096 < 1 << 20 || page.iter().any(|byte| *byte != 0) {
                continue;
            }
            for word in page.chunks_exact_mut(8) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                word.copy_from_slice(&seed.to_le_bytes());
            }
        }
        file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(block)).expect("it is written");
    }
}

fn search(ram: &GuestRam, scratch: &mut [RootCandidate]) -> NtKernel {
    let mut search = KernelSearch::new(None, scratch);
    match search.step(ram, &mut Budget::unlimited()) {
        Ok(Step::Found(kernel)) => kernel,
        other => panic!("the guest has a kernel: {other:?}"),
    }
}

fn count(ram: &GuestRam, kernel: &NtKernel) -> usize {
    let mut list = kernel.processes();
    let mut count = 0;
    while let Step::Found(_) = list.next_process(ram, &mut Budget::unlimited()).expect("the list goes on") {
        count += 1;
    }
    count
}

fn measure(guest: &Guest, rounds: usize, by: RootOrigin) -> Medians {
    let ram = &guest.ram;
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let processes = guest.windows.truth.processes.iter().filter(|one| one.is_alive()).count();
    let kept = search(ram, &mut scratch);
    assert_eq!(kept.origin, by);
    guest.windows.assert_kernel(&kept);
    let names = [LINES, NOTHING, ROOT, KEPT, REVALIDATED];
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        let mut timed = |n: usize, work: &mut dyn FnMut() -> usize, expected: usize| {
            let start = Instant::now();
            assert_eq!(work(), expected, "{}", names[n]);
            times[n].push(start.elapsed().as_nanos() as f64);
        };
        timed(0, &mut || lines(ram), 1);
        timed(1, &mut || count(ram, &search(ram, &mut scratch)), processes);
        let root = guest.windows.truth.kcr3;
        timed(2, &mut || count(ram, &NtKernel::attach(ram, root, None).expect("it is the kernel's")), processes);
        timed(3, &mut || kept.revalidate(ram).map_or(0, |_| count(ram, &kept)), processes);
        timed(4, &mut || kept.revalidate(ram).map_or(0, |_| 1), 1);
    }
    let mut medians = Medians::new();
    for (name, times) in names.into_iter().zip(&mut times) {
        medians.push(name, median(times));
    }
    medians
}

/// One load of every page of RAM.
fn lines(ram: &GuestRam) -> usize {
    let mut sum = 0_u64;
    for segment in ram.map().segments() {
        for page in (0..segment.len).step_by(4096) {
            sum = sum.wrapping_add(ram.load_u64(Gpa::new(segment.gpa.get() + page + 4088)).expect("RAM"));
        }
    }
    core::hint::black_box(sum);
    1
}

/// Measures and prints.
pub(crate) fn run(quick: bool) {
    let rounds = if quick { 3 } else { 9 };
    let measured =
        |name, start_block, root, self_maps, by| measure(&Guest::new(name, start_block, root, self_maps), rounds, by);
    let block = measured("block", StartBlock::System, RootPlace::Low, true, RootOrigin::StartBlock);
    let map = measured("map", StartBlock::Missing, RootPlace::High, true, RootOrigin::SelfMap);
    let roots = measured("roots", StartBlock::Missing, RootPlace::High, false, RootOrigin::Roots);
    print_ms(
        "Attaching to a Windows guest of 4 GiB, no page of it empty",
        LINES,
        &[("start block", &block), ("self map", &map), ("shared half alone", &roots)],
    );
    println!();
}
