//! A guest for other programs.

use std::io::Read as _;

use vgpu_perception_guest_tests::{Guest, Options, Result};

/// Boots, starts a producer, says where everything is, and stays until standard input ends.
pub(crate) fn run() -> Result<()> {
    let mut guest = Guest::boot(Options::PC)?;
    let ready = guest.start_producer("--width 640 --height 360 --fps 30")?;
    let space = guest.space()?;
    println!("ram {}", guest.ram_path().display());
    println!("qmp {}", guest.qmp_path().display());
    println!("cr3 {}", space.root);
    println!("producer pid={} base={:#x} width=640 height=360", ready.pid, ready.base);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
