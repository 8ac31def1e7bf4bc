//! A process without rights forges regions: a C program binds the live one within one round of the candidates.

use std::process::Command;

use vgpu_perception_guest_tests::{Guest, Options, Result};

use super::ensure;

/// Runs the program (`c-api/tests/c/forge.c`), which checks each turn itself.
pub(crate) fn run() -> Result<()> {
    let program = std::env::var("VGPU_FORGE").map_err(|_| "set VGPU_FORGE to the program")?;
    let mut guest = Guest::boot(Options::PC)?;
    // Before the producer, so that the forgeries are what a search comes upon first.
    guest.send("forge 200")?;
    guest.wait_for("forged 200")?;
    let ready = guest.start_producer("--width 640 --height 360 --fps 10")?;
    let mut command = Command::new(&program);
    // The producer's root is not known from outside: its base is enough.
    command.arg(guest.ram_path()).arg(guest.space()?.root.to_string()).args(["0", &format!("{:#x}", ready.base), "0"]);
    for segment in guest.segments()?.segments() {
        command.arg(format!("{:#x}:{:#x}:{:#x}", segment.gpa.get(), segment.len, segment.offset));
    }
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{text}{complaints}", output.status);
    ensure!(text.contains("bound in turn "), "the program says nothing of a bound region: {text}");
    println!("  {}", text.trim());
    Ok(())
}
