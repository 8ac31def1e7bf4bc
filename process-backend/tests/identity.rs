//! Whose memory it is: a process that ended, a number that is another's, addresses that hold something else.

mod common;

use common::{PAGE, Private, Vmm, child, say, told_to_go_on};
use core::sync::atomic::Ordering;
use vgpu_perception::{CopyHint, Gpa, NextUse, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_process::{OpenError, Piece, Process, ProcessOptions, ProcessRam};

const RAM: u64 = 1 << 20;

fn vmm() {
    let memory = Private::new(RAM);
    memory.fill(0, RAM);
    say(&[memory.addr()]);
    while told_to_go_on() {}
}

/// Every way to read, of a guest that is no longer there.
fn check_all_refuse(ram: &ProcessRam, kind: PhysErrorKind) {
    let at = Gpa::new(0x1000);
    let kinds = [
        ram.load_u32(at).map(drop),
        ram.load_u64(at).map(drop),
        ram.load_words(at, &mut [0; 8]),
        ram.read(at, &mut [0; 100]),
        ram.read_runs(&[PhysRun { gpa: at, len: 64 }], &mut [0; 64], CopyHint::new(64, NextUse::Unknown)),
        ram.load_lines(&[at], &mut [[0; 8]]).map(drop),
        ram.next_extent(at).map(drop),
    ];
    for (n, result) in kinds.into_iter().enumerate() {
        assert_eq!(result.map_err(|error| error.kind), Err(kind), "way {n}");
    }
}

#[test]
fn a_process_that_ended_is_said_to_have_ended() {
    child(vmm);
    let mut vmm = Vmm::start("a_process_that_ended_is_said_to_have_ended");
    let piece = Piece { gpa: Gpa::new(0), len: RAM, host_addr: vmm.hear()[0] };
    let ram = vmm.ram(&[piece]);
    ram.check_alive().unwrap();
    ram.revalidate().unwrap();
    vmm.end();
    assert!(matches!(ram.check_alive(), Err(OpenError::Ended { .. })));
    assert!(matches!(ram.revalidate(), Err(OpenError::Ended { .. })));
    check_all_refuse(&ram, PhysErrorKind::Ended);
}

/// The next process gets this number, if nobody else is faster. Only root may say so.
fn next_number_is(pid: u32) -> bool {
    std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_ok()
}

#[test]
fn a_number_that_was_used_again_is_never_read_as_the_guest() {
    child(vmm);
    let name = "a_number_that_was_used_again_is_never_read_as_the_guest";
    let mut first = Vmm::start(name);
    let piece = Piece { gpa: Gpa::new(0), len: RAM, host_addr: first.hear()[0] };
    let ram = first.ram(&[piece]);
    let pid = first.pid();
    first.end();
    // Another process with the same number, which has readable memory at the same address more often than not.
    for _ in 0..100 {
        if !next_number_is(pid) {
            eprintln!("SKIPPED: only root can give a number again");
            return;
        }
        let mut other = Vmm::start(name);
        let addr = other.hear()[0];
        if other.pid() != pid {
            continue;
        }
        check_all_refuse(&ram, PhysErrorKind::Ended);
        assert!(matches!(ram.revalidate(), Err(OpenError::Ended { .. })));
        // It can be read by whoever asks for it now.
        let now = other.ram(&[Piece { host_addr: addr, ..piece }]);
        assert_eq!(now.load_u64(Gpa::new(0)), Ok(common::pattern(0)));
        return;
    }
    panic!("no process got the number {pid} again in 100 tries");
}

#[test]
fn memory_that_is_another_mapping_now_is_noticed() {
    let vmm_that_maps_anew = || {
        // A part of a larger reservation, so that nothing else is mapped there in between.
        let mut map = Some(memmap2::MmapMut::map_anon(RAM as usize).unwrap());
        map.as_mut().unwrap().fill(1);
        say(&[map.as_ref().unwrap().as_ptr().addr() as u64]);
        told_to_go_on();
        map = None;
        let exe = std::fs::File::open("/proc/self/exe").unwrap();
        // The kernel fills the hole that was just made, most often with what is mapped next.
        let other = memmap2::MmapOptions::new().len(RAM as usize).map_copy_read_only_of(&exe);
        say(&[other.as_ptr().addr() as u64]);
        while told_to_go_on() {}
        drop((map, other));
    };
    child(vmm_that_maps_anew);
    let mut vmm = Vmm::start("memory_that_is_another_mapping_now_is_noticed");
    let piece = Piece { gpa: Gpa::new(0), len: RAM, host_addr: vmm.hear()[0] };
    let ram = vmm.ram(&[piece]);
    ram.revalidate().unwrap();
    vmm.go_on();
    let there = vmm.hear()[0];
    match ram.revalidate() {
        Err(OpenError::Changed { was, now, .. }) => {
            assert!(was != now && now.contains("inode"), "was {was}, is {now}");
        }
        Err(OpenError::NotMapped { addr, .. }) => assert_ne!(there, piece.host_addr, "{addr:#x}"),
        other => panic!("{other:?}"),
    }
    check_all_but_extents_are_lost(&ram);
}

fn check_all_but_extents_are_lost(ram: &ProcessRam) {
    assert_eq!(ram.load_u64(Gpa::new(0)).map_err(|error| error.kind), Err(PhysErrorKind::Lost));
    assert_eq!(ram.read(Gpa::new(PAGE), &mut [0; 9]).map_err(|error| error.kind), Err(PhysErrorKind::Lost));
    ram.check_alive().unwrap();
}

/// Privately, so that no file can change under the test.
trait CopyReadOnly {
    fn map_copy_read_only_of(&self, file: &std::fs::File) -> memmap2::Mmap;
}

impl CopyReadOnly for memmap2::MmapOptions {
    fn map_copy_read_only_of(&self, file: &std::fs::File) -> memmap2::Mmap {
        // SAFETY: the program's own file is not written while it runs (ETXTBSY).
        unsafe { self.map_copy_read_only(file) }.unwrap()
    }
}

#[test]
fn memory_that_was_unmapped_is_lost_at_the_first_read_that_fails() {
    let vmm_that_unmaps = || {
        let mut map = memmap2::MmapMut::map_anon(RAM as usize).unwrap();
        map.fill(1);
        say(&[map.as_ptr().addr() as u64]);
        told_to_go_on();
        drop(map);
        say(&[0]);
        while told_to_go_on() {}
    };
    child(vmm_that_unmaps);
    let mut vmm = Vmm::start("memory_that_was_unmapped_is_lost_at_the_first_read_that_fails");
    let piece = Piece { gpa: Gpa::new(0), len: RAM, host_addr: vmm.hear()[0] };
    let ram = vmm.ram(&[piece]);
    assert_eq!(ram.load_u64(Gpa::new(0)), Ok(0x0101_0101_0101_0101));
    vmm.go_on();
    vmm.hear();
    check_all_but_extents_are_lost(&ram);
}

#[test]
fn a_process_that_became_another_program_is_refused() {
    let vmm_that_becomes_another = || {
        let memory = Private::new(RAM);
        memory.fill(0, RAM);
        say(&[memory.addr(), memory.word(0).load(Ordering::Relaxed)]);
        told_to_go_on();
        use std::os::unix::process::CommandExt as _;
        panic!("{}", std::process::Command::new("/bin/sh").args(["-c", "echo said 1; read x"]).exec());
    };
    child(vmm_that_becomes_another);
    let mut vmm = Vmm::start("a_process_that_became_another_program_is_refused");
    let piece = Piece { gpa: Gpa::new(0), len: RAM, host_addr: vmm.hear()[0] };
    let ram = vmm.ram(&[piece]);
    vmm.go_on();
    vmm.hear();
    assert!(ram.revalidate().is_err());
    assert!(ram.load_u64(Gpa::new(0)).is_err());
}

#[test]
fn a_pidfd_names_its_process() {
    child(vmm);
    let mut vmm = Vmm::start("a_pidfd_names_its_process");
    let piece = Piece { gpa: Gpa::new(0), len: RAM, host_addr: vmm.hear()[0] };
    let pid = rustix::process::Pid::from_raw(vmm.pid() as i32).unwrap();
    let pidfd = || rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let process = Process::from_pidfd(pidfd()).unwrap();
    assert_eq!(process.pid(), vmm.pid());
    ProcessRam::new(process, &[piece], ProcessOptions::new()).unwrap();
    let late = pidfd();
    vmm.end();
    assert!(matches!(Process::from_pidfd(late), Err(OpenError::Ended { .. })));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Process::from_pidfd(file.into()).is_err());
}
