//! A program in another language: it finds the region by itself, and the producer agrees with the frame that it took.

use std::process::{Command, Output};

use vgpu_perception_guest_tests::{Guest, Options, Result};

use super::ensure;

/// How the program ends that finds no live region.
const NO_REGION: i32 = 3;

/// Runs the program with both kinds of memory, with a root to start from and without.
pub(crate) fn run() -> Result<()> {
    let program = std::env::var("VGPU_EMBED").map_err(|_| "set VGPU_EMBED to the program, arguments included")?;
    let words: Vec<&str> = program.split_whitespace().collect();
    let (first, arguments) = words.split_first().ok_or("VGPU_EMBED is empty")?;
    let mut guest = Guest::boot(Options::PC)?;
    let ready = guest.start_producer("--width 640 --height 360 --fps 10 --report 1")?;
    for kind in ["map", "read"] {
        for known in [true, false] {
            let mut run = || -> Result<Output> {
                let mut command = Command::new(first);
                command.args(arguments).arg(kind).arg(guest.ram_path());
                if known {
                    command.args(["--kcr3", &guest.space()?.root.to_string()]);
                }
                Ok(command.output().map_err(|error| format!("{first}: {error}"))?)
            };
            let mut output = run()?;
            if known && output.status.code() == Some(NO_REGION) {
                // The root is that of whoever ran when it was asked for, and a process that ends takes its root along.
                println!("  {kind}: no region by that root; once more by another");
                output = run()?;
            }
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaints = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{kind}, root known {known}: {}\n{text}{complaints}", output.status);
            ensure!(text.contains(&format!(" gva={:#x} alive=1", ready.base)), "another region than {ready:?}: {text}");
            let taken = text.lines().find(|line| line.starts_with("frame id=")).ok_or("no frame")?;
            let number: Vec<&str> = taken.split(' ').take(2).collect();
            let told = guest.wait_for(&format!("{} ", number.join(" ")))?;
            ensure!(taken.starts_with(&told), "the program: {taken}; the producer: {told}");
            println!("  {kind}, root known {known}: {taken}; the producer agrees");
        }
    }
    Ok(())
}
