//! Any memflow connector as the guest's memory: `cargo run -p vgpu-perception-memflow --example memflow`
//!
//! Without arguments it reads a guest of its own through memflow's file connector, which needs no plugin. For yours:
//! `memflow CONNECTOR [ARGUMENTS]`, with a connector that memflow finds (`memflow qemu win11`).

use core::error::Error;
use core::time::Duration;
use std::fs::File;
use std::thread::sleep;

use memflow::connector::{CloneFile, FileIoMemory};
use memflow::mem::{MemoryMap, PhysicalMemory};
use memflow::plugins::Inventory;
use memflow::types::{Address, umem};
use vgpu_perception::find::{Finder, Workspace, WorkspaceSize};
use vgpu_perception::region::{Liveness, Reader, Sample};
use vgpu_perception::{Budget, Gpa, Step};
use vgpu_perception_memflow::Memflow;
use vgpu_perception_testkit::RunningGuest;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let Some(name) = arguments.next() {
        let given = arguments.next().map(|text| text.parse()).transpose()?;
        let connector = Inventory::scan().instantiate_connector(&name, None, given.as_ref())?;
        // The connector itself, without memflow's caches: they go stale.
        return look(connector);
    }
    let guest = RunningGuest::start()?;
    let mut map = MemoryMap::new();
    for at in guest.segments() {
        map.push_remap(Address::from(at.gpa.get()), at.len as umem, Address::from(at.offset));
    }
    look(FileIoMemory::with_mem_map(CloneFile::from(File::open(guest.ram())?), map)?)
}

fn look(connector: impl PhysicalMemory) -> Result<(), Box<dyn Error>> {
    let end = connector.metadata().max_address.to_umem() + 1;
    // A connector does not say where its holes are. `Memflow::new` takes them from you.
    let ram = &Memflow::flat(connector);
    let size = WorkspaceSize::for_ram(Gpa::new(end));
    let mut workspace = Workspace::new(
        vec![Default::default(); size.roots],
        vec![Default::default(); size.processes],
        vec![0; size.page_bitmap],
    );
    let mut finder = Finder::new(&mut workspace);
    let mut found = Vec::new();
    while let Step::Found(candidate) = finder.step(ram, &mut Budget::unlimited())? {
        found.push(candidate);
    }
    println!("{} candidates in {} address spaces", found.len(), finder.stats().spaces);
    sleep(Duration::from_millis(300));
    let (mut picture, mut frames) = (vec![0; 3840 * 2160 * 4], 0);
    for candidate in found {
        let mut reader = Reader::new(ram, candidate.region());
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
