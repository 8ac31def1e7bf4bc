//! Files that cannot be guest RAM, files that can, and that none of them can be written.

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use common::{PAGE, fd, filled, in_child, is_child, memfd, open, pattern, ram};
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use vgpu_perception::{Gpa, PhysRead};
use vgpu_perception_mapped::{GuestRam, Machine, MachineOptions, OpenError, RamFile, RamOptions, SegmentMap};

/// A directory of its own that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vgpu-mapped-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.0.join(name);
        let bytes: Vec<u8> = (0..len).map(pattern).collect();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_no_ram_file_is_refused_by_name() {
    let scratch = Scratch::new("refused");
    let missing = scratch.0.join("nowhere");
    assert!(matches!(RamFile::open(&missing), Err(OpenError::Missing { path }) if path == missing));
    assert!(matches!(RamFile::open(&scratch.0), Err(OpenError::NotAFile { kind: "directory", .. })));
    let empty = scratch.file("empty", 0);
    assert!(matches!(RamFile::open(&empty), Err(OpenError::ZeroLength { path }) if path == empty));
    let below = empty.join("below");
    assert!(matches!(RamFile::open(below), Err(OpenError::Missing { .. })));
    assert!(matches!(RamFile::open("/dev/null"), Err(OpenError::NotAFile { kind: "device", .. })));
    let pipe = scratch.0.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    assert!(matches!(RamFile::open(&pipe), Err(OpenError::NotAFile { kind: "pipe", .. })), "and it does not hang");
    let odd = scratch.file("odd", PAGE + 1);
    assert!(matches!(GuestRam::open_flat(odd), Err(OpenError::Map(_))));
}

#[test]
fn permission_is_an_error_of_its_own() {
    let name = "permission_is_an_error_of_its_own";
    if is_child() {
        let path = std::env::var("VGPU_MAPPED_SECRET").unwrap();
        let error = RamFile::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::PermissionDenied { path: named } if named.as_os_str() == path.as_str()));
        println!("refused: {error}");
        return;
    }
    let scratch = Scratch::new("permission");
    let path = scratch.file("secret", PAGE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read anything: the child is somebody else, who needs a copy of this binary within reach.
    let root = File::open(&path).is_ok();
    let binary = scratch.0.join("test");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let output = in_child(name, |command| {
        command.env("VGPU_MAPPED_SECRET", &path);
        if root {
            let mut other = std::process::Command::new(&binary);
            other.args(command.get_args());
            for (key, value) in command.get_envs() {
                other.env(key, value.unwrap());
            }
            other.uid(65_534).current_dir("/");
            *command = other;
        }
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("refused: "), "{output:?}");
}

#[test]
fn a_file_shorter_than_its_map_is_refused_with_both_numbers() {
    let scratch = Scratch::new("short");
    let path = scratch.file("ram", 2 * PAGE);
    let error = GuestRam::open(&path, "0:4K:0, 1M:8K:4K".parse().unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::TooShort { len: 0x2000, segment, .. } if segment.gpa == Gpa::new(1 << 20)));
    let said = error.to_string();
    assert!(said.contains("has 8 KiB (0x2000 bytes)") && said.contains("ends at 0x3000"), "{said}");
    let error = GuestRam::open(&path, "0:4K:0:1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::NoSuchFile { files: 1, .. }));
}

#[test]
fn a_file_that_was_never_written_is_refused_unless_allowed() {
    let file = memfd(4 * PAGE);
    let error = open(&[&file], "0:16K:0", RamOptions::new()).unwrap_err();
    assert!(matches!(error, OpenError::Empty { len: 0x4000, .. }), "{error}");
    let ram = open(&[&file], "0:16K:0", RamOptions::new().allow_empty()).unwrap();
    assert_eq!(ram.next_extent(Gpa::new(0)), Ok(None));
    file.write_all_at(&[1], 3 * PAGE).unwrap();
    assert!(open(&[&file], "0:16K:0", RamOptions::new()).is_ok());
}

#[test]
fn a_seal_can_be_required() {
    let file = filled(PAGE, pattern);
    let options = RamOptions::new().require_sealed();
    assert!(matches!(open(&[&file], "0:4K:0", options), Err(OpenError::NotSealed { .. })));
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let ram = open(&[&file], "0:4K:0", options).unwrap();
    assert!(ram.files()[0].is_sealed());
    assert!(file.set_len(0).is_err(), "which is what the seal is for");
}

#[test]
fn a_shrunk_file_is_found_by_asking() {
    let file = filled(4 * PAGE, pattern);
    let ram = ram(&[&file], "0:16K:0");
    ram.check().unwrap();
    file.set_len(2 * PAGE).unwrap();
    assert!(matches!(ram.check(), Err(OpenError::Shrunk { was: 0x4000, now: 0x2000, .. })));
    assert!(ram.next_extent(Gpa::new(3 * PAGE)).is_err(), "a pass over it is told too");
}

#[test]
fn the_length_of_a_file_gives_the_machine() {
    let scratch = Scratch::new("machine");
    let path = scratch.0.join("ram");
    let file = File::create(&path).unwrap();
    file.set_len(3 << 30).unwrap();
    file.write_all_at(b"below", (2 << 30) - 5).unwrap();
    file.write_all_at(b"above", 2 << 30).unwrap();
    let ram = GuestRam::open_machine(&path, Machine::Q35, MachineOptions::default()).unwrap();
    let mut bytes = [0; 5];
    ram.read(Gpa::new((2 << 30) - 5), &mut bytes).unwrap();
    assert_eq!(&bytes, b"below");
    ram.read(Gpa::new(4 << 30), &mut bytes).unwrap();
    assert_eq!(&bytes, b"above");
    assert!(ram.load_u32(Gpa::new(2 << 30)).is_err());
}

#[test]
fn the_mapping_cannot_be_written() {
    let file = filled(2 * PAGE, pattern);
    let writable = rustix::fs::fcntl_getfl(&file).unwrap();
    assert_eq!(writable & OFlags::RWMODE, OFlags::RDWR, "what is handed over could write");
    let ram = GuestRam::from_fd(fd(&file), "guest", SegmentMap::flat(2 * PAGE).unwrap()).unwrap();
    let ours = rustix::fs::fcntl_getfl(ram.files()[0].as_fd()).unwrap();
    assert_eq!(ours & OFlags::RWMODE, OFlags::RDONLY, "what is kept cannot");

    let at = ram.window(Gpa::new(0), 1).unwrap().as_ptr();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.starts_with(&format!("{:x}-", at.addr()))).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("r--s"), "{line}");

    let rights = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the kernel refuses this, which is the point; were it granted, nothing here would write.
    let changed = unsafe { rustix::mm::mprotect(at.cast_mut().cast(), PAGE as usize, rights) };
    assert_eq!(changed, Err(Errno::ACCESS));
}

#[test]
fn the_position_of_an_inherited_descriptor_is_left_alone() {
    use std::io::{Seek, SeekFrom};
    let mut file = filled(4 * PAGE, pattern);
    file.seek(SeekFrom::Start(77)).unwrap();
    let ram = ram(&[&file], "0:16K:0");
    ram.next_extent(Gpa::new(0)).unwrap();
    assert_eq!(file.stream_position().unwrap(), 77);
}
