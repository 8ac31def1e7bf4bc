//! A watch over a synthetic guest whose producer restarts, ends and comes back, and that reboots.

use core::ops::ControlFlow;
use core::time::Duration;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Instant;

use vgpu_perception::{Extent, Gpa, Gva, PageKind, PhysError, PhysRead};
use vgpu_perception_host::{Event, Guest, Sample, SurveyError, Watch};
use vgpu_perception_testkit::{Field, LinuxOptions, Ram, StandardLinux, standard_linux};

/// RAM whose contents another guest's can replace: a reboot.
#[derive(Clone, Debug)]
struct Rebooting(Arc<Mutex<Ram>>);

impl Rebooting {
    fn now(&self) -> Ram {
        self.0.lock().unwrap().clone()
    }
}

impl PhysRead for Rebooting {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.now().read(gpa, dst)
    }
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.now().load_u32(gpa)
    }
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.now().load_u64(gpa)
    }
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.now().next_extent(from)
    }
    fn page_kind(&self, page: Gpa) -> PageKind {
        self.now().page_kind(page)
    }
}

/// Steps until an event is what is waited for; the producers of `beating` beat meanwhile.
fn until<M: PhysRead>(watch: &mut Watch<M>, beating: &[&StandardLinux], wanted: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        for linux in beating {
            linux.region.tick(&linux.guest.ram);
        }
        let (event, next) = watch.step(Instant::now());
        if wanted(&event) {
            return event;
        }
        assert!(matches!(event, Event::Nothing | Event::NoCandidate), "{event:?} was not expected");
        sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
    }
    panic!("nothing happened within 30 s: {watch:?}");
}

fn newest<M: PhysRead>(watch: &mut Watch<M>) -> Option<u64> {
    let mut picture = vec![0; 64 * 48 * 4];
    match watch.live()?.frame(&mut picture).ok()? {
        Sample::Fresh(frame) => Some(frame.desc.frame_id),
        Sample::Skip(_) => None,
    }
}

#[test]
fn a_producer_that_restarts_ends_and_moves_is_followed() {
    let mut linux = standard_linux(LinuxOptions::default());
    let guest = Guest::over(linux.guest.ram.clone(), Gpa::new(5 << 30));
    let mut watch = Watch::new(guest);
    assert!(watch.live().is_none());
    until(&mut watch, &[&linux], |event| matches!(event, Event::Found));
    assert_eq!(newest(&mut watch), Some(5));
    assert_eq!(newest(&mut watch), None, "each frame once");

    linux.region.set(&linux.guest.ram, Field::RUN_EPOCH, 2);
    let event = until(&mut watch, &[&linux], |event| matches!(event, Event::Restarted { .. }));
    assert!(matches!(event, Event::Restarted { run_epoch: 2 }));
    assert_eq!(newest(&mut watch), Some(5), "in a new session it is new");

    // It ends: its page is unmapped. The forged region is there all the time and is never taken.
    let space = linux.processes[linux.producer].space;
    let page = linux.guest.gpa(space, linux.region.base);
    linux.guest.unmap(space, linux.region.base);
    until(&mut watch, &[], |event| matches!(event, Event::Gone(_)));
    assert!(watch.live().is_none());
    until(&mut watch, &[], |event| matches!(event, Event::NoCandidate));

    // It is there again, in another process.
    let heir = linux.processes[5].space;
    let moved = Gva::new(0x6000_0000_0000);
    let alias = linux.region.alias(&mut linux.guest, heir, moved, vgpu_perception_testkit::flags::USER_RW);
    assert_eq!(alias.pages[0].gpa, page);
    until(&mut watch, &[&linux], |event| matches!(event, Event::Found));
    assert_eq!(watch.live().unwrap().candidate().base, moved);
}

