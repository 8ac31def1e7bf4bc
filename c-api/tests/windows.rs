//! The example embedder over a Windows guest: most pages of its region were trimmed, and its kernel lists its
//! processes.

mod common;

use common::{Dir, Heart, command, program, run, seg_args, shared_library};
use vgpu_perception_producer::pattern;
use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};

#[test]
fn a_windows_guest_is_read_by_its_own_list() {
    let dir = Dir::new("windows");
    shared_library(&dir);
    let program = program(&dir, "examples/embed.c");
    for (name, shape) in [("7 SP1", Shape::FourLevel), ("10 2004", Shape::SmallPages), ("11 24H2", Shape::FiveLevel)] {
        let guest = WindowsGuest::build(&Layout::named(name), shape, Options { ram: 2 << 30, ..Options::default() });
        let path = dir.join("ram");
        let segments = guest.ram.to_file(&path).unwrap();
        let shared = &guest.truth.shared.region;
        let _heart = Heart::start(&path, &segments, shared, &guest.ram);
        let agent = &guest.truth.processes[guest.truth.producer];
        for kcr3 in [Some(guest.truth.kcr3), None] {
            let mut command = command(&program, ["map", path.to_str().unwrap()]);
            command.args(seg_args(&segments));
            if let Some(kcr3) = kcr3 {
                command.args(["--kcr3", &format!("{kcr3}")]);
            }
            let text = String::from_utf8(run(&mut command).stdout).unwrap();
            let (cr3, gva) = (agent.space.root.get(), shared.base.get());
            assert!(text.contains(&format!("region cr3={cr3:#x} gva={gva:#x} alive=1\n")), "{name}: {text}");
            let checksum = pattern::checksum(&shared.image.pixels(shared.image.frames));
            assert!(text.contains(&format!("frame id=5 checksum={checksum:#018x} ")), "{name}: {text}");
            assert!(text.contains("process 6012 vgpu-agent.exe "), "{name}: {text}");
        }
    }
}
