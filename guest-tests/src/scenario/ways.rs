//! Whatever holds a guest's RAM, and whichever way it is named: the guest that was asked for is read, and no other.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception_guest_tests::attach::scan_unknown;
use vgpu_perception_guest_tests::{Guest, HUGE, Machine, Memory, Options, Ready, Result};
use vgpu_perception_host::Ram;
use vgpu_perception_host::attach::{AttachErrorKind, Attachment, GuestSpec, attach, why_frozen};

use super::watch::Watcher;
use super::{Length, ensure};

const SIZE: (u32, u32) = (640, 360);
/// The size of the other guest's frames: a reader that takes the wrong guest sees it at once.
const OTHER: (u32, u32) = (480, 270);
const FRAMES: u64 = 5;

const SMALL: Options = Options { ram_mib: 512, ..Options::PC };

/// Runs all of it; in short, one guest of each kind of memory that is read in another way.
pub(crate) fn run(length: Length) -> Result<()> {
    let short = [Memory::TwoCells, Memory::Private];
    let all = [
        Memory::File,
        Memory::Relative,
        Memory::Unlinked,
        Memory::Memfd,
        Memory::TwoCells,
        Memory::Private,
        Memory::ShareOff,
        Memory::PrivateCells,
    ];
    let chosen = if length == Length::Short { &short[..] } else { &all[..] };
    for memory in chosen {
        let options = Options { memory: *memory, ..SMALL };
        every_way(options)?;
    }
    if length == Length::Full {
        // RAM on both sides of the hole, one block lying on both.
        every_way(Options { memory: Memory::TwoCells, ..Options::Q35 })?;
        every_way(Options { memory: Memory::Private, machine: Machine::Q35, ..Options::Q35 })?;
        if std::path::Path::new(HUGE).is_dir() {
            let free = huge_pages_free();
            every_way(Options { memory: Memory::Huge, ..SMALL })?;
            ensure!(huge_pages_free() == free, "huge pages are left over from the guest");
            every_way(Options { memory: Memory::HugeAllocated, ..SMALL })?;
        } else {
            println!("SKIPPED: guests on huge pages; there is no {HUGE} here");
        }
    }
    beside_another(Memory::Relative)?;
    plugged_later()
}

fn spec(text: &str) -> Result<GuestSpec> {
    Ok(text.parse()?)
}

/// By its monitor, its process and its name.
fn every_way(options: Options) -> Result<()> {
    let (memory, machine, ram_mib) = (options.memory, options.machine, options.ram_mib);
    let mut guest = Guest::boot(options)?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let free = huge_pages_free();
    for way in ways(&guest) {
        let begun = Instant::now();
        let attachment = attach(&spec(&way)?).map_err(|error| format!("{memory:?} by {way}: {error}"))?;
        let attached = begun.elapsed();
        let found = show(&attachment, ready, SIZE).map_err(|error| format!("{memory:?} by {way}: {error}"))?;
        ensure!(attachment.ram.bytes() == ram_mib << 20, "{memory:?} by {way}: {} bytes", attachment.ram.bytes());
        let how = match &*attachment.ram {
            Ram::Mapped(_) => "mapped",
            Ram::Process(_) => "through the process",
            _ => "another way",
        };
        let kind = way.split(':').next().unwrap_or_default();
        println!(
            "  {memory:?}, {machine:?} {ram_mib} MiB, by {kind}: {how}, attached in {:.1} ms, found in {:.1} ms, {FRAMES} frames right{}",
            attached.as_secs_f64() * 1e3,
            found.as_secs_f64() * 1e3,
            attachment.notes.iter().map(|note| format!("; {note}")).collect::<String>()
        );
    }
    // By its file alone: the file of a guest that does not share it shows nothing, and that is said.
    if matches!(memory, Memory::File | Memory::ShareOff) {
        let said = why_frozen(&guest.ram_path());
        let expected = memory == Memory::ShareOff;
        let private = said.as_deref().is_some_and(|text| text.contains(&format!("pid:{}", guest.pid())));
        ensure!(private == expected, "{memory:?} by its file: {said:?}");
    }
    // A guest touches some of its RAM as it runs; a reader that touches it would have allocated all that was free.
    let taken = free.saturating_sub(huge_pages_free());
    ensure!(taken <= 64, "{memory:?}: {taken} huge pages were allocated while the guest was read");
    Ok(())
}

