//! A RAM file that shrinks under its mapping: with the guard an error, without it the end of the process.

mod common;

use core::time::Duration;
use std::os::unix::process::ExitStatusExt;

use common::{PAGE, filled, in_child, is_child, open, pattern};
use vgpu_perception::{CopyHint, Gpa, NextUse, PhysError, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_mapped::{GuestRam, RamOptions, SigbusGuard};

const SIGBUS: i32 = 7;

fn lost<T: core::fmt::Debug>(answer: Result<T, PhysError>) {
    assert_eq!(answer.unwrap_err().kind, PhysErrorKind::Lost);
}

/// Enough of the same three pages for a copy with several cursors.
fn runs(ram: &GuestRam, at: Gpa, next_use: NextUse) -> Result<(), PhysError> {
    let runs = [PhysRun { gpa: at, len: 3 * PAGE }; 20];
    ram.read_runs(&runs, &mut [0; 60 * PAGE as usize], CopyHint::new(1 << 40, next_use))
}

#[test]
fn with_the_guard_a_lost_page_is_an_error() {
    if !is_child() {
        let output = in_child("with_the_guard_a_lost_page_is_an_error", |_| {});
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("still here"));
        return;
    }
    let guard = SigbusGuard::install().unwrap();
    let options = RamOptions::new().guard(guard);
    type Load = fn(&GuestRam, Gpa);
    let loads: [Load; 7] = [
        |ram, at| lost(ram.load_u64(at)),
        |ram, at| lost(ram.load_u32(at)),
        |ram, at| lost(ram.load_words(at, &mut [0; 16])),
        |ram, at| lost(ram.load_columns([at; 2], 512, &mut [[0; 2]; 4])),
        |ram, at| lost(ram.read(at, &mut [0; 3 * PAGE as usize])),
        |ram, at| lost(runs(ram, at, NextUse::ReadSoon)),
        |ram, at| lost(runs(ram, at, NextUse::Handoff)),
    ];
    let untouched = filled(4 * PAGE, pattern);
    let other = open(&[&untouched], "0:16K:0", options).unwrap();
    for load in loads {
        let file = filled(4 * PAGE, pattern);
        let ram = open(&[&file], "0:16K:0", options).unwrap();
        assert!(ram.load_u64(Gpa::new(PAGE)).is_ok());
        file.set_len(PAGE).unwrap();
        assert!(ram.load_u64(Gpa::new(0)).is_ok(), "what is left can be read until something was lost");
        load(&ram, Gpa::new(PAGE));
        assert!(ram.is_lost());
        lost(ram.load_u64(Gpa::new(0)));
        lost(ram.read(Gpa::new(0), &mut [0; 8]));
        assert!(other.load_u64(Gpa::new(PAGE)).is_ok(), "another guest's RAM is not concerned");
    }
    // One guest in two files: a loss in the second is seen in copies from the first.
    let (first, second) = (filled(PAGE, pattern), filled(2 * PAGE, pattern));
    let ram = open(&[&first, &second], "0:4K:0:0, 4K:8K:0:1", options).unwrap();
    second.set_len(PAGE).unwrap();
    assert!(ram.load_u64(Gpa::new(PAGE)).is_ok());
    lost(ram.load_u64(Gpa::new(2 * PAGE)));
    lost(ram.read(Gpa::new(0), &mut [0; 8]));
    assert!(ram.is_lost());
    // Slots are given back: far more mappings than there are slots, one after the other.
    for _ in 0..2 * vgpu_perception_mapped::MAX_GUARDED {
        drop(open(&[&untouched], "0:16K:0", options).unwrap());
    }
    println!("still here");
}

#[test]
fn without_the_guard_the_process_ends() {
    if !is_child() {
        let output = in_child("without_the_guard_the_process_ends", |_| {});
        assert_eq!(output.status.signal(), Some(SIGBUS), "{output:?}");
        return;
    }
    let file = filled(4 * PAGE, pattern);
    let ram = open(&[&file], "0:16K:0", RamOptions::new()).unwrap();
    file.set_len(PAGE).unwrap();
    let _ = ram.load_u64(Gpa::new(PAGE));
}

#[test]
fn a_fault_elsewhere_goes_to_whoever_handled_it_before() {
    if !is_child() {
        let output = in_child("a_fault_elsewhere_goes_to_whoever_handled_it_before", |_| {});
        assert_eq!(output.status.signal(), Some(SIGBUS), "{output:?}");
        return;
    }
    let guard = SigbusGuard::install().unwrap();
    let guarded = filled(PAGE, pattern);
    let _ram = open(&[&guarded], "0:4K:0", RamOptions::new().guard(guard)).unwrap();
    let file = filled(4 * PAGE, pattern);
    let unguarded = open(&[&file], "0:16K:0", RamOptions::new()).unwrap();
    file.set_len(PAGE).unwrap();
    let _ = unguarded.load_u64(Gpa::new(PAGE));
}

#[test]
fn a_signal_that_was_sent_still_ends_the_process() {
    if !is_child() {
        let output = in_child("a_signal_that_was_sent_still_ends_the_process", |_| {});
        assert_eq!(output.status.signal(), Some(SIGBUS), "{output:?}");
        return;
    }
    SigbusGuard::install().unwrap();
    let kill = format!("kill -BUS {}", std::process::id());
    // The handler of Rust's runtime was here first: it swallows one signal and leaves the default action behind. Sent
    // again and again, since another thread takes them: one that is sent while the last still waits is merged with it.
    for _ in 0..100 {
        let sent = std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success(), "{sent}");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("nobody ended this process");
}
