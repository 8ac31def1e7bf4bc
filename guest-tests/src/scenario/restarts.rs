//! A watch that follows producers of a real guest through their deaths, and the guest through its reboots. The RAM of a
//! guest that reboots stays as it is: each boot leaves its tables and regions to the next.

use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use vgpu_perception::region::Sample;
use vgpu_perception_guest_tests::{Guest, Options, Ready, Result};
use vgpu_perception_host::{Event, Ram, Watch};
use vgpu_perception_producer::pattern;

use super::{Length, asked, ensure, life};

/// A `q35` of 1 GiB: it is booted often.
const Q35: Options = Options { ram_mib: 1024, ..Options::Q35 };

/// How long anything may take that has no promise of its own: it only ends a hung test.
const PATIENCE: Duration = Duration::from_secs(120);

/// Follows many producers on each kind of machine. `VGPU_KILLS` and `VGPU_REBOOTS` are of all machines together.
pub(crate) fn run(length: Length) -> Result<()> {
    let (kills, reboots) = if length == Length::Short { (12, 3) } else { (300, 30) };
    let (kills, reboots) = (asked("VGPU_KILLS", kills), asked("VGPU_REBOOTS", reboots));
    let machines = [("pc", life::PC), ("q35", Q35), ("la57", life::LA57)];
    let count = machines.len() as u64;
    let share = |all: u64| all.div_ceil(count);
    for (name, options) in machines {
        let begun = Instant::now();
        let guest = Guest::boot(options)?;
        let spec = format!("qmp:{}", guest.qmp_path().display());
        let watch = Watch::new(vgpu_perception_host::Guest::attach(&spec)?);
        let mut story =
            Story { guest, watch, number: 0, picture: vec![0; 256 * 256 * 4], newest: 0, seen: BTreeMap::new() };
        let (kills, boots) = (share(kills), share(reboots) + 1);
        for boot in 0..boots {
            for n in kills * boot / boots..kills * (boot + 1) / boots {
                story.live_and_die(n % 8 == 0)?;
            }
            if boot + 1 < boots {
                story.reboot()?;
            }
        }
        let took = begun.elapsed().as_secs();
        println!("figure: restarts on {name}: {} producers in {took} s: {:?}", story.number, story.seen);
    }
    Ok(())
}

struct Story {
    guest: Guest,
    watch: Watch<Ram>,
    /// Producers that were started; the size of their frames says which is which.
    number: u32,
    picture: Vec<u8>,
    newest: u64,
    seen: BTreeMap<&'static str, u64>,
}

impl Story {
    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    const fn size(&self) -> (u32, u32) {
        (64 + 4 * (self.number % 32), 64 + 4 * (self.number / 32 % 32))
    }

    /// One step, at its time.
    fn step(&mut self) -> Event {
        let (event, next) = self.watch.step(Instant::now());
        self.count(match event {
            Event::Nothing => "steps",
            Event::NoCandidate => "surveys without a living one",
            Event::Found => "found",
            Event::Restarted { .. } => "restarted",
            Event::Gone(_) => "gone",
            Event::Stale => "stood still",
            _ => "surveys that failed",
        });
        std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
        event
    }

    /// Takes what there is; all of it has to be the newest producer's, whole, and newer than what was taken before.
    ///
    /// A machine that was reset may leave the tables and the first page of its last producer untouched while the next
    /// boot fills the pages of the ring: nothing in memory tells, until no heart beats. Such a frame is counted.
    fn read(&mut self, reset: bool) -> Result<()> {
        let (width, height) = self.size();
        let Some(live) = self.watch.live() else { return Ok(()) };
        let Ok(Sample::Fresh(frame)) = live.frame(&mut self.picture) else { return Ok(()) };
        let (desc, pixels) = (frame.desc, &self.picture[..frame.bytes]);
        ensure!((desc.width, desc.height) == (width, height), "stale: a frame of another producer: {desc:?}");
        ensure!(desc.frame_id > self.newest, "stale: frame {} after {}", desc.frame_id, self.newest);
        let whole = pattern::check(desc.frame_id, width, height, pixels);
        self.newest = desc.frame_id;
        match whole {
            Ok(()) => self.count("frames, every pixel right"),
            Err(_) if reset => self.count("frames after a reset, with pages of the next boot"),
            Err(error) => return Err(format!("torn: frame {} of {}: {error}", desc.frame_id, self.number).into()),
        }
        Ok(())
    }

    /// Starts a producer, finds it, and takes some frames.
    fn begin(&mut self) -> Result<Ready> {
        self.number += 1;
        self.newest = 0;
        let (width, height) = self.size();
        let ready = self.guest.start_producer(&format!("--width {width} --height {height} --fps 60"))?;
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.step(), Event::Found) {
            ensure!(Instant::now() < deadline, "producer {} is not found: {ready:?}, {:?}", self.number, self.seen);
        }
        let found = self.watch.live().map(|live| *live.candidate());
        let base = found.map(|candidate| candidate.base.get());
        ensure!(base == Some(ready.base), "a dead one was called alive: {found:?}, and {ready:?} lives");
        let wanted = Instant::now() + PATIENCE;
        let mut taken = 0;
        while taken < 3 {
            ensure!(Instant::now() < wanted, "no frames of producer {}", self.number);
            let before = self.newest;
            self.read(false)?;
            taken += u32::from(self.newest > before);
            let event = self.step();
            // A guest on a busy machine may be late; then it is found again.
            ensure!(!matches!(event, Event::Restarted { .. }), "producer {} did not restart", self.number);
        }
        Ok(ready)
    }

    /// After an end: it is noticed, and nothing lives; what is read until then is whole, unless the machine was reset.
    fn notice(&mut self, what: &str, reset: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.watch.live().is_some() {
            ensure!(Instant::now() < deadline, "the {what} goes unnoticed");
            self.read(reset)?;
            ensure!(!matches!(self.step(), Event::Found), "after the {what} something was found");
        }
        Ok(())
    }

    /// Searches while nobody lives, until the watch says so.
    fn search_in_vain(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.step() {
                Event::NoCandidate => return Ok(()),
                Event::Found => {
                    let found = self.watch.live().map(|live| *live.candidate());
                    return Err(format!("nobody lives, and this was found: {found:?}").into());
                }
                _ => ensure!(Instant::now() < deadline, "neither found nor not found"),
            }
        }
    }

    fn live_and_die(&mut self, in_vain: bool) -> Result<()> {
        self.begin()?;
        self.guest.kill_producer()?;
        self.count("killed");
        self.notice("death of a producer", false)?;
        if in_vain { self.search_in_vain() } else { Ok(()) }
    }

    /// The guest reboots under a producer that lives.
    fn reboot(&mut self) -> Result<()> {
        self.begin()?;
        self.guest.reboot()?;
        self.count("rebooted");
        self.notice("reboot", true)?;
        self.search_in_vain()
    }
}