fn huge_pages_free() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

fn ways(guest: &Guest) -> [String; 3] {
    [format!("qmp:{}", guest.qmp_path().display()), format!("pid:{}", guest.pid()), format!("name:{}", guest.name())]
}

/// The one live region is where the producer says, and every pixel of its frames is right.
pub(super) fn show(attachment: &Attachment, ready: Ready, size: (u32, u32)) -> Result<Duration> {
    let begun = Instant::now();
    let mut found = scan_unknown(attachment.ram.clone())?;
    let took = begun.elapsed();
    let living = found.alive()?;
    let [one] = living[..] else { return Err(format!("{} regions live, not one", living.len()).into()) };
    ensure!(one.base.get() == ready.base, "found at {}, the producer says {:#x}", one.base, ready.base);
    let mut region = one.region();
    let mut watcher = Watcher::new(size.0, size.1);
    watcher.take(&attachment.ram, &mut region, FRAMES)?;
    Ok(took)
}

/// Two guests with a RAM file of the same relative name; ours is the working directory of the other.
fn beside_another(memory: Memory) -> Result<()> {
    let mut guest = Guest::boot(Options { memory, ..SMALL })?;
    let mut other = Guest::boot(Options { memory, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let other_ready = other.start_producer(&format!("--width {} --height {} --fps 20", OTHER.0, OTHER.1))?;
    let before = std::env::current_dir()?;
    std::env::set_current_dir(other.dir())?;
    let looked = || -> Result<()> {
        for (guest, ready, size) in [(&guest, ready, SIZE), (&other, other_ready, OTHER)] {
            for way in ways(guest) {
                let attachment = attach(&spec(&way)?).map_err(|error| format!("beside another, by {way}: {error}"))?;
                show(&attachment, ready, size).map_err(|error| format!("beside another, by {way}: {error}"))?;
            }
        }
        Ok(())
    };
    let seen = looked();
    std::env::set_current_dir(before)?;
    seen?;
    println!("  beside a guest with a file of the same name: each shows its own picture, in every way");

    // A guest that has ended is none, and its successor is not taken for it.
    let mut attachment = attach(&spec(&format!("pid:{}", other.pid()))?)?;
    attachment.refresh()?;
    let socket = other.qmp_path();
    drop(other);
    let ended = attachment.refresh().map_err(|error| error.kind());
    ensure!(ended == Err(AttachErrorKind::Ended), "the guest has ended, and refreshing gives {ended:?}");
    let gone = attach(&spec(&format!("qmp:{}", socket.display()))?).map_err(|error| error.kind());
    ensure!(gone.is_err(), "a monitor answers that has ended");
    Ok(())
}

/// A DIMM that is plugged in after attaching: a new look sees it.
fn plugged_later() -> Result<()> {
    let mut guest = Guest::boot(Options { memory: Memory::Memfd, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let mut attachment = attach(&spec(&format!("qmp:{}", guest.qmp_path().display()))?)?;
    let before = attachment.ram.bytes();
    attachment.refresh()?;
    ensure!(attachment.ram.bytes() == before, "nothing was plugged, and RAM has grown");
    guest.qmp().human("object_add memory-backend-memfd,id=more,size=256M,share=on")?;
    let answer = guest.qmp().human("device_add pc-dimm,id=dimm1,memdev=more")?;
    ensure!(answer.is_empty(), "QEMU plugs no memory: {answer}");
    attachment.refresh()?;
    let after = attachment.ram.bytes();
    ensure!(after == before + (256 << 20), "{before} bytes before, {after} after 256 MiB were plugged");
    ensure!(attachment.ram.end().get() > 4 << 30, "memory that is plugged lies above 4 GiB: {}", attachment.ram.end());
    show(&attachment, ready, SIZE)?;
    println!("  256 MiB plugged in later: seen after a refresh, frames right");
    Ok(())
}
