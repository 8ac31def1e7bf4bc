//! Chaos at length: a watch over machines whose producers are killed between any two stores, and that reboot, cold and
//! warm, while stale groups of the boots before and groups that a program made up lie in RAM.
//!
//! Nothing stale is handed out, nothing torn, and nobody dead is called alive. `VGPU_KILLS` and `VGPU_REBOOTS` say how
//! many; `.ci/chaos` asks for 1000 and 100.

mod life;
mod world;

use core::time::Duration;
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Instant;

use life::{Life, size, time};
use vgpu_perception::region::Liveness;
use vgpu_perception_host::{Event, Guest, Sample, Watch};
use vgpu_perception_producer::{CursorState, pattern};
use vgpu_perception_testkit::Rng;
use world::{BOARDS, BOOTS, END, Machine, World};

/// A heartbeat period of the watch's clock.
const PERIOD: Duration = Duration::from_millis(250);
/// Periods within which an end has to be noticed.
const NOTICED: u32 = 8;

fn asked(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A watch, a clock of its own, and what was seen.
struct Chaos {
    watch: Watch<Machine>,
    /// Runs ahead of the real one: what is waited for on purpose is waited for in real time.
    now: Instant,
    picture: Vec<u8>,
    seen: BTreeMap<&'static str, u64>,
    slowest: Duration,
}

impl Chaos {
    fn new(machine: &Machine) -> Self {
        let guest = Guest::over(machine.clone(), END);
        let picture = vec![0; 95 * 95 * 4];
        Self { watch: Watch::new(guest), now: Instant::now(), picture, seen: BTreeMap::new(), slowest: Duration::ZERO }
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A step that may come sooner than it is due.
    fn step(&mut self) -> (Event, Instant) {
        let (event, next) = self.watch.step(self.now);
        self.count(match event {
            Event::Nothing => "steps",
            Event::NoCandidate => "surveys without a living one",
            Event::Found => "found",
            Event::Restarted { .. } => "restarted",
            Event::Gone(_) => "gone",
            Event::Stale => "stood still",
            Event::Failed(_) => "surveys that failed",
            _ => "other",
        });
        (event, next)
    }

    /// A step, after which it is as late as the next one is due.
    fn step_on(&mut self) -> Event {
        let (event, next) = self.step();
        self.now = self.now.max(next);
        event
    }

    /// Steps until the producer is followed. Whoever is found is the one that lives.
    fn find(&mut self, world: &World, life: &Life) {
        let begun = Instant::now();
        loop {
            match self.step_on() {
                Event::Found => break,
                Event::Restarted { .. } | Event::Gone(_) | Event::Stale => panic!("nobody was followed"),
                _ => {}
            }
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "producer {} is not found: {:?}",
                life.number,
                self.seen
            );
            sleep(Duration::from_millis(1));
        }
        let live = self.watch.live().expect("what was found is followed");
        let (base, root) = (live.candidate().base, live.candidate().process.space.root);
        assert_eq!(base, life.region.base, "a dead one was called alive: {:?}", live.candidate());
        assert!(world.is_of(root, life), "found in another process: {:?}", live.candidate());
        self.slowest = self.slowest.max(begun.elapsed());
    }

    /// Takes what there is to take. All of it is `life`'s, whole, and newer than `newest`.
    fn read(&mut self, life: &Life, newest: &mut u64) {
        let (width, height) = size(life.number);
        let Some(live) = self.watch.live() else { return };
        let frame = live.frame(&mut self.picture);
        if let Ok(Sample::Fresh(frame)) = &frame {
            let desc = frame.desc;
            assert_eq!((desc.width, desc.height), (width, height), "stale: not producer {}'s", life.number);
            assert_eq!(desc.timestamp_ns, time(life.number, desc.frame_id), "torn descriptor");
            assert!(desc.frame_id > *newest, "stale: frame {} after {newest}", desc.frame_id);
            let pixels = &self.picture[..frame.bytes];
            pattern::check(desc.frame_id, width, height, pixels).unwrap_or_else(|error| panic!("torn: {error}"));
            *newest = desc.frame_id;
        }
        let cursor = live.cursor();
        if let Ok(Sample::Fresh(cursor)) = &cursor
            && cursor.seq > 0
        {
            let read = CursorState {
                visible: cursor.visible,
                x: cursor.x,
                y: cursor.y,
                hot_x: cursor.hot_x,
                hot_y: cursor.hot_y,
                glyph_w: cursor.glyph_w,
                glyph_h: cursor.glyph_h,
                id: cursor.id,
            };
            assert_eq!(read, pattern::cursor(cursor.seq / 2, width, height), "torn: cursor {}", cursor.seq);
        }
        self.count(match frame {
            Ok(Sample::Fresh(_)) => "frames, every pixel right",
            Ok(Sample::Skip(_)) => "skips",
            Err(_) => "reads of what is gone",
        });
        if let Ok(Sample::Fresh(_)) = cursor {
            self.count("cursors, every field right");
        }
    }

    /// Takes some frames of a producer that lives.
    fn follow(&mut self, life: &Life) -> u64 {
        let begun = Instant::now();
        let mut newest = 0;
        let mut taken = 0;
        while taken < 3 {
            let before = newest;
            self.read(life, &mut newest);
            taken += u32::from(newest > before);
            assert!(begun.elapsed() < Duration::from_secs(60), "no frames of producer {}", life.number);
            assert!(!matches!(self.step().0, Event::Found), "found again while it was followed");
            assert!(self.watch.live().is_some(), "producer {} lives and was given up", life.number);
        }
        newest
    }

    /// After the end of a producer: it is noticed, and it never lives again.
    fn mourn(&mut self, life: &Life, mut newest: u64) {
        let mut pulse = None;
        for _ in 0..NOTICED {
            if let Some(live) = self.watch.live() {
                let reader = live.reader_mut();
                if let Some(before) = pulse {
                    let verdict = reader.confirm_alive(before);
                    assert!(!matches!(verdict, Ok(Liveness::Alive(_))), "the dead is alive: {verdict:?}");
                }
                pulse = reader.pulse().ok().and_then(Sample::fresh);
            }
            self.read(life, &mut newest);
            let event = self.step_on();
            let says_alive = matches!(event, Event::Found | Event::Restarted { .. });
            assert!(!says_alive, "producer {} is dead and was called alive: {event:?}", life.number);
            if matches!(event, Event::Gone(_) | Event::Stale) {
                assert!(self.watch.live().is_none());
                return;
            }
            self.now += PERIOD;
        }
        panic!("the end of producer {} went unnoticed", life.number);
    }

    /// Searches while nobody lives, until the watch says so.
    fn search_in_vain(&mut self) {
        for _ in 0..64 {
            match self.step_on() {
                Event::Found => {
                    let found = self.watch.live().map(|live| *live.candidate());
                    panic!("nobody lives, and this was found: {found:?}");
                }
                Event::NoCandidate => return,
                // Beats are waited for in real time.
                _ => sleep(Duration::from_millis(40)),
            }
        }
        panic!("neither found nor not found");
    }
}

#[test]
fn nothing_stale_nothing_torn_and_nobody_dead_is_called_alive() {
    let (kills, reboots) = (asked("VGPU_KILLS", 36), asked("VGPU_REBOOTS", 18));
    let begun = Instant::now();
    let machine = Machine::new();
    let mut chaos = Chaos::new(&machine);
    let mut rng = Rng::new(u64::try_from(asked("VGPU_SEED", 1)).unwrap());
    let mut world = None::<World>;
    let mut graves = BTreeMap::<_, u32>::new();
    let mut number = 0;
    for boot in 0..reboots {
        let board = BOARDS[boot / BOOTS % BOARDS.len()];
        let world = match &mut world {
            Some(world) if !boot.is_multiple_of(BOOTS) => {
                world.reset();
                // A look in the middle of the boot.
                chaos.step();
                assert!(chaos.watch.live().is_none(), "nobody lives in a machine that was reset");
                world.boot();
                *graves.entry(("warm boot", board.name)).or_default() += 1;
                world
            }
            _ => {
                *graves.entry(("cold boot", board.name)).or_default() += 1;
                world.insert(World::switch_on(&machine, board, rng.next_u64()))
            }
        };
        let until = kills * (boot + 1) / reboots;
        while usize::try_from(number).unwrap() < until {
            number += 1;
            let mut life = world.start(number);
            chaos.find(world, &life);
            let newest = chaos.follow(&life);
            life.kill();
            let how = world.bury(&life);
            *graves.entry(("killed", how)).or_default() += 1;
            chaos.mourn(&life, newest);
            if rng.one_in(16) {
                chaos.search_in_vain();
            }
        }
    }
    let took = begun.elapsed().as_secs();
    println!("figure: chaos: {number} producers killed, {reboots} boots in {took} s: {graves:?}");
    println!("figure: chaos: slowest to be found {:.1} s; seen: {:?}", chaos.slowest.as_secs_f64(), chaos.seen);
    assert_eq!(usize::try_from(number), Ok(kills));
}
