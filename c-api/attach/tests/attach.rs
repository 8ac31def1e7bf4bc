//! A C program that goes from a guest's name to a frame, with both libraries.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::process::Command;

use common::{Dir, LiveGuest, WARNINGS, command, compiler, run};
use vgpu_perception_testkit::Placement;
use vgpu_perception_testkit::linux::LinuxOptions;

#[test]
fn a_name_leads_to_a_frame() {
    let dir = Dir::new("attach");
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "-p", "vgpu-perception-capi", "-p", env!("CARGO_PKG_NAME"), "--target-dir"]);
    run(cargo.arg(target).current_dir(here));
    for (from, to) in [("perception_c", "perception"), ("perception_attach", "perception_attach")] {
        let library = target.join(format!("debug/libvgpu_{from}.so"));
        for end in ["so", "so.0"] {
            std::os::unix::fs::symlink(&library, dir.join(&format!("libvgpu_{to}.{end}"))).unwrap();
        }
    }
    let program = dir.join("attach");
    run(Command::new(compiler())
        .args(WARNINGS)
        .args(["-g", "-I"])
        .arg(here.join("include"))
        .arg("-I")
        .arg(here.join("../include"))
        .arg(here.join("tests/attach.c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&dir.0)
        .arg(format!("-Wl,-rpath,{}", dir.0.display()))
        .args(["-lvgpu_perception_attach", "-lvgpu_perception"]));
    let options =
        LinuxOptions { ram: 1 << 30, processes: 4, placement: Placement::Fragments64K, ..LinuxOptions::default() };
    let guest = LiveGuest::new(&dir, options);
    let image = &guest.linux.region.image;
    let sum: u64 = image.pixels(image.frames).iter().map(|byte| u64::from(*byte)).sum();
    let output = run(&mut command(&program, [format!("ram:{}", guest.path.display())]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("frame 5, 64x48, sum {sum}\n"));
    for (name, words) in [("ram:/nonexistent", "/nonexistent"), ("pid:0", "0"), ("name:no-such-guest", "no-such-guest")]
    {
        let output = command(&program, [name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("not attached: ") && text.contains(words), "{name}: {text}");
    }
}
