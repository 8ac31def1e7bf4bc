//! A guest that no file holds, read out of its VMM's process, beside the same guest in a file that is mapped.

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use memmap2::{Advice, MmapMut};
use vgpu_perception::find::{Finder, Workspace, WorkspaceSize};
use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::process::roots::RootCandidate;
use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::scan::Candidate;
use vgpu_perception::{Budget, Gpa, NextUse, PageWalker, PhysRead, Process, Step};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_process::{Piece, ProcessOptions, ProcessRam};
use vgpu_perception_testkit::region::RegionImage;
use vgpu_perception_testkit::{LinuxOptions, standard_linux};
use zerocopy::FromBytes as _;

use crate::measure::{Goals, interleave, median, print_ms};
use crate::raw::{Remote, copy_of_process};

/// The argument that makes this program the VMM.
pub(crate) const VMM: &str = "vmm";
/// Guest physical memory; most of it was never written.
const RAM: u64 = 4 << 30;
/// Pages that hold something: 1 GiB.
const PRESENT: u64 = 1 << 18;
const PAGE: u64 = 4096;
const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;

/// A VMM: a guest in private memory until its input ends. The pages that the guest has not written hold random words,
/// up to 1 GiB in all.
pub(crate) fn vmm() {
    let image = RegionImage { width: WIDTH, height: HEIGHT, frames: 2, ..RegionImage::default() };
    let linux = standard_linux(LinuxOptions { image, ram: RAM, ..LinuxOptions::default() });
    // Guest physical memory above the hole, too: the guest has it at 4 GiB.
    let span = linux.guest.ram.segments().iter().map(|segment| segment.end().get()).max().unwrap_or(0);
    let map = MmapMut::map_anon(usize::try_from(span).expect("it fits")).expect("memory");
    map.advise(Advice::NoHugePage).expect("advice");
    let bytes: &'static mut MmapMut = Box::leak(Box::new(map));
    let words: &'static [AtomicU64] = <[AtomicU64]>::mut_from_bytes(bytes).expect("a mapping is aligned");
    let word = |at: u64| &words[usize::try_from(at / 8).expect("it fits")];
    let mut present = 0;
    for page in linux.guest.ram.present_pages() {
        for at in (0..PAGE).step_by(8) {
            let value = linux.guest.ram.load_u64(page.wrapping_add(at)).expect("it is RAM");
            word(page.get() + at).store(value, Ordering::Relaxed);
        }
        present += 1;
    }
    let mut state = 0x0123_4567_89ab_cdef_u64;
    for page in (0..(3_u64 << 30) / PAGE).rev().map(|page| page * PAGE) {
        if present == PRESENT {
            break;
        }
        if linux.guest.ram.holds_data(Gpa::new(page)) {
            continue;
        }
        for at in (0..PAGE).step_by(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word(page + at).store(state ^ (state >> 29), Ordering::Relaxed);
        }
        present += 1;
    }
    println!("vmm {}", words.as_ptr().addr());
    std::io::stdout().flush().expect("the bench listens");
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

struct Vmm {
    child: Child,
    pieces: Vec<Piece>,
}

impl Vmm {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg(VMM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the VMM starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where");
        let addr: u64 = line.trim().strip_prefix("vmm ").expect("an address").parse().expect("a number");
        let pieces = [(0, 3 << 30), (4 << 30, RAM - (3 << 30))]
            .map(|(gpa, len)| Piece { gpa: Gpa::new(gpa), len, host_addr: addr + gpa })
            .to_vec();
        Self { child, pieces }
    }

    fn open(&self) -> ProcessRam {
        ProcessRam::open(self.child.id(), &self.pieces, ProcessOptions::new()).expect("the VMM can be read")
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All candidates of a guest of which nothing is known.
fn find(mem: &impl PhysRead) -> Vec<Candidate<GuestPaging>> {
    let size = WorkspaceSize::for_ram(Gpa::new(5 << 30));
    let mut workspace = Workspace::new(
        vec![RootCandidate::default(); size.roots],
        vec![Process::default(); size.processes],
        vec![0; size.page_bitmap],
    );
    let mut finder = Finder::new(&mut workspace);
    let mut found = Vec::new();
    loop {
        match finder.step(mem, &mut Budget::new(1 << 20)).expect("it can be read") {
            Step::Found(candidate) => found.push(candidate),
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}

/// The same bytes in a file, mapped.
fn mapped(of: &ProcessRam) -> (std::path::PathBuf, u64) {
    let path = std::path::PathBuf::from(format!("/dev/shm/vgpu-bench-process-{}.ram", std::process::id()));
    let file = File::options().write(true).create_new(true).open(&path).expect("a file in memory");
    file.set_len(RAM).expect("a length");
    let (mut bytes, mut data) = (0, Vec::new());
    for extent in of.extents() {
        let extent = extent.expect("it can be read");
        data.resize(usize::try_from(extent.len).expect("it fits"), 0);
        of.read(extent.start, &mut data).expect("it can be read");
        let gpa = extent.start.get();
        file.write_all_at(&data, if gpa < 3 << 30 { gpa } else { gpa - (1 << 30) }).expect("room");
        bytes += extent.len;
    }
    (path, bytes)
}

/// Measures attaching and finding, and a frame.
pub(crate) fn run(goals: &mut Goals, quick: bool) {
    let vmm = Vmm::start();
    let (path, bytes) = mapped(&vmm.open());
    println!("\na guest of {} MiB that are present, in private memory of a process and in a file", bytes >> 20);
    let (mut private, mut file) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 3 } else { 7 } {
        let start = Instant::now();
        let found = find(&vmm.open()).len();
        private.push(start.elapsed().as_nanos() as f64);
        let start = Instant::now();
        let ram = GuestRam::open(&path, "0:3G:0, 4G:1G:3G".parse().expect("a map")).expect("the file maps");
        assert_eq!(find(&ram).len(), found, "the same candidates");
        file.push(start.elapsed().as_nanos() as f64);
    }
    let _ = std::fs::remove_file(&path);
    let (private, file) = (median(&mut private), median(&mut file));
    println!("attach and find: through the process {:.1} ms, in the mapped file {:.1} ms", private / 1e6, file / 1e6);
    goals.at_most("attach and find on 1 GiB through the process, seconds", private / 1e9, 0.3);

    let ram = vmm.open();
    let candidates = find(&ram);
    let live = candidates.iter().max_by_key(|candidate| candidate.found.pulse.heartbeat).expect("the region is found");
    let mut region = live.region();
    let len = WIDTH as usize * HEIGHT as usize * 4;
    let mut scratch = FrameScratch::new();
    let (mut ours, mut bare) = (vec![0_u8; len], vec![0_u8; len]);
    let Ok(Sample::Fresh(_)) = region.sample_frame(&ram, &mut scratch, &mut ours, NextUse::Unknown) else {
        panic!("the frame can be read")
    };
    // The same pages, each a piece of its own, as they are scattered.
    let walker = PageWalker::new(&ram, live.process.space);
    let slot = vgpu_perception::abi::slot_offset(RegionImage::slot_of(2) as u32).expect("a slot");
    let host = |gpa: Gpa| {
        let piece = vmm.pieces.iter().rev().find(|piece| gpa >= piece.gpa).expect("it is RAM");
        usize::try_from(piece.host_addr + (gpa.get() - piece.gpa.get())).expect("it fits")
    };
    let pieces: Vec<Remote> = (0..len.div_ceil(4096))
        .map(|page| {
            let gva = live.base.wrapping_add(slot + page as u64 * PAGE);
            let found = walker.translate(gva).expect("the page is there");
            Remote::new(host(found.gpa), 4096.min(len - page * 4096))
        })
        .collect();
    let pid = vmm.child.id();
    copy_of_process(pid, &pieces, 4096, &mut bare);
    assert!(bare == ours, "the same frame");
    let rounds = if quick { 10 } else { 40 };
    const BARE: &str = "limit: bare process_vm_readv of the pieces";
    const OURS: &str = "ours: sample_frame through the process";
    let medians = interleave(
        rounds,
        5,
        vec![
            (BARE, Box::new(|_| copy_of_process(pid, &pieces, 4096, &mut bare))),
            (
                OURS,
                Box::new(|_| {
                    region.forget_frames();
                    let sample = region.sample_frame(&ram, &mut scratch, &mut ours, NextUse::Unknown);
                    assert!(matches!(sample, Ok(Sample::Fresh(_))), "{sample:?}");
                }),
            ),
        ],
    );
    print_ms("1080p frame of scattered pages, private memory", BARE, &[("scattered 4K", &medians)]);
    goals.at_most("1080p frame through the process / bare process_vm_readv", medians.of(OURS) / medians.of(BARE), 1.15);
}