#[test]
fn a_heart_that_stops_is_noticed_and_one_that_starts_again_is_found_again() {
    let linux = standard_linux(LinuxOptions { seed: 3, ..LinuxOptions::default() });
    let mut watch = Watch::new(Guest::over(linux.guest.ram.clone(), Gpa::new(5 << 30)));
    until(&mut watch, &[&linux], |event| matches!(event, Event::Found));
    until(&mut watch, &[], |event| matches!(event, Event::Stale));
    assert!(watch.live().is_none(), "a dead one is not called alive");
    until(&mut watch, &[&linux], |event| matches!(event, Event::Found));
}

#[test]
fn a_reboot_is_survived() {
    let before = standard_linux(LinuxOptions { seed: 1, ..LinuxOptions::default() });
    let after = standard_linux(LinuxOptions { seed: 2, kpti: true, ..LinuxOptions::default() });
    let memory = Rebooting(Arc::new(Mutex::new(before.guest.ram.clone())));
    let mut watch = Watch::new(Guest::over(memory.clone(), Gpa::new(5 << 30)));
    until(&mut watch, &[&before], |event| matches!(event, Event::Found));
    *memory.0.lock().unwrap() = after.guest.ram.clone();
    until(&mut watch, &[&after], |event| matches!(event, Event::Gone(_) | Event::Stale | Event::Restarted { .. }));
    until(&mut watch, &[&after], |event| matches!(event, Event::Found));
    let found = watch.live().unwrap().candidate().process.space.root.table();
    assert_eq!(found, after.processes[after.producer].space.root);
    assert_eq!(newest(&mut watch), Some(5));
}

#[test]
fn a_filter_takes_its_own() {
    let linux = standard_linux(LinuxOptions { seed: 4, ..LinuxOptions::default() });
    let mut watch = Watch::new(Guest::over(linux.guest.ram.clone(), Gpa::new(5 << 30)));
    watch = watch.only(|candidate| candidate.base == Gva::new(0x1000));
    for _ in 0..8 {
        linux.region.tick(&linux.guest.ram);
        let (event, next) = watch.step(Instant::now());
        assert!(!matches!(event, Event::Found), "{event:?}");
        sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(350)));
    }
}

#[test]
fn a_watch_begins_with_a_producer_that_was_confirmed_and_shares_its_guest() {
    let linux = standard_linux(LinuxOptions { seed: 5, ..LinuxOptions::default() });
    let guest = Arc::new(Guest::over(linux.guest.ram.clone(), Gpa::new(5 << 30)));
    let mut survey = guest.survey().unwrap();
    linux.region.tick(&linux.guest.ram);
    let mut live = survey.poll().remove(0);
    let mut picture = vec![0; 64 * 48 * 4];
    assert!(matches!(live.frame(&mut picture), Ok(Sample::Fresh(_))));

    let mut watch = Watch::new(Arc::clone(&guest)).beginning_with(live.another());
    assert_eq!(watch.live().unwrap().candidate().base, linux.region.base);
    assert_eq!(newest(&mut watch), Some(5), "another reader has taken no frame yet");
    assert!(matches!(live.frame(&mut picture), Ok(Sample::Skip(_))), "and takes none from the first");
    until(&mut watch, &[], |event| matches!(event, Event::Stale));
    until(&mut watch, &[&linux], |event| matches!(event, Event::Found));
    assert_eq!(guest.survey().unwrap().candidates().len(), 2, "others use the guest meanwhile");

    // Without proof there is nothing to begin with.
    let unproven = survey.open(&survey.candidates()[0]);
    assert!(Watch::new(guest).beginning_with(unproven).live().is_none());
}

#[test]
fn a_search_that_was_broken_off_begins_anew_at_the_next_step() {
    let linux = standard_linux(LinuxOptions::default());
    let mut watch = Watch::new(Guest::over(linux.guest.ram.clone(), Gpa::new(5 << 30)));
    for _ in 0..2 {
        let now = Instant::now();
        let (event, due) = watch.step_with(now, |_| ControlFlow::Break(()));
        assert!(matches!(event, Event::Failed(SurveyError::Cancelled)), "{event:?}");
        assert!(due <= now && watch.live().is_none(), "no pause is due to the caller's own wish");
    }
    until(&mut watch, &[&linux], |event| matches!(event, Event::Found));
}
