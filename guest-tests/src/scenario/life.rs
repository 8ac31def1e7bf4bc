//! The life of a producer in a real guest: found, read, killed, found again, rebooted away.

use std::time::Instant;

use vgpu_perception::abi::{Backend, State};
use vgpu_perception::process::roots::KernelHalf;
use vgpu_perception::region::{Liveness, Sample};
use vgpu_perception::{AddressSpace, Cr3, PagingMode, PhysRead};
use vgpu_perception_guest_tests::attach::{Place, Region, attach, scan, scan_unknown, wait_for_a_beat};
use vgpu_perception_guest_tests::{Guest, Options, Ready, Result};

use super::ensure;
use super::watch::Watcher;

/// A `pc` with 1 GiB.
pub(crate) const PC: Options = Options::PC;
/// A `q35` with 3 GiB.
pub(crate) const Q35: Options = Options::Q35;
/// Five levels, and a second root for every process.
pub(crate) const LA57: Options = Options { cpu: "qemu64,+la57,+pcid,+smep", append: "pti=on", ..Options::PC };

const SIZE: (u32, u32) = (640, 360);
const FPS: u32 = 60;
const FRAMES: u64 = 200;

/// Runs all of it.
pub(crate) fn run(options: Options) -> Result<()> {
    let begun = Instant::now();
    let mut guest = Guest::boot(options)?;
    println!("  up after {:.1} s", begun.elapsed().as_secs_f64());
    let ram = guest.ram()?;

    let reference = guest.space()?;
    let five = guest.options().cpu.contains("la57");
    let expected = if five { PagingMode::FiveLevel } else { PagingMode::FourLevel };
    ensure!(reference.mode == expected, "CR4 says {:?}", reference.mode);
    let before = scan(&ram, &reference)?;
    ensure!(before.candidates().is_empty(), "without a producer there is a candidate: {:?}", before.candidates());
    ensure!(before.stats().spaces >= 5, "only {} address spaces share a kernel half", before.stats().spaces);
    println!("  no candidate without a producer: {:?}", before.stats());

    let ready = guest.start_producer(&format!("--width {} --height {} --fps {FPS}", SIZE.0, SIZE.1))?;
    let mut region = found_once(&mut guest, &ram, ready, 1)?;
    read_all(&ram, &mut region)?;

    let old = end_producer(&mut guest, &ram, region)?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps {FPS} --epoch 9", SIZE.0, SIZE.1))?;
    let mut region = found_once(&mut guest, &ram, ready, 1)?;
    ensure!(region.space().root != old.space().root || region.base() != old.base(), "the old region was found again");
    let mut watcher = Watcher::new(SIZE.0, SIZE.1);
    watcher.take(&ram, &mut region, 20)?;
    ensure!(region.run_epoch() == 9 || read_epoch(&ram, &mut region)? == 9, "the new producer's epoch is 9");
    println!("  the next producer is found: {} frames", watcher.tally.frames);

    reboot(&mut guest, &ram, &reference, region)?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps {FPS}", SIZE.0, SIZE.1))?;
    let mut region = found_once(&mut guest, &ram, ready, 2)?;
    watcher = Watcher::new(SIZE.0, SIZE.1);
    watcher.take(&ram, &mut region, 20)?;
    println!("  the producer of the next boot is found: {} frames", watcher.tally.frames);
    Ok(())
}

/// One live region, in one process, where the producer says; the same with and without a root to start from.
fn found_once(guest: &mut Guest, ram: &impl PhysRead, ready: Ready, boots: u32) -> Result<Region> {
    let reference = guest.space()?;
    KernelHalf::check(ram, &reference)?;
    let begun = Instant::now();
    let (region, place, found) = attach(ram, &reference)?;
    let took = begun.elapsed();
    ensure!(place.base.get() == ready.base, "found at {}, the producer says {:#x}", place.base, ready.base);
    let here = found.candidates().iter().filter(|other| other.base == place.base && other.found == place.found).count();
    ensure!(here <= 1, "the region is in {here} processes: {:?}", found.candidates());
    println!(
        "  found at {} under {} ({:?}), one of {} candidates, in {:.0} ms with the wait: {:?}",
        place.base,
        place.process.space.root,
        place.by,
        found.candidates().len(),
        took.as_secs_f64() * 1e3,
        found.stats()
    );
    let mut unknown = scan_unknown(ram)?;
    let living = unknown.alive()?;
    // With page-table isolation a process has two roots, in one piece of 8 KiB; the processor may have been in either,
    // and either kind may be the one that is found.
    let isolated = if guest.options().append.contains("pti=on") { 0x1000 } else { 0 };
    let process = |root: Cr3| root.table().get() & !isolated;
    let root = process(place.process.space.root);
    let same = |other: &Place| other.base == place.base && process(other.process.space.root) == root;
    let others: Vec<_> = living.iter().filter(|other| !same(other)).collect();
    ensure!(living.len() == others.len() + 1, "with nothing known, these live: {living:?}; {:?}", unknown.stats());
    // Tables of the boot before stay in memory, and where they were, the new producer's page may have come to lie: such
    // a place shows the very same page. With a root of this boot it is not found.
    let stale = others.iter().all(|other| boots > 1 && other.found.page == place.found.page);
    ensure!(stale, "with nothing known, these live too: {others:?}; {:?}", unknown.stats());
    Ok(region)
}

