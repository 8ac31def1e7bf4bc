//! A guest in which everything goes wrong, and a reader that must not be fooled.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use vgpu_perception::PhysRead;
use vgpu_perception::region::{ReadError, Sample, Skip};
use vgpu_perception_guest_tests::attach::{Place, scan, scan_unknown};
use vgpu_perception_guest_tests::{Guest, Options, Result};

use super::watch::{Tally, Watcher};
use super::{Length, asked, ensure};

const SIZE: (u32, u32) = (320, 180);
/// How long, unless `VGPU_GUEST_SECONDS` says otherwise.
const SECONDS: u64 = 300;
const SHORT_SECONDS: u64 = 30;

/// What was done to the guest.
#[derive(Debug, Default)]
struct Deeds {
    starts: u64,
    kills: u64,
    freezes: u64,
    hogs: u64,
    scans_of_the_dead: u64,
}

/// What the reader saw.
#[derive(Debug, Default)]
struct Sights {
    attached: u64,
    scans: u64,
    lost: u64,
    stood_still: u64,
    skips: BTreeMap<&'static str, u64>,
    tally: Tally,
}

/// Two processors, a producer with a mind of its own, and pressure on memory.
pub(crate) fn run(length: Length) -> Result<()> {
    let seconds = asked("VGPU_GUEST_SECONDS", if length == Length::Short { SHORT_SECONDS } else { SECONDS });
    let mut guest = Guest::boot(Options { processors: 2, ..Options::PC })?;
    let ram = guest.ram()?;
    let over = AtomicBool::new(false);
    let (deeds, sights) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let seen = watch(&ram, &over);
            over.store(true, Ordering::Relaxed);
            seen
        });
        let deeds = torment(&mut guest, &ram, &over, Duration::from_secs(seconds));
        over.store(true, Ordering::Relaxed);
        let sights = reader.join().unwrap_or_else(|_| Err("the reader panicked".into()));
        (deeds, sights)
    });
    let (deeds, sights) = (deeds?, sights?);
    println!("figure: chaos for {seconds} s: {deeds:?}");
    println!("figure: chaos, none torn: {sights:?}");
    ensure!(sights.tally.frames > 100 && sights.attached > 1 && deeds.kills > 1, "too little happened");
    Ok(())
}

/// Starts, kills, freezes and squeezes. In between, when there is no producer, nothing may be alive.
fn torment(guest: &mut Guest, ram: &impl PhysRead, over: &AtomicBool, long: Duration) -> Result<Deeds> {
    let mut deeds = Deeds::default();
    let begun = Instant::now();
    let mut seed = 1_u64;
    let mut random = move |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % most
    };
    while begun.elapsed() < long && !over.load(Ordering::Relaxed) {
        deeds.starts += 1;
        let chaos = random(1 << 20);
        guest.start_producer(&format!("--width {} --height {} --fps 120 --chaos {chaos}", SIZE.0, SIZE.1))?;
        for _ in 0..random(8) {
            thread::sleep(Duration::from_millis(random(1500)));
            match random(3) {
                0 => {
                    guest.send("freeze")?;
                    guest.wait_for("frozen")?;
                    thread::sleep(Duration::from_millis(random(1000)));
                    guest.send("thaw")?;
                    guest.wait_for("thawed")?;
                    deeds.freezes += 1;
                }
                1 => {
                    guest.send(&format!("hog {}", 100 + random(400)))?;
                    deeds.hogs += 1;
                }
                _ => {}
            }
        }
        guest.kill_producer()?;
        deeds.kills += 1;
        let space = guest.space()?;
        let living = scan(ram, &space)?.alive()?;
        ensure!(living.is_empty(), "there is no producer, and these live: {living:?}");
        deeds.scans_of_the_dead += 1;
    }
    Ok(deeds)
}

/// Finds what lives, reads it as fast as it can, and begins again when it is lost or stands still.
fn watch(ram: &impl PhysRead, over: &AtomicBool) -> Result<Sights> {
    let mut sights = Sights::default();
    let mut watcher = Watcher::new(SIZE.0, SIZE.1);
    while !over.load(Ordering::Relaxed) {
        sights.scans += 1;
        if let Some(place) = scan_unknown(ram)?.alive()?.first() {
            sights.attached += 1;
            follow(ram, place, &mut watcher, &mut sights, over)?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    sights.tally = watcher.tally;
    Ok(sights)
}

/// Reads one region for as long as it lives.
fn follow(
    ram: &impl PhysRead,
    place: &Place,
    watcher: &mut Watcher,
    sights: &mut Sights,
    over: &AtomicBool,
) -> Result<()> {
    let mut region = place.region();
    let mut fresh = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let seen = watcher.frame(ram, &mut region).and_then(|sample| {
            watcher.cursor(ram, &mut region)?;
            watcher.geometry(ram, &mut region, 0..2)?;
            let _ = region.read_status(ram)?;
            Ok(sample)
        });
        match seen {
            Ok(Sample::Fresh(_)) => fresh = Instant::now(),
            Ok(Sample::Skip(why)) => {
                *sights.skips.entry(name(&why)).or_default() += 1;
                if matches!(why, Skip::Older { .. }) {
                    region.forget_frames();
                }
            }
            Err(error) if error.is::<ReadError>() => {
                sights.lost += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if fresh.elapsed() > Duration::from_secs(2) {
            sights.stood_still += 1;
            return Ok(());
        }
    }
    Ok(())
}

const fn name(skip: &Skip) -> &'static str {
    match skip {
        Skip::Busy { .. } => "busy",
        Skip::Torn { .. } => "torn",
        Skip::Moved => "moved",
        Skip::NoFrame => "no frame",
        Skip::Unchanged { .. } => "unchanged",
        Skip::Older { .. } => "older",
        Skip::BadLatest(_) => "bad latest",
        Skip::BadDescriptor { .. } => "bad descriptor",
        Skip::TooSmall { .. } => "too small",
        _ => "other",
    }
}
