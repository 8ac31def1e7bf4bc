//! Guests that reboot into the memory that the boot before left behind: what moves tells which kernel runs.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Instant;

use vgpu_perception::{Gpa, Gva};
use vgpu_perception_host::{Event, Guest, Watch};
use vgpu_perception_testkit::linux::LinuxKernel;
use vgpu_perception_testkit::windows::{Layout, Options, RootPlace, Shape, WindowsGuest};
use vgpu_perception_testkit::{Placement, Ram, Region, RegionImage, Ring, Rng};

/// A boot that runs: its clock and its producer's heart go on until it is dropped.
struct Running {
    go_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(windows: &WindowsGuest) -> Self {
        let windows = windows.clone();
        Self::ticking(move || {
            windows.tick(156_250);
            windows.truth.shared.region.tick(&windows.ram);
        })
    }

    fn ticking(tick: impl Fn() + Send + 'static) -> Self {
        let go_on = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&go_on);
        let thread = spawn(move || {
            while flag.load(Ordering::Relaxed) {
                tick();
                sleep(Duration::from_millis(2));
            }
        });
        Self { go_on, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.go_on.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Steps until something else than nothing happens.
fn next(watch: &mut Watch<Ram>) -> Event {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let (event, due) = watch.step(Instant::now());
        if !matches!(event, Event::Nothing) {
            return event;
        }
        sleep(due.saturating_duration_since(Instant::now()));
    }
    panic!("nothing happened within a minute: {watch:?}");
}

fn assert_found(watch: &mut Watch<Ram>, windows: &WindowsGuest) {
    let event = next(watch);
    assert!(matches!(event, Event::Found), "{event:?}");
    let root = watch.live().unwrap().candidate().process.space.root.table();
    assert_eq!(root, windows.truth.processes[windows.truth.producer].space.root);
}

/// The kernel that led to the producer before is still whole, with its process and its region, but stands still: it is
/// not waited for.
#[test]
fn a_kernel_that_stands_still_is_not_believed_again() {
    for shape in [Shape::FourLevel, Shape::FiveLevel] {
        let layout = Layout::named("10 2004");
        let before = WindowsGuest::build(&layout, shape, Options::default());
        let mut watch = Watch::new(Guest::over(before.ram.clone(), Gpa::new(6 << 30)));
        let running = Running::start(&before);
        assert_found(&mut watch, &before);
        drop(running);
        let now = before.reboot(&layout, shape, Options { seed: 5, root: RootPlace::Middle, ..Options::default() });
        let _running = Running::start(&now);
        let event = next(&mut watch);
        assert!(matches!(event, Event::Stale), "{event:?}");
        // Straight to the one that runs: nobody is waited for in vain in between.
        assert_found(&mut watch, &now);
    }
}

/// Linux was booted after Windows, without a reset of the memory: the Windows of before does not hide it.
#[test]
fn a_system_that_ran_before_hides_none_that_runs() {
    let options = Options { ram: 32 << 30, ..Options::default() };
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, options);
    let mut guest = windows.guest.clone();
    let kernel = LinuxKernel::build(&mut guest, false);
    let mut rng = Rng::new(3);
    let spaces: Vec<_> = (0..4).map(|_| kernel.spawn(&mut guest, &mut rng).space).collect();
    let (base, image) = (Gva::new(0x7e12_3460_0000), RegionImage::default());
    let region = Region::place(&mut guest, spaces[2], base, image, Placement::Scattered, Ring::Written);
    let ram = guest.ram.clone();
    let mut watch = Watch::new(Guest::over(ram.clone(), Gpa::new(34 << 30)));
    let _running = Running::ticking(move || region.tick(&ram));
    let event = next(&mut watch);
    assert!(matches!(event, Event::NoCandidate), "the Windows is looked at first: {event:?}");
    let event = next(&mut watch);
    assert!(matches!(event, Event::Found), "{event:?}");
    let candidate = *watch.live().unwrap().candidate();
    assert_eq!((candidate.process.space.root.table(), candidate.base), (spaces[2].root, base));
}
