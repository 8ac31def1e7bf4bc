//! Guests that reboot into the memory that the boot before left behind: what moves tells which kernel runs.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Instant;

use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::scan::Candidate;
use vgpu_perception::{Cr3, Gpa, Gva};
use vgpu_perception_host::{Event, Guest, SurveyError, Watch};
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

/// A Linux that was booted after Windows, without a reset of the memory, and whose producer's heart beats.
struct After {
    ram: Ram,
    region: Region,
    _running: Running,
}

impl After {
    fn start() -> Self {
        let options = Options { ram: 32 << 30, ..Options::default() };
        let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, options);
        let mut guest = windows.guest.clone();
        let kernel = LinuxKernel::build(&mut guest, false);
        let mut rng = Rng::new(3);
        let spaces: Vec<_> = (0..4).map(|_| kernel.spawn(&mut guest, &mut rng).space).collect();
        let (base, image) = (Gva::new(0x7e12_3460_0000), RegionImage::default());
        let region = Region::place(&mut guest, spaces[2], base, image, Placement::Scattered, Ring::Written);
        let (ram, beating) = (guest.ram.clone(), region.clone());
        let _running = Running::ticking(move || beating.tick(&guest.ram));
        Self { ram, region, _running }
    }

    fn guest(&self) -> Guest<Ram> {
        Guest::over(self.ram.clone(), Gpa::new(34 << 30))
    }

    fn assert_is(&self, candidate: &Candidate<GuestPaging>) {
        let place = (candidate.process.space.root.table(), candidate.base);
        assert_eq!(place, (self.region.space.root, self.region.base));
    }
}

/// The Windows of before does not hide the Linux that runs.
#[test]
fn a_system_that_ran_before_hides_none_that_runs() {
    let after = After::start();
    let mut watch = Watch::new(after.guest());
    let event = next(&mut watch);
    assert!(matches!(event, Event::Found), "{event:?}");
    after.assert_is(watch.live().unwrap().candidate());
}

/// One look cannot tell which of them runs; the second, of the same survey, does.
#[test]
fn a_survey_goes_on_behind_a_system_that_ran_before() {
    let after = After::start();
    let mut survey = after.guest().survey().unwrap();
    assert!(matches!(survey.kernel(), GuestKernel::Nt(_)), "the Windows is looked at first: {:?}", survey.kernel());
    assert!(!survey.more().unwrap(), "too early to say");
    sleep(survey.wait());
    assert!(survey.confirm().unwrap().is_empty());
    // Who breaks off may ask again.
    assert!(matches!(survey.more_with(|_| ControlFlow::Break(())), Err(SurveyError::Cancelled)));
    assert!(matches!(survey.kernel(), GuestKernel::Nt(_)), "it holds what it held");
    assert!(survey.more().unwrap());
    assert!(matches!(survey.kernel(), GuestKernel::Roots(_)));
    sleep(survey.wait());
    let lives = survey.confirm().unwrap();
    assert_eq!(lives.len(), 1);
    after.assert_is(lives[0].candidate());
    assert!(!survey.more().unwrap(), "there is nothing behind it");
}

/// Where a processor is known to run Linux, the first look is enough.
#[test]
fn a_root_that_is_loaded_tells_which_system_runs() {
    let after = After::start();
    let guest = after.guest().with_hint(Cr3::new(after.region.space.root.get()));
    let mut survey = guest.survey().unwrap();
    assert!(matches!(survey.kernel(), GuestKernel::Roots(_)), "{:?}", survey.kernel());
    sleep(survey.wait());
    let lives = survey.confirm().unwrap();
    assert_eq!(lives.len(), 1);
    after.assert_is(lives[0].candidate());
}

/// A Windows that is paused stands still as well: it stays the result where there is nobody else.
#[test]
fn a_windows_that_is_paused_stays_what_it_is() {
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let guest = Guest::over(windows.ram.clone(), Gpa::new(6 << 30));
    for guest in [guest, Guest::over(windows.ram.clone(), Gpa::new(6 << 30)).frozen()] {
        let mut survey = guest.survey().unwrap();
        sleep(survey.wait());
        assert!(survey.confirm().unwrap().is_empty());
        let held = survey.candidates().len();
        assert!(held > 0 && !survey.more().unwrap());
        assert_eq!(survey.candidates().len(), held, "it holds what it held");
        let GuestKernel::Nt(kernel) = survey.kernel() else { panic!("{:?}", survey.kernel()) };
        windows.assert_kernel(kernel);
    }
}
