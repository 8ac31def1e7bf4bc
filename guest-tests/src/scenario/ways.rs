//! Whatever holds a guest's RAM, and whichever way it is named: the guest that was asked for is read, and no other.

use core::time::Duration;
use std::time::Instant;

use vgpu_perception_guest_tests::attach::scan_unknown;
use vgpu_perception_guest_tests::{Guest, HUGE, Machine, Memory, Options, Ready, Result};
use vgpu_perception_host::Ram;
use vgpu_perception_host::attach::{AttachErrorKind, Attachment, GuestSpec, attach, why_frozen};

use super::watch::Watcher;
use super::{Length, ensure, monitors, plugged};

pub(super) const SIZE: (u32, u32) = (640, 360);
/// The size of the other guest's frames: a reader that takes the wrong guest sees it at once.
const OTHER: (u32, u32) = (480, 270);
const FRAMES: u64 = 5;

pub(super) const SMALL: Options = Options { ram_mib: 512, ..Options::PC };

/// Puts the hole so low that even a small guest has RAM on both sides of it.
pub(super) const SPLIT: &[&str] = &["-machine", "max-ram-below-4g=256M"];

/// Memory devices beside the RAM, and what they add in MiB. An nvdimm is a file; a virtio-mem device is there as a
/// whole from the start, though the guest has been given none of it.
const DEVICES: [(&str, &[&str], u64); 2] = [
    (
        "nvdimm",
        &[
            "-machine",
            "nvdimm=on",
            "-object",
            "memory-backend-file,id=nv,mem-path=nv,size=128M,share=on",
            "-device",
            "nvdimm,memdev=nv",
        ],
        128,
    ),
    (
        "virtio-mem",
        &[
            "-object",
            "memory-backend-memfd,id=vm,size=256M,share=on,reserve=off",
            "-device",
            "virtio-mem-pci,memdev=vm,requested-size=128M",
        ],
        256,
    ),
];

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
        every_way(Options { memory: *memory, ..SMALL }, 0)?;
    }
    if length == Length::Full {
        // RAM on both sides of the hole, one block lying on both.
        every_way(Options { memory: Memory::TwoCells, ..Options::Q35 }, 0)?;
        every_way(Options { memory: Memory::Private, machine: Machine::Q35, ..Options::Q35 }, 0)?;
        every_way(Options { memory: Memory::Private, machine: Machine::Q35, more: SPLIT, ..SMALL }, 0)?;
        for (name, more, mib) in DEVICES {
            for memory in [Memory::Memfd, Memory::Private] {
                println!("  with {name}:");
                every_way(Options { memory, more, ..SMALL }, mib)?;
            }
        }
        huge_pages()?;
        println!("SKIPPED: a memory backend with offset=; QEMU has it from 8.1 on, and Debian 12 has 7.2");
    }
    let twins = [Memory::Relative, Memory::Memfd, Memory::Unlinked, Memory::TwoCells, Memory::Private];
    for memory in if length == Length::Short { &twins[..1] } else { &twins[..] } {
        beside_another(*memory)?;
    }
    plugged::run(length)?;
    if length == Length::Full { monitors::run() } else { Ok(()) }
}

/// Guests on huge pages, where the machine has enough of them free.
fn huge_pages() -> Result<()> {
    let free = huge_pages_free();
    let needed = SMALL.ram_mib / 2;
    if !std::path::Path::new(HUGE).is_dir() || free < needed {
        println!(
            "SKIPPED: guests on huge pages; {free} of 2 MiB are free and {needed} are needed at {HUGE}: as root, echo \
             {needed} > /proc/sys/vm/nr_hugepages, and mount -t hugetlbfs none {HUGE}"
        );
        return Ok(());
    }
    for memory in [Memory::Huge, Memory::HugeAllocated] {
        every_way(Options { memory, ..SMALL }, 0)?;
        ensure!(huge_pages_free() == free, "huge pages are left over from the guest");
    }
    huge_by_path()
}

/// A file of huge pages by its path alone: nobody says which of them exist, so all have to.
fn huge_by_path() -> Result<()> {
    let path = std::path::PathBuf::from(format!("{HUGE}/vgpu-by-path-{}", std::process::id()));
    let way = format!("ram:{}", path.display());
    let tried = || -> Result<()> {
        std::fs::File::create(&path)?.set_len(8 << 20)?;
        let free = huge_pages_free();
        let Err(error) = attach(&spec(&way)?) else { return Err("a file without its huge pages is read".into()) };
        let text = error.to_string();
        ensure!(text.contains("hugetlbfs") && text.contains("pid:N") && text.contains("prealloc=on"), "{way}: {text}");
        ensure!(huge_pages_free() == free, "{way}: refusing it took huge pages");
        let filled = std::process::Command::new("fallocate").args(["-l", "8M"]).arg(&path).status()?;
        ensure!(filled.success() && huge_pages_free() == free - 4, "fallocate gave it no huge pages");
        ensure!(attach(&spec(&way)?)?.ram.bytes() == 8 << 20, "{way}: all of its pages exist");
        ensure!(huge_pages_free() == free - 4, "{way}: attaching took huge pages");
        Ok(())
    };
    let tried = tried();
    std::fs::remove_file(&path)?;
    tried?;
    println!("  huge pages by their path: refused until all exist, with what to do; none was allocated by that");
    Ok(())
}

