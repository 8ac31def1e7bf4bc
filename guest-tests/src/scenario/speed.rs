//! How long attaching and finding takes by each way, beside the same guest's file mapped by its path. Nothing is
//! asserted: times are the machine's.

use std::time::Instant;

use vgpu_perception_guest_tests::attach::scan_unknown;
use vgpu_perception_guest_tests::{Guest, Memory, Options, Result};
use vgpu_perception_host::attach::attach;

use super::ensure;
use super::ways::{SIZE, spec, ways};

const ROUNDS: usize = 9;

/// A `pc` of 1 GiB with each kind of memory.
pub(crate) fn run() -> Result<()> {
    let mut mapped = None;
    for memory in [Memory::File, Memory::Memfd, Memory::TwoCells, Memory::Private, Memory::PrivateCells] {
        let mut guest = Guest::boot(Options { memory, ..Options::PC })?;
        guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
        // A guest that stands still does not compete for the processors.
        guest.qmp().human("stop")?;
        if memory == Memory::File {
            let took = median(&format!("ram:{}", guest.ram_path().display()))?;
            println!("figure: {memory:?} by its path: {:.1} ms to attach and find", took * 1e3);
            mapped = Some(took);
        }
        let bound = mapped.map_or(0.0, |took| took.mul_add(1.3, 0.05));
        for way in ways(&mut guest)? {
            let took = median(&way)?;
            let kind = if way.contains("127.0.0.1") { "tcp" } else { way.split(':').next().unwrap_or_default() };
            println!(
                "figure: {memory:?} by {kind}: {:.1} ms to attach and find; 1.3 of the mapped file and 50 ms: {:.1} ms",
                took * 1e3,
                bound * 1e3
            );
        }
    }
    Ok(())
}

/// The median of some rounds, each from nothing to all candidates, in seconds.
fn median(way: &str) -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let attachment = attach(&spec(way)?)?;
        let found = scan_unknown(attachment.ram.clone())?.candidates().len();
        took.push(begun.elapsed().as_secs_f64());
        ensure!(found > 0, "{way}: nothing is found");
    }
    took.sort_by(f64::total_cmp);
    Ok(took[ROUNDS / 2])
}
