//! Every function over a synthetic guest, from a C program.

mod common;

use common::{Dir, LiveGuest, command, program, run, shared_library};
use vgpu_perception::PagingMode;
use vgpu_perception_testkit::linux::LinuxOptions;

fn whole(name: &str, options: LinuxOptions) {
    let dir = Dir::new(name);
    shared_library(&dir);
    let program = program(&dir, "tests/c/guest.c");
    let guest = LiveGuest::new(&dir, options);
    let output = run(command(&program, guest.test_args()).env("RUST_BACKTRACE", "0"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all of it\n");
}

#[test]
fn every_function_works_and_refuses() {
    whole("guest-4", LinuxOptions::default());
}

#[test]
fn and_with_five_levels_of_tables() {
    whole("guest-5", LinuxOptions { mode: PagingMode::FiveLevel, kpti: true, ..LinuxOptions::default() });
}

#[test]
fn nothing_fails_because_something_else_runs() {
    if std::env::var_os("VGPU_TEST_RUNNER").is_some() {
        println!("SKIPPED: threads that race, under a runner that lets one run at a time");
        return;
    }
    let dir = Dir::new("daemon");
    shared_library(&dir);
    let program = program(&dir, "tests/c/daemon.c");
    let guest = LiveGuest::new(&dir, LinuxOptions::default());
    let output = run(command(&program, guest.test_args()).env("RUST_BACKTRACE", "0"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nothing failed: "), "{text}");
    print!("{text}");
}

#[test]
fn any_call_in_any_order_over_a_guest_that_lies() {
    let dir = Dir::new("hostile");
    shared_library(&dir);
    let program = program(&dir, "tests/c/hostile.c");
    let options = LinuxOptions {
        ram: 1280 << 20,
        processes: 4,
        placement: vgpu_perception_testkit::Placement::Fragments64K,
        ..LinuxOptions::default()
    };
    let guest = LiveGuest::new(&dir, options);
    // Under valgrind one takes as long as twenty elsewhere.
    let seeds = if std::env::var_os("VGPU_TEST_RUNNER").is_some() { 1..=1 } else { 1..=4 };
    for seed in seeds {
        let mut args = guest.test_args();
        args.insert(0, seed.to_string());
        let output = run(&mut command(&program, args));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "survived\n", "seed {seed}");
    }
}

#[test]
fn a_guest_that_samples_a_page_is_waited_for() {
    let dir = Dir::new("sampled");
    shared_library(&dir);
    let program = program(&dir, "tests/c/sampled.c");
    let guest = LiveGuest::new(&dir, LinuxOptions::default());
    let output = run(&mut command(&program, guest.test_args()));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "sampled\n");
}
