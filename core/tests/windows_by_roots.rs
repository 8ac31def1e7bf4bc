//! A Windows guest as any other x86-64 guest: what works without knowing that it is one.

use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::scan::ScanScratch;
use vgpu_perception::{Budget, Discovery, Gpa, NextUse, Process, Step};
use vgpu_perception_testkit::windows::{LAYOUTS, Options, Shape, Trim, WindowsGuest};

/// With nothing known: the processes by their shared kernel half, and the region in its producer, wherever nothing is
/// trimmed.
#[test]
fn the_region_is_found_without_knowing_the_system() {
    for layout in LAYOUTS {
        for shape in [Shape::FourLevel, Shape::FiveLevel] {
            let windows = WindowsGuest::build(layout, shape, Options { trim: Trim::Nothing, ..Options::default() });
            let ram = &windows.ram;
            let truth = &windows.truth;
            let mut candidates = vec![RootCandidate::default(); RootElection::CANDIDATES];
            let mut processes = vec![Process::default(); 256];
            let mut frames = vec![0; ScanScratch::<()>::page_bitmap_words(Gpa::new(6 << 30)) as usize];
            let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
            // Only Linux keeps code in the last 2 GiB: the depth of the tables is the embedder's to say.
            let mut scan = Discovery::new(RootElection::new(Some(truth.mode), &mut candidates), scratch);
            let producer = &truth.processes[truth.producer];
            let mut found = None;
            loop {
                match scan.step(ram, &mut Budget::unlimited()).unwrap() {
                    Step::Found(one) if one.process.space.root.table() == producer.space.root => found = Some(one),
                    Step::Found(_) | Step::Pending => {}
                    Step::Done => break,
                }
            }
            let found = found.unwrap_or_else(|| panic!("{} {shape:?}: {:?}", layout.name, scan.stats()));
            assert_eq!(found.base, truth.shared.region.base);
            let mut dst = vec![0; 1 << 16];
            let sample = found.region().sample_frame(ram, &mut FrameScratch::new(), &mut dst, NextUse::Unknown);
            let Ok(Sample::Fresh(info)) = sample else { panic!("{}: {sample:?}", layout.name) };
            assert_eq!(dst[..info.bytes], truth.shared.region.image.pixels(info.desc.frame_id));
        }
    }
}
