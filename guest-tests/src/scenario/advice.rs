//! What `vgpu doctor` and refusals advise, followed: it works then.

use vgpu_perception_guest_tests::{Guest, Memory, Options, Result};
use vgpu_perception_host::Ram;
use vgpu_perception_host::attach::{attach, examine, running};

use super::dumps::vgpu;
use super::ensure;
use super::ways::{SIZE, SMALL, show, spec};

/// The line for QEMU; the number of the process instead of a file that shows nothing.
pub(crate) fn run() -> Result<()> {
    let guest = Guest::boot(Options { memory: Memory::Private, ..SMALL })?;
    let listed = running().into_iter().find(|one| one.pid == guest.pid()).ok_or("the guest is not listed")?;
    ensure!(listed.obstacle.is_none(), "the guest is listed as one that cannot be read: {:?}", listed.obstacle);
    ensure!(listed.ram == Some(SMALL.ram_mib << 20), "listed with {:?} bytes", listed.ram);
    // A name and a monitor from the list lead to the guest; the first is held by this program.
    let free = guest.qmp_path().display().to_string();
    let monitor = listed.monitors.iter().find(|monitor| monitor.contains(&free)).ok_or("no monitor is listed")?;
    for way in [format!("name:{}", listed.name.as_deref().unwrap_or_default()), format!("qmp:{monitor}")] {
        attach(&spec(&way)?).map_err(|error| format!("{way}, as listed: {error}"))?;
    }
    let advice = advice_of(&format!("pid:{}", guest.pid()))?;
    drop(guest);
    let line = advice.lines().find_map(|line| line.strip_prefix("QEMU: ")).ok_or("there is no line for QEMU")?;
    let words = line.split(" (").next().unwrap_or_default();
    // Options of a test live as long as it.
    let words: Vec<&'static str> = words.split(' ').map(|word| &*word.to_owned().leak()).collect();
    let mut guest = Guest::boot(Options { memory: Memory::Private, more: words.leak(), ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let attachment = attach(&spec(&format!("pid:{}", guest.pid()))?)?;
    ensure!(matches!(*attachment.ram, Ram::Mapped(_)), "with {line}: not mapped");
    show(&attachment, ready, SIZE)?;
    println!("  doctor's line for QEMU: mapped, frames right");
    drop(guest);

    let mut guest = Guest::boot(Options { memory: Memory::ShareOff, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let advice = advice_of(&format!("ram:{}", guest.ram_path().display()))?;
    let way = advice.split([' ', ',']).find(|word| word.starts_with("pid:")).ok_or("no process is named")?;
    show(&attach(&spec(way)?)?, ready, SIZE)?;
    println!("  doctor's advice for a file with share=off: frames right");

    // The same by the command: exit 3 and the reason, for a file that shows nothing and for a guest that has ended.
    let file = format!("ram:{}", guest.ram_path().display());
    let (code, _, errors) = vgpu(&["sample", &file, "-o", "/dev/null", "--format", "png"])?;
    ensure!(code == 3 && errors.contains("share=off"), "sample of {file}: exit {code}: {errors}");
    let gone = [format!("qmp:{}", guest.qmp_path().display()), format!("pid:{}", guest.pid())];
    drop(guest);
    for way in gone {
        let (code, _, errors) = vgpu(&["find", &way])?;
        ensure!(code == 3 && !errors.contains("is the producer running"), "find {way}: exit {code}: {errors}");
    }
    println!("  a file with share=off, and a guest that has ended: exit 3, with the reason");
    Ok(())
}

/// All that is advised for a guest.
pub(super) fn advice_of(way: &str) -> Result<String> {
    let (findings, _) = examine(&spec(way)?);
    let advice: Vec<String> = findings.into_iter().filter_map(|finding| finding.advice).collect();
    ensure!(!advice.is_empty(), "nothing is advised for {way}");
    Ok(advice.join("\n"))
}
