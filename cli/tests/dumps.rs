//! A dump as scripts see it: regions are found and read, and nothing is called alive.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use vgpu_perception_testkit::{LinuxOptions, Ram, standard_linux};

/// Writes a LiME dump: a header before each range; pages that hold nothing are holes of the file.
fn lime(ram: &Ram, path: &Path) {
    let file = File::create(path).unwrap();
    let mut at = 0;
    for segment in ram.segments() {
        let mut header = [0; 32];
        header[..4].copy_from_slice(b"EMiL");
        header[4] = 1;
        header[8..16].copy_from_slice(&segment.start.get().to_le_bytes());
        header[16..24].copy_from_slice(&(segment.end().get() - 1).to_le_bytes());
        file.write_all_at(&header, at).unwrap();
        at += 32;
        for page in ram.present_pages().filter(|page| (segment.start..segment.end()).contains(page)) {
            file.write_all_at(&ram.bytes(page, 4096), at + (page.get() - segment.start.get())).unwrap();
        }
        at += segment.len;
    }
    file.set_len(at).unwrap();
}

#[test]
fn a_dump_is_read_and_nothing_of_it_lives() {
    let linux = standard_linux(LinuxOptions::default());
    let path = std::env::temp_dir().join(format!("vgpu-cli-dump-{}.lime", std::process::id()));
    let picture = path.with_extension("png");
    lime(&linux.guest.ram, &path);
    let core = format!("core:{}", path.display());
    let base = format!("{:#x}", linux.region.base.get());
    let run = |args: &[&str]| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_vgpu")).args(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let found = run(&["find", &core, "--json"]);
    assert_eq!(found["live"], false);
    let candidates = found["candidates"].as_array().unwrap();
    assert!(candidates.iter().any(|one| one["base"] == base && one["alive"] == false), "{found:#}");
    assert_eq!(run(&["status", &core, "--base", &base, "--json"])["live"], false);
    let sample = run(&["sample", &core, "--base", &base, "-o", &picture.display().to_string(), "--json"]);
    assert_eq!((&sample["live"], &sample["frames"]), (&Value::Bool(false), &Value::from(1)));
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    assert!(run(&["ps", &core, "--json"])["processes"].as_array().is_some_and(|list| list.len() > 3));
    for path in [path, picture] {
        std::fs::remove_file(path).unwrap();
    }
}
