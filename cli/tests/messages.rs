//! What the command says when it cannot do what was asked: which value is wrong, and what to do.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use vgpu_perception_testkit::RunningGuest;

fn vgpu(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vgpu")).args(args).output().unwrap()
}

/// Exit code, standard output and standard error.
fn said(args: &[&str]) -> (i32, String, String) {
    let output = vgpu(args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder of the test's own.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vgpu-messages-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, start: &[u8], len: usize) -> String {
        let mut bytes = start.to_vec();
        bytes.resize(len, 1);
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What names a guest that runs.
fn named(guest: &RunningGuest) -> Vec<String> {
    let map =
        |at: &vgpu_perception_testkit::FileSegment| format!("--map={:#x}:{:#x}:{:#x}", at.gpa.get(), at.len, at.offset);
    let ram = format!("ram:{}", guest.ram().display());
    core::iter::once(ram).chain(guest.segments().iter().map(map)).collect()
}

#[test]
fn files_of_another_kind_are_known_by_their_start() {
    let dir = Dir::new("kinds");
    for (name, start, says) in [
        ("ram.gz", &b"\x1f\x8b\x08\0"[..], "gzip file: unpack it first"),
        ("kdump", b"KDUMP   ", "kdump-compressed dump: make an ELF core"),
        ("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0", "ELF"),
    ] {
        // As a bare word, and as what somebody is sure is RAM; the second is of no whole number of pages.
        let path = dir.file(name, start, 5000);
        for word in [path.clone(), format!("ram:{path}")] {
            let (code, _, errors) = said(&["find", &word]);
            assert!(code == 3 && errors.contains(&path) && errors.contains(says), "{word}: {code} {errors}");
        }
    }
    let odd = dir.file("odd", b"", 5000);
    let (code, _, errors) = said(&["find", &odd]);
    assert!(code == 3 && errors.contains(&odd) && errors.contains("5000 bytes"), "{errors}");
    let (_, _, errors) = said(&["find", &odd, "--machine", "q35"]);
    assert!(errors.contains(&odd) && errors.contains("5000 bytes"), "{errors}");
}

#[test]
fn numbers_that_cannot_be_taken() {
    for (args, says) in [
        (&["find", "x", "--cr3", "1ad000"][..], "write 0x1ad000"),
        (&["find", "x", "--cr3", "0000000000109000"][..], "write 0x109000"),
        (&["sample", "x", "--base", "7e1234600000z"][..], "\"7e1234600000z\""),
        (&["find", "x", "--wait-ms", "100"][..], "100 ms is less than the heartbeat period"),
        (&["find", "x", "--wait-ms", "soon"][..], "\"soon\" is no number of milliseconds"),
    ] {
        let (code, _, errors) = said(args);
        assert!(code == 2 && errors.contains(says), "{args:?}: {code} {errors}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_anything_else() {
    let dir = Dir::new("places");
    let folder = dir.0.display().to_string();
    // No such guest runs: it is not even looked for.
    for (output, code, says) in
        [("/nonexistent/frame.png", 5, "/nonexistent/frame.png: cannot be written"), (&folder, 2, "is a folder")]
    {
        for args in [&["sample", "no-such-guest", "--wait-for", "60"][..], &["demo"][..]] {
            let mut args = args.to_vec();
            // The name of the folder says no format.
            args.extend(["-o", output]);
            let (got, _, errors) = said(&args);
            assert!(got == code && errors.contains(says), "{args:?}: {got} {errors}");
        }
    }
    let (code, _, errors) = said(&["stream", "no-such-guest", "-o", "/nonexistent/out.y4m"]);
    assert!(code == 5 && errors.contains("/nonexistent/out.y4m"), "{errors}");
    assert!(fs::read_dir(&dir.0).unwrap().next().is_none(), "the trial leaves nothing behind");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let guest = RunningGuest::start().unwrap();
    let of_guest = named(&guest);
    let mut find = vec!["find"];
    find.extend(of_guest.iter().map(String::as_str));
    let mut sample = vec!["sample", "-o", "-"];
    sample.extend(of_guest.iter().map(String::as_str));
    for args in [&["--help"][..], &["completions", "bash"], &find, &sample] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_vgpu")).args(args).stdout(full).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{args:?}: {errors}");
        assert!(errors.contains("standard output: cannot be written: No space left"), "{args:?}: {errors}");
        // A reader that is gone before the first byte.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_vgpu")).args(args).stdout(writer).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{args:?}: {errors}");
    }
}

#[test]
fn json_says_the_error_wherever_the_code_is_not_0() {
    let dir = Dir::new("json");
    let zeros = dir.file("zeros", b"", 1 << 20);
    for args in [
        &["find", &zeros, "--json"][..],
        &["sample", "/nonexistent/ram", "--json"],
        &["sample", "x", "--json", "-o", "/nonexistent/frame.png"],
        &["ps", "x", "--json"],
        &["doctor", "x", "--json"],
        &["status", "x", "--json", "--map", "0"],
        &["find", "--json", "x", "--wait-ms", "1"],
    ] {
        let (code, output, _) = said(args);
        let report: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{args:?}: {output}"));
        assert!(code != 0 && report["exit"] == code, "{args:?}: {code} {report:#}");
        assert!(report["error"].as_str().is_some_and(|text| !text.is_empty()), "{args:?}: {report:#}");
    }
}

/// A producer that beats every 33 ms is known as soon as it has beaten, whatever the longest wait is.
#[test]
fn a_live_region_ends_the_wait() {
    let guest = RunningGuest::start().unwrap();
    let dir = Dir::new("wait");
    let picture = dir.0.join("frame.png").display().to_string();
    let mut args = vec!["sample", "-o", &picture, "--wait-ms", "60000", "--base", "0x7e1234600000"];
    let of_guest = named(&guest);
    args.extend(of_guest.iter().map(String::as_str));
    let begun = Instant::now();
    let (code, output, errors) = said(&args);
    assert!(code == 0 && output.contains("320 x 200"), "{code} {output} {errors}");
    // Not the time of a machine, but whether the longest wait was waited for.
    assert!(begun.elapsed().as_secs() < 55, "the forged region, which never beats, was waited for");
}

#[test]
fn what_is_waited_for_is_said_once() {
    let (code, output, errors) = said(&["find", "no-such-guest", "--wait-for", "2"]);
    assert!(code == 3 && output.is_empty(), "{code} {output}");
    // What this machine runs is part of it: where that changes meanwhile it is said anew.
    let mut waits: Vec<_> = errors.lines().filter_map(|line| line.strip_prefix("vgpu: waiting for up to ")).collect();
    assert!(waits.iter().any(|wait| wait.starts_with("2 s more: no virtual machine")), "{errors}");
    let all = waits.len();
    waits.iter_mut().for_each(|wait| *wait = wait.split_once(" more: ").unwrap().1);
    waits.dedup();
    assert_eq!(waits.len(), all, "{errors}");
}

/// On a terminal a line says what is under way; elsewhere nothing is drawn.
#[test]
fn progress_is_drawn_on_a_terminal() {
    // The other end of this socket never answers: attaching takes until its deadline.
    let dir = Dir::new("progress");
    let socket = dir.0.join("monitor.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let word = format!("qmp:{}", socket.display());
    let vgpu = env!("CARGO_BIN_EXE_vgpu");
    // `script` gives the command a terminal of its own.
    let shown = Command::new("script")
        .args(["-qec", &format!("timeout 3 '{vgpu}' find '{word}'"), "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("attaching to qmp:"), "{text:?}");
    let quiet = Command::new("timeout").args(["3", vgpu, "find", &word]).output().unwrap();
    let text = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(!text.contains("attaching"), "{text:?}");
}
