//! The C programs of `docs/embedding.md`: the first is run, the second compiled as a hypervisor would.

mod common;

use std::process::Command;

use common::{Dir, LiveGuest, WARNINGS, command, compile, compiler, root, run, shared_library};
use vgpu_perception_testkit::linux::LinuxOptions;

fn programs() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("../docs/embedding.md")).unwrap();
    let blocks = text.split("```c\n").skip(1);
    blocks.map(|block| block.split_once("\n```").unwrap().0.to_owned() + "\n").collect()
}

#[test]
fn the_programs_of_the_handbook_work() {
    let [program, no_heap] = &programs()[..] else { panic!("two C programs") };
    let dir = Dir::new("docs");
    shared_library(&dir);
    std::fs::write(dir.join("program.c"), program).unwrap();
    let program = compile(&dir, &dir.join("program.c"));
    // The test kit splits RAM as cloud-hypervisor does.
    let guest = LiveGuest::new(&dir, LinuxOptions::default());
    let kcr3 = format!("{:#x}", guest.linux.kernel.init.root.get());
    let output = run(&mut command(&program, [guest.path.to_str().unwrap(), "ch", &kcr3]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "frame 5, 64x48, 12288 bytes\n");
    let output = command(&program, ["/nonexistent", "ch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));

    std::fs::write(dir.join("no_heap.c"), no_heap).unwrap();
    run(Command::new(compiler())
        .args(WARNINGS)
        .args(["-ffreestanding", "-c", "-I"])
        .arg(root().join("include"))
        .arg(dir.join("no_heap.c"))
        .arg("-o")
        .arg(dir.join("no_heap.o")));
}
