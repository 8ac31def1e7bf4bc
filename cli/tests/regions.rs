//! Several live regions in one guest: which of them a command is about, and that the others are said.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use serde_json::Value;
use vgpu_perception_testkit::{FileSegment, LinuxOptions, StandardLinux, standard_linux};

/// Where the heartbeat lies in a region.
const HEARTBEAT: u64 = 0x100;

/// A guest in a file, two of whose regions beat.
struct Beating {
    dir: PathBuf,
    guest: StandardLinux,
    maps: Vec<String>,
    stop: Arc<AtomicBool>,
    heart: Option<JoinHandle<()>>,
}

impl Beating {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vgpu-regions-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let guest = standard_linux(LinuxOptions { processes: 5, ..LinuxOptions::default() });
        let segments = guest.guest.ram.to_file(&dir.join("ram")).unwrap();
        let map = |at: &FileSegment| format!("--map={:#x}:{:#x}:{:#x}", at.gpa.get(), at.len, at.offset);
        let maps = segments.iter().map(map).collect();
        let place = |gpa: u64| {
            let inside = |one: &&FileSegment| gpa.wrapping_sub(one.gpa.get()) < one.len;
            let one = segments.iter().find(inside).unwrap();
            one.offset + (gpa - one.gpa.get())
        };
        let hearts: Vec<u64> =
            [&guest.region, &guest.forged].map(|region| place(region.gpa(0).unwrap().get()) + HEARTBEAT).to_vec();
        let file = OpenOptions::new().write(true).open(dir.join("ram")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let heart = thread::spawn(move || {
            for beat in 1000_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                for at in &hearts {
                    file.write_all_at(&beat.to_le_bytes(), *at).unwrap();
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { dir, guest, maps, stop, heart: Some(heart) }
    }

    fn run(&self, args: &[&str]) -> Output {
        let ram = format!("ram:{}", self.dir.join("ram").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu"));
        command.current_dir(&self.dir).args(args).arg(ram).args(&self.maps).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> (Value, String) {
        let output = self.run(args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {errors}");
        (serde_json::from_slice(&output.stdout).unwrap(), errors)
    }

    fn root(&self, process: usize) -> String {
        format!("{:#x}", self.guest.processes[process].space.root.get())
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.heart.take().map(JoinHandle::join);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn one_of_two_that_live() {
    let guest = Beating::start("two");
    // The forged region lies in the third process, the producer is the last.
    let (forger, producer) = (guest.root(2), guest.root(4));
    let (_, said) = guest.json(&["sample", "--json"]);
    assert!(said.contains("2 regions live") && said.contains("--all"), "{said}");
    for root in [&forger, &producer] {
        for command in ["sample", "status"] {
            let (report, said) = guest.json(&[command, "--json", "--cr3", root]);
            assert_eq!(report["candidate"]["cr3"], root.as_str(), "{command}");
            assert!(!said.contains("regions live"), "{said}");
        }
    }
    let base = format!("{:#x}", guest.guest.region.base.get());
    let (report, _) = guest.json(&["status", "--json", "--base", &base]);
    assert_eq!(report["candidate"]["base"], base.as_str());
}

#[test]
fn all_that_live() {
    let guest = Beating::start("all");
    let (report, _) = guest.json(&["sample", "--json", "--all", "-o", "each.png"]);
    let regions = report["regions"].as_array().unwrap();
    let mut files: Vec<_> = regions.iter().map(|one| one["file"].as_str().unwrap().to_owned()).collect();
    files.sort();
    files.dedup();
    assert_eq!(files.len(), 2, "{report:#}");
    assert!(files.iter().all(|file| guest.dir.join(file).is_file()), "{files:?}");
}

#[test]
fn a_stream_of_the_one_that_was_asked_for() {
    let guest = Beating::start("stream");
    let stream = |base: u64, file: &str| {
        let base = format!("{base:#x}");
        let args =
            ["stream", "--json", "--frames", "1", "--timeout", "2", "--format", "raw", "-o", file, "--base", &base];
        guest.run(&args)
    };
    let region = &guest.guest.region;
    let output = stream(region.base.get(), "one.raw");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pixels = fs::read(guest.dir.join("one.raw")).unwrap();
    // Both lie at this address, each in its own process.
    let all = [region, &guest.guest.forged];
    let is_of = |id: u64| all.iter().any(|one| one.image.pixels(id) == pixels);
    assert!((1..16).any(is_of), "{} bytes are no frame of the regions that were named", pixels.len());
    let output = stream(0x1000, "none.raw");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("--base and --process name") && errors.contains("vgpu find"), "{errors}");
}

#[test]
fn a_doctor_goes_through_each_step() {
    let guest = Beating::start("doctor");
    let (report, _) = guest.json(&["doctor", "--json"]);
    assert_eq!(report["works"], true, "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    let seen = |step: &str| {
        let one = steps.iter().find(|one| one["step"] == step).unwrap_or_else(|| panic!("{step}: {report:#}"));
        (one["outcome"].as_str().unwrap(), one["seen"].as_str().unwrap())
    };
    assert_eq!(seen("file").0, "good");
    let (outcome, says) = seen("sharing");
    assert!(outcome == "notice" && says.contains("no virtual machine"), "{says}");
    assert!(seen("attach").1.contains("mapped"));
    assert_eq!(seen("kernel").0, "good");
    assert!(seen("heartbeat").1.starts_with("2 live"), "{report:#}");
}

#[test]
fn none_that_was_asked_for() {
    let guest = Beating::start("none");
    for args in [["sample", "--base", "0x1000"], ["status", "--process", "game.exe"]] {
        let output = guest.run(&args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("no region is the one that was asked for") && errors.contains("base 0x7e12"),
            "{errors}"
        );
    }
}