pub(super) fn spec(text: &str) -> Result<GuestSpec> {
    Ok(text.parse()?)
}

/// By its monitor, over each kind of socket, its process and its name.
fn every_way(options: Options, devices_mib: u64) -> Result<()> {
    let (memory, machine, ram_mib) = (options.memory, options.machine, options.ram_mib);
    let mut guest = Guest::boot(options)?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let free = huge_pages_free();
    for way in ways(&mut guest)? {
        let begun = Instant::now();
        let attachment = attach(&spec(&way)?).map_err(|error| format!("{memory:?} by {way}: {error}"))?;
        let attached = begun.elapsed();
        let found = show(&attachment, ready, SIZE).map_err(|error| format!("{memory:?} by {way}: {error}"))?;
        let expected = (ram_mib + devices_mib) << 20;
        ensure!(attachment.ram.bytes() == expected, "{memory:?} by {way}: {} bytes", attachment.ram.bytes());
        let how = match &*attachment.ram {
            Ram::Mapped(_) => "mapped",
            Ram::Process(_) => "through the process",
            _ => "another way",
        };
        let kind = if way.contains("127.0.0.1") { "tcp" } else { way.split(':').next().unwrap_or_default() };
        println!(
            "  {memory:?}, {machine:?} {ram_mib} MiB, by {kind}: {how}, attached in {:.1} ms, found in {:.1} ms, \
             {FRAMES} frames right{}",
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
    if matches!(memory, Memory::Huge | Memory::HugeAllocated) {
        println!("  {memory:?}: {free} huge pages were free before it was read, {} after", free - taken);
    }
    Ok(())
}

fn huge_pages_free() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

pub(super) fn ways(guest: &mut Guest) -> Result<[String; 4]> {
    Ok([
        format!("qmp:{}", guest.qmp_path().display()),
        format!("qmp:127.0.0.1:{}", guest.tcp_port()?),
        format!("pid:{}", guest.pid()),
        format!("name:{}", guest.name()),
    ])
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

/// Two guests whose RAM files have the same name, where there are files: the same relative path, of which ours is the
/// working directory of the other; memfds, which are all called alike; unlinked ones.
fn beside_another(memory: Memory) -> Result<()> {
    let mut guest = Guest::boot(Options { memory, ..SMALL })?;
    let mut other = Guest::boot(Options { memory, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let other_ready = other.start_producer(&format!("--width {} --height {} --fps 20", OTHER.0, OTHER.1))?;
    let before = std::env::current_dir()?;
    std::env::set_current_dir(other.dir())?;
    let named = [(ways(&mut guest)?, ready, SIZE), (ways(&mut other)?, other_ready, OTHER)];
    let looked = || -> Result<()> {
        for (ways, ready, size) in named {
            for way in ways {
                let attachment = attach(&spec(&way)?).map_err(|error| format!("beside another, by {way}: {error}"))?;
                show(&attachment, ready, size).map_err(|error| format!("beside another, by {way}: {error}"))?;
            }
        }
        Ok(())
    };
    let seen = looked();
    std::env::set_current_dir(before)?;
    seen.map_err(|error| format!("{memory:?}: {error}"))?;
    println!("  {memory:?}, beside a guest with the same: each shows its own picture, in every way");
    ended(other)
}

/// A guest that has ended is none, however it was named; and whoever has its number or socket later is not it.
fn ended(mut guest: Guest) -> Result<()> {
    let all = ways(&mut guest)?;
    let mut attached = Vec::new();
    for way in &all {
        let mut attachment = attach(&spec(way)?)?;
        attachment.refresh()?;
        attached.push((way, attachment));
    }
    drop(guest);
    for (way, mut attachment) in attached {
        let refreshed = attachment.refresh().map_err(|error| error.kind());
        ensure!(refreshed == Err(AttachErrorKind::Ended), "{way} has ended, and refreshing gives {refreshed:?}");
        ensure!(attach(&spec(way)?).is_err(), "{way} has ended, and can be attached to");
    }
    Ok(())
}
