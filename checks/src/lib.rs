//! Every public operation of the core behind a C entry point, with nothing else linked: no std, no allocator, and a
//! panic handler that cannot be linked. If one panic survives optimisation anywhere, the link fails and names it.

#![no_std]

use core::panic::PanicInfo;

use vgpu_perception::paging::{LeafCursor, LeafStep};
use vgpu_perception::process::nt::{KernelSearch, NtKernel, NtPaging};
use vgpu_perception::process::roots::{RootElection, RootCandidate, KernelHalf, guess_mode};
use vgpu_perception::region::{ControlIntent, FrameScratch, Liveness, Pulse, Sample};
use vgpu_perception::scan::{Discovery, ScanScratch, probe};
use vgpu_perception::{
    AddressSpace, Budget, CallbackRam, Cr3, Extent, Gpa, Gva, NextUse, PageWalker, PhysError, PhysRead, Process,
    ProcessSource, Region, Step, abi,
};

unsafe extern "C" {
    /// Defined nowhere.
    fn a_panic_path_survived_optimisation() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: never run: the link fails where this is reachable.
    unsafe { a_panic_path_survived_optimisation() }
}

/// How the embedder reads guest memory.
type Read = extern "C" fn(u64, *mut u8, usize) -> i32;

fn map(bytes: u64) -> [Extent; 1] {
    [Extent { start: Gpa::new(0), len: bytes }]
}

fn ram(read: Read, map: &[Extent; 1]) -> impl PhysRead {
    CallbackRam::new(map, move |gpa: Gpa, dst: &mut [u8]| read(gpa.get(), dst.as_mut_ptr(), dst.len()))
}

fn space(cr3: u64) -> AddressSpace {
    AddressSpace::new(Cr3::new(cr3))
}

#[unsafe(no_mangle)]
extern "C" fn check_translate(read: Read, bytes: u64, cr3: u64, gva: u64) -> u64 {
    let map = map(bytes);
    PageWalker::new(ram(read, &map), space(cr3)).translate(Gva::new(gva)).map_or(0, |found| found.gpa.get())
}

/// Memory that is read in batches, or not: which of the two is known only when it runs.
struct Batched<M> {
    ram: M,
    batch: usize,
}

impl<M: PhysRead> PhysRead for Batched<M> {
    fn batch(&self) -> usize {
        self.batch
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.ram.load_u64(gpa)
    }

    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.ram.read(gpa, dst)
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.ram.next_extent(from)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.ram.load_u32(gpa)
    }
}

/// Adds up where the addresses from `gva` on lead, a page apart.
#[unsafe(no_mangle)]
extern "C" fn check_translate_together(read: Read, bytes: u64, cr3: u64, gva: u64, pages: u64, batch: usize) -> u64 {
    let map = map(bytes);
    let walker = PageWalker::new(Batched { ram: ram(read, &map), batch }, space(cr3));
    let mut sum = 0_u64;
    let walks = (0..pages).map(|page| (walker.space(), Gva::new(gva).wrapping_add(page.wrapping_mul(4096))));
    walker.translate_together(walks, |found| {
        sum = sum.wrapping_add(found.map_or(0, |found| found.gpa.get()));
    });
    sum
}

#[unsafe(no_mangle)]
extern "C" fn check_read(read: Read, bytes: u64, cr3: u64, gva: u64) -> u64 {
    let map = map(bytes);
    let mut word = [0; 16];
    let got = PageWalker::new(ram(read, &map), space(cr3)).read(Gva::new(gva), &mut word);
    u64::from(got.is_ok())
}

