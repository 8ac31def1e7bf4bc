//! The program of README against a real guest: it prints the producer's frames, and obeys the verdict on what is dead.

use std::process::Command;

use vgpu_perception_guest_tests::{Guest, Options, Result};

use super::ensure;

/// Runs README's program, built by `.ci/guest/run`, and gives what it prints.
fn frames(guest: &str) -> Result<String> {
    let program = std::env::current_exe()?.with_file_name("examples").join("frames");
    let output =
        Command::new(&program).arg(guest).output().map_err(|error| format!("{}: {error}", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "README's program failed on {guest}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

/// With and without a producer, by each way to name the guest; then an ended guest.
pub(crate) fn run() -> Result<()> {
    let mut guest = Guest::boot(Options::PC)?;
    let names = [
        format!("qmp:{}", guest.qmp_path().display()),
        format!("pid:{}", guest.pid()),
        format!("name:{}", guest.name()),
    ];
    ensure!(frames(&names[0])?.is_empty(), "there is no producer yet");
    guest.start_producer("--width 640 --height 360 --fps 30")?;
    for name in &names {
        let text = frames(name)?;
        ensure!(text.lines().count() == 1 && text.contains("640 x 360"), "{name}: {text:?}");
        print!("  by {}: {text}", name.split(':').next().unwrap_or_default());
    }
    // Its pages stay in RAM; what they show is not called alive.
    guest.kill_producer()?;
    let text = frames(&names[0])?;
    ensure!(text.is_empty(), "the producer is dead: {text:?}");
    let pid = guest.pid();
    drop(guest);
    let error = frames(&format!("pid:{pid}")).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains(&pid.to_string()), "the guest has ended: {error:?}");
    Ok(())
}
