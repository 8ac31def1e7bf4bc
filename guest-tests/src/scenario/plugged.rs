//! A DIMM that is plugged in after attaching: a new look sees it, whichever way the guest was named.

use core::time::Duration;
use std::thread::sleep;
use std::time::Instant;

use vgpu_perception_guest_tests::{Guest, Memory, Options, Result};
use vgpu_perception_host::attach::{Attachment, attach};

use super::ways::{SIZE, SMALL, show, spec};
use super::{Length, ensure};

const MIB: u64 = 256;
/// How long the guest's kernel may take to use what was plugged in.
const PATIENCE: Duration = Duration::from_secs(60);

/// In shared memory, by the monitor; in full by process and name, and in private memory too.
pub(crate) fn run(length: Length) -> Result<()> {
    let shared = "memory-backend-memfd,id=more,size=256M,share=on";
    if length == Length::Short {
        return later(Memory::Memfd, shared, 1);
    }
    later(Memory::Memfd, shared, 3)?;
    later(Memory::Private, "memory-backend-ram,id=more,size=256M", 3)
}

/// By the first of the ways, so many.
fn later(memory: Memory, backend: &str, count: usize) -> Result<()> {
    let mut guest = Guest::boot(Options { memory, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let ways = [
        format!("qmp:{}", guest.qmp_path().display()),
        format!("pid:{}", guest.pid()),
        format!("name:{}", guest.name()),
    ];
    let mut attached = Vec::new();
    for way in ways.iter().take(count) {
        let mut attachment = attach(&spec(way)?)?;
        let before = attachment.ram.bytes();
        attachment.refresh()?;
        ensure!(attachment.ram.bytes() == before, "{way}: nothing was plugged, and RAM has grown");
        attached.push((way, attachment, before));
    }
    guest.qmp().human(&format!("object_add {backend}"))?;
    let answer = guest.qmp().human("device_add pc-dimm,id=dimm1,memdev=more")?;
    ensure!(answer.is_empty(), "QEMU plugs no memory: {answer}");
    for (way, mut attachment, before) in attached {
        let took = wait(&mut attachment, before)?;
        let after = attachment.ram.bytes();
        ensure!(after == before + (MIB << 20), "{way}: {before} bytes before, {after} after {MIB} MiB were plugged");
        ensure!(
            attachment.ram.end().get() > 4 << 30,
            "{way}: what is plugged lies above 4 GiB: {}",
            attachment.ram.end()
        );
        show(&attachment, ready, SIZE)?;
        // Who attaches now has it from the start.
        let now = attach(&spec(way)?)?.ram.bytes();
        ensure!(now == after, "{way}: attached anew, {now} bytes");
        let kind = way.split(':').next().unwrap_or_default();
        let notes: String = attachment.notes.iter().map(|note| format!("; {note}")).collect();
        println!(
            "  {memory:?}, {MIB} MiB plugged in later, by {kind}: seen {:.1} s after, frames right{notes}",
            took.as_secs_f64()
        );
    }
    Ok(())
}

/// Looks until there is more RAM.
fn wait(attachment: &mut Attachment, before: u64) -> Result<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        attachment.refresh()?;
        if attachment.ram.bytes() > before {
            break;
        }
        // A look is taken at each survey, and their number is limited.
        sleep(Duration::from_secs(4));
    }
    Ok(begun.elapsed())
}
