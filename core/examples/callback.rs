//! The core over a callback, as a hypervisor uses it: `cargo run -p vgpu-perception --example callback`
//!
//! The guest is a synthetic one of the test kit, whose producer runs in a thread. Put your own read of guest physical
//! memory in place of `read`.

use core::error::Error;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::thread::{scope, sleep};

use vgpu_perception::find::{Finder, Workspace, WorkspaceSize};
use vgpu_perception::region::{Liveness, Reader, Sample};
use vgpu_perception::{Budget, CallbackRam, Extent, Gpa, PhysRead as _, Step};
use vgpu_perception_testkit::{LinuxOptions, RegionImage, standard_linux};

fn main() -> Result<(), Box<dyn Error>> {
    let image = RegionImage { width: 320, height: 200, ..RegionImage::default() };
    let guest = standard_linux(LinuxOptions { image, ..LinuxOptions::default() });
    let stop = AtomicBool::new(false);
    scope(|threads| {
        // The guest's part: its heart beats.
        threads.spawn(|| {
            while !stop.load(Relaxed) {
                guest.region.tick(&guest.guest.ram);
                sleep(Duration::from_millis(50));
            }
        });
        let done = look(&guest.guest.ram.segments(), |gpa, dst| match guest.guest.ram.read(gpa, dst) {
            Ok(()) => 0,
            Err(_) => -1,
        });
        stop.store(true, Relaxed);
        done
    })
}

/// Finds every region of a guest and shows the frame of each that lives. `map` says where the guest has RAM; `read`
/// copies guest physical memory, and gives 0 or an error of its own.
fn look(map: &[Extent], read: impl Fn(Gpa, &mut [u8]) -> i32) -> Result<(), Box<dyn Error>> {
    let ram = CallbackRam::new(map, read);
    let last = map.last().ok_or("a guest without RAM")?;
    let size = WorkspaceSize::for_ram(last.end());
    // Three buffers, of the caller's: arrays where there is no heap.
    let mut workspace = Workspace::new(
        vec![Default::default(); size.roots],
        vec![Default::default(); size.processes],
        vec![0; size.page_bitmap],
    );
    let mut finder = Finder::new(&mut workspace);
    let mut found = Vec::new();
    loop {
        // The budget hands control back after so many loads.
        match finder.step(&ram, &mut Budget::new(1 << 18))? {
            Step::Found(candidate) => found.push(candidate),
            Step::Pending => {}
            Step::Done => break,
        }
    }
    println!("{} candidates in {} address spaces", found.len(), finder.stats().spaces);
    // Any process can forge a region. Only a producer beats.
    sleep(Duration::from_millis(300));
    for candidate in found {
        let mut reader = Reader::new(&ram, candidate.region());
        let alive = matches!(reader.confirm_alive(candidate.found.pulse)?, Liveness::Alive(_));
        println!("{} {}", candidate.base, if alive { "lives" } else { "is stale (no heartbeat)" });
        let mut picture = vec![0; 3840 * 2160 * 4];
        if alive && let Sample::Fresh(frame) = reader.frame(&mut picture)? {
            let (width, height) = (frame.desc.width, frame.desc.height);
            println!("frame {}, {width} x {height}:", frame.desc.frame_id);
            draw(&picture[..frame.bytes], width as usize, height as usize);
        }
    }
    Ok(())
}

/// The picture in letters, 64 to a line.
fn draw(bgra: &[u8], width: usize, height: usize) {
    for y in (0..height).step_by((height / 20).max(1)) {
        let letter = |x: usize| {
            let at = (y * width + x * width / 64) * 4;
            let light: usize = bgra[at..at + 3].iter().map(|byte| usize::from(*byte)).sum();
            char::from(b" .:-=+*#%@"[light * 9 / 765])
        };
        println!("{}", (0..64).map(letter).collect::<String>());
    }
}
