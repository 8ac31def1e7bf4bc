//! The command as scripts see it: the main job, and every kind of bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use vgpu_perception_testkit::{LinuxOptions, standard_linux};

fn vgpu(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vgpu")).args(args).output().unwrap()
}

/// A directory of the test's own.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vgpu-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exit code and standard error.
fn refused(args: &[&str]) -> (i32, String) {
    let output = vgpu(args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_demo_finds_samples_and_draws() {
    let dir = Dir::new("demo");
    let picture = dir.path("frame.png");
    let output = vgpu(&["demo", "--json", "--seconds", "1", "-o", &picture]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let candidates = report["find"]["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 2, "the producer's region and the forged one: {report:#}");
    assert_eq!((&candidates[0]["alive"], &candidates[1]["alive"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(candidates[0]["base"].as_str().unwrap().starts_with("0x"));
    assert!(report["frames"].as_u64().unwrap() > 0);
    assert_eq!(report["frames"], report["whole"]);
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(&picture).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1280, 720));
    assert!(pixels.iter().any(|byte| *byte != pixels[0]), "a picture, not a colour");
}

#[test]
fn files_that_are_no_guest() {
    let dir = Dir::new("files");
    let missing = dir.path("missing");
    assert_eq!(refused(&["find", &missing]).0, 3);
    assert!(refused(&["find", &missing]).1.contains("no such file"));
    let (code, text) = refused(&["find", &dir.0.display().to_string()]);
    assert!(code == 3 && text.contains("directory"), "{text}");
    let empty = dir.path("empty");
    fs::write(&empty, b"").unwrap();
    let (code, text) = refused(&["find", &empty]);
    assert!(code == 3 && text.contains("no bytes"), "{text}");
    let noise = dir.path("noise");
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&noise, &bytes).unwrap();
    let (code, text) = refused(&["find", &noise]);
    assert!(code == 1 && text.contains("top page table"), "{text}");
    let (code, text) = refused(&["find", &noise, "--cr3", "0x3000"]);
    assert!(code == 3 && text.contains("0x3000"), "{text}");
    let (code, text) = refused(&["find", &noise, "--cr3", "0xff_0000_0000"]);
    assert!(code == 2 || code == 3, "{text}");
}

#[test]
fn maps_that_do_not_fit() {
    let dir = Dir::new("maps");
    let file = dir.path("ram");
    fs::write(&file, vec![1; 1 << 16]).unwrap();
    for (map, says) in [
        (&["--map", "0:1G:0"][..], "0x10000 bytes"),
        (&["--map", "0:32K:0", "--map", "16K:32K:32K"][..], "overlap"),
        (&["--map", "0:x:0"][..], "\"x\""),
        (&["--map", "0:4K"][..], "0:4K"),
        (&["--map", "0:0:0"][..], "0"),
    ] {
        let mut args = vec!["find", file.as_str()];
        args.extend(map);
        let (code, text) = refused(&args);
        assert!(code == 3 && text.contains(says), "{map:?}: {code} {text}");
    }
    let (code, text) = refused(&["find", &file, "--machine", "pdp11"]);
    assert!(code == 2 && text.contains("pdp11") && text.contains("q35"), "{text}");
    let big = dir.path("big");
    fs::File::create(&big).unwrap().set_len(3 << 30).unwrap();
    let (code, text) = refused(&["find", &big]);
    assert!(code == 3 && text.contains("--machine"), "{text}");
}

#[test]
fn errors_are_json_too() {
    let output = vgpu(&["find", "--json", "/nonexistent/ram"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["exit"], 3);
    assert!(report["error"].as_str().unwrap().contains("/nonexistent/ram"));
}

/// A guest that stands still, as a file: its regions are listed, and taken only where that is asked for.
#[test]
fn a_guest_that_stands_still() {
    let dir = Dir::new("still");
    let guest = standard_linux(LinuxOptions { processes: 5, ..LinuxOptions::default() });
    let ram = dir.path("ram");
    let segments = guest.guest.ram.to_file(Path::new(&ram)).unwrap();
    let maps: Vec<_> =
        segments.iter().map(|at| format!("--map={:#x}:{:#x}:{:#x}", at.gpa.get(), at.len, at.offset)).collect();
    let with = |command: &[&str]| {
        let args: Vec<_> =
            command.iter().copied().chain([ram.as_str()]).chain(maps.iter().map(String::as_str)).collect();
        vgpu(&args)
    };
    for cr3 in ["auto".to_owned(), format!("{:#x}", guest.processes[0].space.root.get() | 0x8000_0000_0000_0002)] {
        let output = with(&["find", "--json", "--wait-ms", "1", "--cr3", &cr3]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("share=off"));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let candidates = report["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 2);
        assert!(candidates.iter().all(|candidate| candidate["alive"] == Value::Bool(false)));
    }
    let picture = dir.path("frame.png");
    let output = with(&["sample", "--wait-ms", "1", "-o", &picture]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--still"));
    assert!(!Path::new(&picture).exists());
    assert!(with(&["sample", "--still", "--wait-ms", "1", "-o", &picture]).status.success());
    assert!(Path::new(&picture).exists());
    let output = with(&["status", "--still", "--json", "--wait-ms", "1"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["geometry"]["dpi"], 96);
    assert_eq!(report["status"]["status"], "CAPTURING");
}

#[test]
fn a_monitor_that_is_none() {
    let dir = Dir::new("monitor");
    let (code, text) = refused(&["find", "--qmp", &dir.path("none.sock")]);
    assert!(code == 3 && text.contains("-qmp unix:"), "{text}");
    assert!(Path::new(&dir.0).is_dir());
}
