//! A rust-vmm hypervisor that looks into its guest: `cargo run -p vgpu-perception-vm-memory --example vm_memory`
//!
//! The hypervisor's part is played: it maps the RAM of a synthetic guest, whose producer runs in a thread. In yours,
//! `look` is called with its own memory.

use core::error::Error;
use core::time::Duration;
use std::fs::OpenOptions;
use std::thread::sleep;

use vgpu_perception::find::{Finder, Workspace, WorkspaceSize};
use vgpu_perception::region::{Liveness, Reader, Sample};
use vgpu_perception::{Budget, Gpa, Step};
use vgpu_perception_testkit::RunningGuest;
use vgpu_perception_vm_memory::VmMemory;
use vm_memory::{Address as _, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

fn main() -> Result<(), Box<dyn Error>> {
    let guest = RunningGuest::start()?;
    let mut ranges = Vec::new();
    for at in guest.segments() {
        let file = OpenOptions::new().read(true).write(true).open(guest.ram())?;
        let place = FileOffset::new(file, at.offset);
        ranges.push((GuestAddress(at.gpa.get()), usize::try_from(at.len)?, Some(place)));
    }
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files(ranges)?;
    look(&memory)
}

/// Reads the frame of every producer that lives. Made anew from each snapshot of a memory map that changes.
fn look(memory: &impl GuestMemoryBackend) -> Result<(), Box<dyn Error>> {
    let ram = VmMemory::new(memory);
    let size = WorkspaceSize::for_ram(Gpa::new(memory.last_addr().raw_value() + 1));
    let mut workspace = Workspace::new(
        vec![Default::default(); size.roots],
        vec![Default::default(); size.processes],
        vec![0; size.page_bitmap],
    );
    // A hypervisor knows CR3: `.root(cr3)` saves the search for a kernel.
    let mut finder = Finder::new(&mut workspace);
    let mut found = Vec::new();
    while let Step::Found(candidate) = finder.step(&ram, &mut Budget::unlimited())? {
        found.push(candidate);
    }
    println!("{} candidates in {} address spaces", found.len(), finder.stats().spaces);
    sleep(Duration::from_millis(300));
    let (mut picture, mut frames) = (vec![0; 3840 * 2160 * 4], 0);
    for candidate in found {
        let mut reader = Reader::new(&ram, candidate.region());
        if !matches!(reader.confirm_alive(candidate.found.pulse)?, Liveness::Alive(_)) {
            println!("{} is stale (no heartbeat)", candidate.base);
            continue;
        }
        // A skip means that the writer was at work: try again.
        for _ in 0..100 {
            if let Sample::Fresh(frame) = reader.frame(&mut picture)? {
                let (width, height) = (frame.desc.width, frame.desc.height);
                println!("{} lives: frame {}, {width} x {height}", candidate.base, frame.desc.frame_id);
                frames += 1;
                break;
            }
            sleep(Duration::from_millis(5));
        }
    }
    if frames == 0 { Err("no frame: does a producer live in this guest?".into()) } else { Ok(()) }
}
