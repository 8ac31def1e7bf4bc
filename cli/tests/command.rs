//! The command as scripts see it: the main job, and every kind of bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};
use vgpu_perception_testkit::{FileSegment, LinuxOptions, Ram, standard_linux};

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

/// Runs a command over a guest as a file with a map of several pieces.
fn over(dir: &Dir, guest: &Ram, command: &[&str]) -> Output {
    let ram = dir.path("ram");
    if !Path::new(&ram).exists() {
        guest.to_file(Path::new(&ram)).unwrap();
    }
    let map = |at: &FileSegment| format!("--map={:#x}:{:#x}:{:#x}", at.gpa.get(), at.len, at.offset);
    let maps: Vec<_> = guest.file_segments().iter().map(map).collect();
    let args: Vec<_> = command.iter().copied().chain([ram.as_str()]).chain(maps.iter().map(String::as_str)).collect();
    vgpu(&args)
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
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
    assert!(code == 3 && text.contains("top page table"), "{text}");
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
    // What is no map is wrong usage; a map that the file does not have is the guest's.
    for (map, wanted, says) in [
        (&["--map", "0:1G:0"][..], 3, "64 KiB (0x10000 bytes)"),
        (&["--map", "0:32K:0", "--map", "16K:32K:32K"][..], 2, "overlap"),
        (&["--map", "0:x:0"][..], 2, "--map: segment 0 \"0:x:0\": len \"x\""),
        (&["--map", "0:4K"][..], 2, "0:4K"),
        (&["--map", "0:0:0"][..], 2, "has no bytes"),
    ] {
        let mut args = vec!["find", file.as_str()];
        args.extend(map);
        let (code, text) = refused(&args);
        assert!(code == wanted && text.contains(says), "{map:?}: {code} {text}");
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
    for (args, named) in [
        (&["find", "--json"][..], "<GUEST|--qmp <SOCKET>|--pid <PID>>"),
        (&["find", "--json", "ram", "--wat"], "--wat"),
        (&["find", "--json", "ram", "--cr3", "seven"], "seven"),
        (&["--json"], "requires a subcommand"),
    ] {
        let output = vgpu(args);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &report["exit"]), (Some(2), &Value::from(2)), "{args:?}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(named) && !error.contains('\n'), "{args:?}: {error}");
    }
    let help = vgpu(&["find", "--json", "--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"List the regions"), "help is no error");
}

/// A guest that stands still, as a file: its regions are listed, and taken only where that is asked for.
#[test]
fn a_guest_that_stands_still() {
    let dir = Dir::new("still");
    let guest = standard_linux(LinuxOptions { processes: 5, ..LinuxOptions::default() });
    let with = |command: &[&str]| over(&dir, &guest.guest.ram, command);
    for cr3 in ["auto".to_owned(), format!("{:#x}", guest.processes[0].space.root.get() | 0x8000_0000_0000_0002)] {
        let output = with(&["find", "--json", "--wait-ms", "250", "--cr3", &cr3]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no virtual machine of this host"));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let candidates = report["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 2);
        assert!(candidates.iter().all(|candidate| candidate["alive"] == Value::Bool(false)));
    }
    let picture = dir.path("frame.png");
    let output = with(&["sample", "--wait-ms", "250", "-o", &picture]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--stale"));
    assert!(!Path::new(&picture).exists());
    assert!(with(&["sample", "--still", "--wait-ms", "250", "-o", &picture]).status.success());
    assert!(Path::new(&picture).exists());
    let output = with(&["status", "--stale", "--json", "--wait-ms", "250"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["geometry"]["dpi"], 96);
    assert_eq!(report["status"]["status"], "CAPTURING");
}

#[test]
fn what_is_done_is_said_where_somebody_asks() {
    let dir = Dir::new("verbose");
    let guest = standard_linux(LinuxOptions::default());
    let quiet = over(&dir, &guest.guest.ram, &["find", "--wait-ms", "300"]);
    let said = over(&dir, &guest.guest.ram, &["find", "-v", "--wait-ms", "300"]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert!(!text(&quiet.stderr).contains(" ms: "), "{}", text(&quiet.stderr));
    let steps = text(&said.stderr);
    assert!(text(&quiet.stdout).starts_with("2 regions, no live one\n"), "{}", text(&quiet.stdout));
    assert!(text(&quiet.stdout).contains("  stale (no heartbeat)  base 0x"), "{}", text(&quiet.stdout));
    assert!(!text(&quiet.stdout).contains("searched "), "{}", text(&quiet.stdout));
    let details = text(&said.stdout);
    for detail in ["Linux or another system: processes have no names", "searched ", " page tables, ", " pages in "] {
        assert!(details.contains(detail), "{detail}: {details}");
    }
    for step in ["attaching to", "attached: ", "searched; ", "candidates live"] {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    assert_eq!(said.status.code(), quiet.status.code(), "{steps}");
}

/// A Windows guest of which only the RAM file is known: its processes by name, and how that was proven.
#[test]
fn the_processes_of_a_windows_guest() {
    let dir = Dir::new("windows");
    let guest = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let truth = &guest.truth;
    let report = json_of(&over(&dir, &guest.ram, &["ps", "--json"]));
    let listed = report["processes"].as_array().unwrap();
    assert_eq!(listed.len(), truth.processes.len() - 1, "all but the one that has ended");
    for process in truth.processes.iter().filter(|process| process.is_alive()) {
        let one = listed.iter().find(|one| one["pid"] == process.pid).unwrap();
        assert_eq!(one["name"], process.name);
        assert_eq!(one["ppid"], process.ppid);
        assert_eq!(one["eprocess"], format!("{:#x}", process.eprocess.get()));
        if process.peb.get() == 0 {
            assert_eq!(one["peb"], Value::Null);
        } else {
            assert_eq!(one["peb"], format!("{:#x}", process.peb.get()));
        }
        if one["cr3_by"] == "DirectoryTableBase" {
            assert_eq!(one["cr3"], format!("{:#x}", process.space.root.get()));
        } else {
            assert_eq!((process.name, &one["cr3_by"]), ("game.exe", &Value::from("UserDirectoryTableBase")));
        }
    }
    let kernel = &report["kernel"];
    assert_eq!((&kernel["version"], &kernel["levels"]), (&Value::from("10.0.19041"), &Value::from(4)));
    assert_eq!(kernel["found_by"], "the processor start block");
    let layout = kernel["layout"].as_array().unwrap();
    assert!(layout.iter().all(|field| field["offset"].is_string() && field["witnesses"].as_u64() > Some(0)));
    let all = json_of(&over(&dir, &guest.ram, &["ps", "--json", "--all"]));
    let gone = all["processes"].as_array().unwrap().iter().find(|one| one["name"] == "gone.exe").unwrap().clone();
    assert_eq!(gone["state"], "exited");

    let text = String::from_utf8(over(&dir, &guest.ram, &["ps"]).stdout).unwrap();
    let first = text.lines().next().unwrap();
    for says in ["processes alive", "1 exited", "(--all shows them)", "Windows 10.0.19041"] {
        assert!(first.contains(says), "{says}: {first}");
    }
    assert!(text.contains("vgpu-agent.exe") && text.contains("DirectoryTableBase names no"), "{text}");
    assert!(!text.contains("VadRoot"), "where fields lie is a detail: {text}");
    let text = String::from_utf8(over(&dir, &guest.ram, &["ps", "-v"]).stdout).unwrap();
    assert!(text.contains("VadRoot") && text.contains("found by the processor start block"), "{text}");
    let found = json_of(&over(&dir, &guest.ram, &["find", "--json", "--wait-ms", "250"]));
    let agent = found["candidates"].as_array().unwrap().iter().find(|one| one["process"] == "vgpu-agent.exe").unwrap();
    assert_eq!(agent["base"], format!("{:#x}", truth.shared.region.base.get()));
    assert_eq!(found["scanned"]["system"], "windows");
}

#[test]
fn the_demo_on_windows() {
    let dir = Dir::new("windows-demo");
    let report = json_of(&vgpu(&["demo", "--windows", "--json", "--seconds", "1", "-o", &dir.path("frame.png")]));
    assert_eq!(report["find"]["candidates"][0]["process"], "vgpu-agent.exe");
    assert!(report["frames"].as_u64() > Some(0));
    assert_eq!(report["frames"], report["whole"]);
}

/// A guest without a list of processes that could be read: roots, and why there are no names.
#[test]
fn the_address_spaces_of_another_guest() {
    let dir = Dir::new("roots");
    let guest = standard_linux(LinuxOptions { processes: 5, ..LinuxOptions::default() });
    let output = over(&dir, &guest.guest.ram, &["ps", "--json"]);
    let report = json_of(&output);
    let listed = report["processes"].as_array().unwrap();
    for process in &guest.processes {
        let root = format!("{:#x}", process.space.root.get());
        assert!(listed.iter().any(|one| one["cr3"] == root.as_str() && one["pid"].is_null()), "{root}");
    }
    assert_eq!(report["kernel"]["system"], "roots");
    assert!(report["kernel"]["not_windows"].is_string());
    let said = |args: &[&str]| {
        let output = over(&dir, &guest.guest.ram, args);
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (text, errors) = said(&["ps"]);
    let first = text.lines().next().unwrap();
    assert!(first.ends_with("address spaces; Linux or another system: processes have no names"), "{first}");
    assert!(!errors.contains("Windows") && !text.contains("Windows"), "no error: {errors}");
    assert!(said(&["ps", "-v"]).0.contains("not taken for Windows"));
}

#[test]
fn a_monitor_that_is_none() {
    let dir = Dir::new("monitor");
    let (code, text) = refused(&["find", "--qmp", &dir.path("none.sock")]);
    assert!(code == 3 && text.contains("none.sock: no such monitor socket"), "{text}");
    assert!(Path::new(&dir.0).is_dir());
}