fn read_all(ram: &impl PhysRead, region: &mut Region) -> Result<()> {
    let mut watcher = Watcher::new(SIZE.0, SIZE.1);
    let begun = Instant::now();
    watcher.take(ram, region, FRAMES)?;
    watcher.geometry(ram, region, 1..2)?;
    ensure!(
        watcher.tally.cursors >= FRAMES && watcher.tally.geometries == 1,
        "no cursor or geometry: {:?}",
        watcher.tally
    );
    let Sample::Fresh(status) = region.read_status(ram)? else { return Err("no status".into()) };
    let told = (status.run_epoch, status.status, status.backend, status.applied_fps, status.supported_formats);
    ensure!(told == (1, State::CAPTURING, Backend::DDA, FPS, 1), "the status is {status:?}");
    println!(
        "figure: real guest: {:?} in {:.1} s, every pixel right: {status:?}",
        watcher.tally,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn read_epoch(ram: &impl PhysRead, region: &mut Region) -> Result<u32> {
    match region.read_status(ram)? {
        Sample::Fresh(status) => Ok(status.run_epoch),
        Sample::Skip(why) => Err(format!("no status: {why}").into()),
    }
}

/// After the end of a producer its region is an error or stands still; never a new frame, never alive.
fn end_producer(guest: &mut Guest, ram: &impl PhysRead, mut region: Region) -> Result<Region> {
    guest.kill_producer()?;
    let mut watcher = Watcher::new(SIZE.0, SIZE.1);
    // What was published before the end may still be taken, once; it has to be whole.
    let last = watcher.frame(ram, &mut region);
    let what = match region.read_pulse(ram) {
        Err(error) => format!("an error: {error}"),
        Ok(Sample::Skip(why)) => format!("no pulse: {why}"),
        Ok(Sample::Fresh(before)) => {
            wait_for_a_beat();
            match region.confirm_alive(ram, before) {
                Err(error) => format!("an error: {error}"),
                Ok(Liveness::Alive(pulse)) => return Err(format!("the dead producer is alive: {pulse:?}").into()),
                Ok(other) => format!("{other:?}"),
            }
        }
    };
    if let Err(error) = &last {
        ensure!(!error.to_string().starts_with("torn"), "after the end: {error}");
    }
    println!("  killed; the old handle gives {what}");
    Ok(region)
}

/// After a reboot the old root is refused, or leads to nothing alive.
fn reboot(guest: &mut Guest, ram: &impl PhysRead, reference: &AddressSpace, mut region: Region) -> Result<()> {
    let before = region.read_pulse(ram)?.fresh();
    guest.reboot()?;
    let handle = match (before, region.read_pulse(ram)) {
        (_, Err(error)) => format!("an error: {error}"),
        (Some(before), Ok(Sample::Fresh(now))) => {
            let verdict = now.since(before);
            wait_for_a_beat();
            let later = region.confirm_alive(ram, now);
            ensure!(!matches!(later, Ok(Liveness::Alive(_))), "a producer of the boot before is alive: {later:?}");
            format!("{verdict:?}, then {later:?}")
        }
        (_, other) => format!("{other:?}"),
    };
    println!("  rebooted; the old handle gives {handle}");
    match KernelHalf::check(ram, reference) {
        Err(error) => println!("  the old root is refused: {error}"),
        Ok(()) => {
            let mut found = scan(ram, reference)?;
            let living = found.alive()?;
            ensure!(living.is_empty(), "under the old root these live: {living:?}");
            println!("  the old root still reads like one, and leads to nothing alive: {:?}", found.stats());
        }
    }
    Ok(())
}
