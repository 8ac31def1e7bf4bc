//! Files in memory to read guest RAM from, and a second, writable look at them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Output};

use rustix::fs::MemfdFlags;
use vgpu_perception_mapped::{GuestRam, OpenError, RamFile, RamOptions, SegmentMap};

pub const PAGE: u64 = 4096;

/// A memfd of `len` bytes, all hole.
pub fn memfd(len: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
    file.set_len(len).unwrap();
    file
}

/// A memfd whose byte `i` is `byte(i)`.
pub fn filled(len: u64, byte: impl Fn(u64) -> u8) -> File {
    let file = memfd(len);
    let bytes: Vec<u8> = (0..len).map(byte).collect();
    file.write_all_at(&bytes, 0).unwrap();
    file
}

/// A byte that tells its neighbours apart, and pages too.
pub fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub fn fd(file: &File) -> OwnedFd {
    file.try_clone().unwrap().into()
}

pub fn open(files: &[&File], map: &str, options: RamOptions) -> Result<GuestRam, OpenError> {
    let files = files.iter().map(|file| RamFile::from_fd(fd(file), "guest memfd").unwrap()).collect();
    GuestRam::new(files, map.parse::<SegmentMap>().unwrap(), options)
}

pub fn ram(files: &[&File], map: &str) -> GuestRam {
    open(files, map, RamOptions::new()).unwrap()
}

/// Bytes of memory that the file takes.
pub fn allocated(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

const CHILD: &str = "VGPU_MAPPED_TEST_CHILD";

/// Whether this process is the child that [`in_child`] started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test `name` of this binary again, alone in a process of its own.
pub fn in_child(name: &str, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    change(&mut command);
    command.output().unwrap()
}
