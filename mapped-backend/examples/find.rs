//! Candidates in a RAM file, with the core and a mapping alone: `cargo run -p vgpu-perception-mapped --example find`
//!
//! Without arguments it makes a guest of its own. For yours: `find FILE GPA:LEN:OFFSET...`, one of these for each
//! stretch of RAM, as `info mtree -f` of QEMU's monitor shows them.

use core::error::Error;
use core::time::Duration;
use std::thread::sleep;
use std::time::Instant;

use vgpu_perception::find::{Finder, Workspace, WorkspaceSize};
use vgpu_perception::region::{Liveness, Reader};
use vgpu_perception::{Budget, Gpa, Step};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_testkit::{FileSegment, RunningGuest};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let Some(file) = arguments.next() {
        return find(&GuestRam::open(file, SegmentMap::parse(arguments)?)?);
    }
    let guest = RunningGuest::start()?;
    let segment = |at: &FileSegment| Segment { gpa: at.gpa, len: at.len, file: 0, offset: at.offset };
    find(&GuestRam::open(guest.ram(), SegmentMap::new(guest.segments().iter().map(segment))?)?)
}

fn find(ram: &GuestRam) -> Result<(), Box<dyn Error>> {
    let end = ram.map().segments().last().map_or(0, |last| last.gpa.get() + last.len);
    let size = WorkspaceSize::for_ram(Gpa::new(end));
    let mut workspace = Workspace::new(
        vec![Default::default(); size.roots],
        vec![Default::default(); size.processes],
        vec![0; size.page_bitmap],
    );
    let begun = Instant::now();
    // The kernel is found first, then every process is scanned.
    let mut finder = Finder::new(&mut workspace);
    let mut found = Vec::new();
    loop {
        match finder.step(ram, &mut Budget::new(1 << 18))? {
            Step::Found(candidate) => found.push(candidate),
            // Not done yet: `finder.progress()` says how far it is.
            Step::Pending => {}
            Step::Done => break,
        }
    }
    let stats = finder.stats();
    println!(
        "{} address spaces, {} page tables, {} pages in {:?}",
        stats.spaces,
        stats.tables,
        stats.pages,
        begun.elapsed()
    );
    sleep(Duration::from_millis(300));
    for candidate in &found {
        let mut reader = Reader::new(ram, candidate.region());
        let state = match reader.confirm_alive(candidate.found.pulse)? {
            Liveness::Alive(_) => "lives",
            Liveness::Restarted(_) => "has restarted",
            _ => "is stale (no heartbeat)",
        };
        let root = candidate.process.space.root;
        println!("base {} cr3 {root} {state}, frame {}", candidate.base, candidate.found.frame_id);
    }
    if found.is_empty() { Err("no region in any process: is a producer running in the guest?".into()) } else { Ok(()) }
}
