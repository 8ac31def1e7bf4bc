//! The example embedder, over both kinds of memory handle.

mod common;

use common::{Dir, LiveGuest, command, program, run, shared_library};
use vgpu_perception::PagingMode;
use vgpu_perception_testkit::linux::LinuxOptions;
use vgpu_perception_testkit::{Field, Placement, RegionImage};

fn embed(options: LinuxOptions, kinds: &[&str], name: &str) {
    let dir = Dir::new(name);
    shared_library(&dir);
    let program = program(&dir, "examples/embed.c");
    let guest = LiveGuest::new(&dir, options);
    let root = format!("{:#x}", guest.linux.kernel.init.root.get());
    for &kind in kinds {
        for kcr3 in [Some(root.as_str()), None] {
            let frame = dir.join("frame");
            let mut command = command(&program, [kind, guest.path.to_str().unwrap()]);
            command.args(guest.seg_args()).arg("--out").arg(&frame);
            if let Some(kcr3) = kcr3 {
                command.args(["--kcr3", kcr3]);
            }
            let output = run(&mut command);
            let text = String::from_utf8(output.stdout).unwrap();
            let region = &guest.linux.region;
            let (cr3, gva) = (region.space.root.get(), region.base.get());
            assert!(text.contains(&format!("region cr3={cr3:#x} gva={gva:#x} alive=1\n")), "{kind}: {text}");
            assert!(text.contains(&format!("frame id=5 checksum={:#018x} ", guest.checksum())), "{kind}: {text}");
            assert!(text.contains("cursor x=17 y=-5 visible=1 id=1\n"), "{kind}: {text}");
            assert_eq!(std::fs::read(&frame).unwrap(), region.image.pixels(region.image.frames));
        }
    }
}

/// A callback cannot tell the holes of its file: a search reads every page, so the guest is a small one.
fn small() -> LinuxOptions {
    LinuxOptions { ram: 1280 << 20, processes: 4, placement: Placement::Fragments64K, ..LinuxOptions::default() }
}

#[test]
fn the_example_takes_a_frame_through_both_readers() {
    embed(LinuxOptions { kpti: true, ..small() }, &["map", "read"], "embed-both");
}

#[test]
fn ram_may_straddle_a_hole() {
    embed(LinuxOptions::default(), &["map"], "embed-hole");
}

#[test]
fn five_levels_of_tables_are_noticed() {
    embed(LinuxOptions { mode: PagingMode::FiveLevel, ..small() }, &["map", "read"], "embed-5");
}

#[test]
fn errors_say_what_is_wrong() {
    let dir = Dir::new("embed-errors");
    shared_library(&dir);
    let program = program(&dir, "examples/embed.c");
    let empty = dir.join("zeros");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let cases = [
        (vec!["map", "/nonexistent/ram"], 2, "/nonexistent/ram"),
        (vec!["map", empty.to_str().unwrap(), "--kcr3", "0x1000"], 2, "kernel half"),
        (vec!["map", empty.to_str().unwrap()], 2, "no page-table roots"),
        (vec!["read", empty.to_str().unwrap()], 2, "no page-table roots"),
        (vec!["map", empty.to_str().unwrap(), "--seg", "0:0x200000:0"], 2, "ends at 0x200000"),
        (vec!["fly", "x"], 1, "usage"),
    ];
    for (args, status, words) in cases {
        let output = command(&program, &args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
}

/// A process that only has the guest's RAM in it.
struct Machine(std::process::Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guest_is_read_out_of_another_process() {
    let dir = Dir::new("embed-process");
    shared_library(&dir);
    let program = program(&dir, "examples/process.c");
    let image = RegionImage { width: 1280, height: 720, ..LinuxOptions::default().image };
    // All of it in one stretch, as a machine without shared RAM has it.
    let options = LinuxOptions { ram: 1 << 30, processes: 4, placement: Placement::Fragments64K, image, ..small() };
    let guest = LiveGuest::new(&dir, options);
    // Memory that nobody shares: what the file holds is copied, and the heart beats in the copy.
    let hold = "import mmap, os, struct, sys, time\n\
                fd, beat = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2])\n\
                ram = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n\
                end = 0\n\
                while True:\n\
                \x20   try: start = os.lseek(fd, end, os.SEEK_DATA)\n\
                \x20   except OSError: break\n\
                \x20   end = os.lseek(fd, start, os.SEEK_HOLE)\n\
                \x20   ram[start:end] = os.pread(fd, end - start, start)\n\
                print('there', flush=True)\n\
                for tick in range(6000):\n\
                \x20   struct.pack_into('Q', ram, beat, 1000 + tick)\n\
                \x20   time.sleep(0.02)\n";
    let beat = guest.linux.region.gpa(Field::HEARTBEAT.offset).unwrap().get();
    let mut machine = std::process::Command::new("python3")
        .args(["-c", hold])
        .arg(&guest.path)
        .arg(beat.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut there = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(machine.stdout.take().unwrap()), &mut there).unwrap();
    let machine = Machine(machine);
    let root = format!("{:#x}", guest.linux.kernel.init.root.get());
    let output = run(&mut command(&program, [&machine.0.id().to_string(), "1024", "--kcr3", &root]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("frame 5, 1280x720: "), "{text}");
    text.lines().for_each(|line| println!("figure: from another process, {line}"));
    let gone = command(&program, ["1", "3"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(2));
}