#[unsafe(no_mangle)]
extern "C" fn check_next_leaf(read: Read, bytes: u64, cr3: u64, gva: u64) -> u64 {
    let map = map(bytes);
    let walker = PageWalker::new(ram(read, &map), space(cr3));
    let mut cursor = LeafCursor::new(Gva::new(0), Gva::new(gva));
    let mut budget = Budget::new(gva);
    match walker.next_leaf(&mut cursor, &mut budget) {
        LeafStep::Leaf(leaf) => leaf.gpa.get(),
        _ => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_probe(read: Read, bytes: u64, cr3: u64, gva: u64) -> u64 {
    let map = map(bytes);
    probe(&ram(read, &map), &space(cr3), Gva::new(gva)).map_or(0, |found| found.pulse.heartbeat)
}

#[unsafe(no_mangle)]
extern "C" fn check_mode(read: Read, bytes: u64, cr3: u64) -> u64 {
    let map = map(bytes);
    guess_mode(&ram(read, &map), Cr3::new(cr3)).map_or(0, |mode| u64::from(mode.address_bits()))
}

#[unsafe(no_mangle)]
extern "C" fn check_shared_half(read: Read, bytes: u64, cr3: u64) -> u64 {
    let map = map(bytes);
    let ram = ram(read, &map);
    let reference = space(cr3);
    if KernelHalf::check(&ram, &reference).is_err() {
        return 0;
    }
    drive(KernelHalf::new(reference), &ram)
}

#[unsafe(no_mangle)]
extern "C" fn check_agreement(read: Read, bytes: u64, slots: &mut [RootCandidate; 64]) -> u64 {
    let map = map(bytes);
    drive(RootElection::new(None, slots), &ram(read, &map))
}

fn drive<S: ProcessSource>(mut source: S, ram: &impl PhysRead) -> u64 {
    match source.next_process(ram, &mut Budget::unlimited()) {
        Ok(Step::Found(process)) => process.space.root.get(),
        Ok(Step::Pending | Step::Done) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_nt_attach(read: Read, bytes: u64, cr3: u64, kernel: &mut Option<NtKernel>) -> u64 {
    let map = map(bytes);
    *kernel = NtKernel::attach(&ram(read, &map), Cr3::new(cr3), None).ok();
    u64::from(kernel.is_some())
}

#[unsafe(no_mangle)]
extern "C" fn check_nt_search(read: Read, bytes: u64, slots: &mut [RootCandidate; 64], found: &mut NtKernel) -> u64 {
    let map = map(bytes);
    match KernelSearch::new(None, slots).step(&ram(read, &map), &mut Budget::unlimited()) {
        Ok(Step::Found(kernel)) => {
            *found = kernel;
            1
        }
        Ok(Step::Pending | Step::Done) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_nt_revalidate(read: Read, bytes: u64, kernel: &NtKernel) -> u64 {
    let map = map(bytes);
    u64::from(kernel.revalidate(&ram(read, &map)).is_ok())
}

#[unsafe(no_mangle)]
extern "C" fn check_nt_processes(read: Read, bytes: u64, kernel: &NtKernel) -> u64 {
    let map = map(bytes);
    drive(kernel.processes(), &ram(read, &map))
}

#[unsafe(no_mangle)]
extern "C" fn check_nt_translate(read: Read, bytes: u64, process: &Process<NtPaging>, gva: u64) -> u64 {
    let map = map(bytes);
    PageWalker::new(ram(read, &map), process.space).translate(Gva::new(gva)).map_or(0, |found| found.gpa.get())
}

/// What a scan borrows.
#[repr(C)]
struct Scratch {
    processes: [Process; 16],
    frames: [u64; 64],
}

#[unsafe(no_mangle)]
extern "C" fn check_discovery(read: Read, bytes: u64, cr3: u64, scratch: &mut Scratch) -> u64 {
    let map = map(bytes);
    let ram = ram(read, &map);
    let Scratch { processes, frames } = scratch;
    let mut discovery = Discovery::new(KernelHalf::new(space(cr3)), ScanScratch { processes, page_bitmap: frames });
    match discovery.step(&ram, &mut Budget::unlimited()) {
        Ok(Step::Found(candidate)) => candidate.base.get(),
        Ok(Step::Pending | Step::Done) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_sample_frame(
    read: Read,
    bytes: u64,
    region: &mut Region,
    scratch: &mut FrameScratch,
    dst: &mut [u8; 4096],
) -> u64 {
    let map = map(bytes);
    match region.sample_frame(&ram(read, &map), scratch, dst, NextUse::Unknown) {
        Ok(Sample::Fresh(info)) => info.desc.frame_id,
        Ok(Sample::Skip(_)) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_visit_frame(read: Read, bytes: u64, region: &mut Region, scratch: &mut FrameScratch) -> u64 {
    let map = map(bytes);
    let mut runs = 0;
    match region.visit_frame(&ram(read, &map), scratch, |stretch| {
        runs += stretch.runs().len() as u64;
        Ok(())
    }) {
        Ok(Sample::Fresh(info)) => info.desc.frame_id ^ runs,
        Ok(Sample::Skip(_)) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_cursor(read: Read, bytes: u64, region: &mut Region) -> u64 {
    let map = map(bytes);
    match region.read_cursor(&ram(read, &map)) {
        Ok(Sample::Fresh(snapshot)) => u64::from(snapshot.seq),
        Ok(Sample::Skip(_)) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_geometry(read: Read, bytes: u64, region: &mut Region) -> u64 {
    let map = map(bytes);
    match region.read_geometry(&ram(read, &map)) {
        Ok(Sample::Fresh(snapshot)) => u64::from(snapshot.virt_w),
        Ok(Sample::Skip(_)) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_status(read: Read, bytes: u64, region: &mut Region) -> u64 {
    let map = map(bytes);
    match region.read_status(&ram(read, &map)) {
        Ok(Sample::Fresh(snapshot)) => snapshot.heartbeat,
        Ok(Sample::Skip(_)) | Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn check_alive(read: Read, bytes: u64, region: &mut Region, heartbeat: u64) -> u64 {
    let map = map(bytes);
    let before = Pulse { heartbeat, run_epoch: 1 };
    u64::from(matches!(region.confirm_alive(&ram(read, &map), before), Ok(Liveness::Alive(_))))
}

#[unsafe(no_mangle)]
extern "C" fn check_control(region: &Region, fps: u32, out: &mut abi::Control) -> u64 {
    let intent =
        ControlIntent { desired_state: abi::Command::RUN, target_fps: fps, draw_cursor: false, full_frame_req: 1 };
    let write = region.build_control_write(&intent);
    *out = write.image;
    write.gva.get()
}
