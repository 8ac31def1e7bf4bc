//! Callbacks that do not return to the library.

mod common;

use std::process::Command;

use common::{Dir, LiveGuest, command, root, run, shared_library};
use vgpu_perception_testkit::Placement;
use vgpu_perception_testkit::linux::LinuxOptions;

#[test]
fn an_exception_comes_through_and_a_jump_harms_its_own_thread_alone() {
    let dir = Dir::new("throws");
    shared_library(&dir);
    let program = dir.join("throws");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    run(Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-clobbered", "-std=c++17", "-g", "-I"])
        .arg(root().join("include"))
        .arg(root().join("tests/c/throws.cpp"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&dir.0)
        .arg(format!("-Wl,-rpath,{}", dir.0.display()))
        .args(["-lvgpu_perception", "-pthread"]));
    let options =
        LinuxOptions { ram: 1280 << 20, processes: 4, placement: Placement::Fragments64K, ..LinuxOptions::default() };
    let guest = LiveGuest::new(&dir, options);
    let args = guest.test_args();
    let mut order = vec![args[0].clone(), args[2].clone(), args[3].clone(), args[1].clone()];
    order.extend_from_slice(&args[5..]);
    let output = run(&mut command(&program, order));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("came through, and everything works\n"), "{text}");
    assert!(text.contains("longjmp: this thread can call no more after "), "{text}");
    print!("{text}");
}
