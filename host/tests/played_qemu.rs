//! A QEMU that this test plays: a process that is started by its name, has a guest's RAM mapped, and answers on a
//! monitor. It does what Debian's QEMU cannot be told to: a backend that starts inside its file (`offset=`, from 8.1
//! on), with another guest's RAM in the same file.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception_host::Ram;
use vgpu_perception_host::attach::{GuestSource, GuestSpec, MonitorAddress, attach};
use vgpu_perception_testkit::{LinuxOptions, StandardLinux, candidates, standard_linux};

const SOCKET: &str = "VGPU_PLAYED_QEMU";
const RAM: u64 = 2 << 30;
/// Where in the file the asked guest's RAM starts: behind the other's.
const OFFSET: u64 = RAM;

/// The guest that is asked for, and the other one.
fn guest(seed: u64) -> StandardLinux {
    standard_linux(LinuxOptions { ram: RAM, seed, ..LinuxOptions::default() })
}

fn truth(guest: &StandardLinux) -> Vec<u64> {
    let mut places = vec![guest.region.gpa(0).unwrap().get(), guest.forged.gpa(0).unwrap().get()];
    places.sort_unstable();
    places
}

fn write(file: &File, guest: &StandardLinux, offset: u64) {
    for page in guest.guest.ram.present_pages() {
        file.write_all_at(&guest.guest.ram.bytes(page, 4096), offset + page.get()).unwrap();
    }
}

/// The process: RAM in `map`, a monitor at `socket`, until its input ends.
fn play(socket: &Path, map: &MmapMut) -> ! {
    let listener = UnixListener::bind(socket).unwrap();
    let address = map.as_ptr().addr();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|client| answer(client, address)));
    println!("listening");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

fn answer(mut client: UnixStream, address: usize) {
    let questions = BufReader::new(client.try_clone().unwrap());
    writeln!(client, r#"{{"QMP": {{"version": {{}}, "capabilities": []}}}}"#).unwrap();
    for question in questions.lines().map_while(Result::ok) {
        let question: Value = serde_json::from_str(&question).unwrap();
        let line = question["arguments"]["command-line"].as_str().unwrap_or_default();
        let result = match (question["execute"].as_str(), line.split_once(' ')) {
            (Some("qom-list"), _) => json!([{ "name": "ram", "type": "child<memory-backend-file>" }]),
            (_, Some(("gpa2hva", gpa))) => {
                let skip = usize::from_str_radix(gpa.trim_start_matches("0x"), 16).unwrap();
                json!(format!("Host virtual address for {gpa} (ram) is {:#x}\r\n", address + skip))
            }
            (_, Some(("info", "mtree -f"))) => json!(format!(
                "FlatView #0\r\n AS \"memory\", root: system\r\n  {:016x}-{:016x} (prio 0, ram): ram\r\n",
                0,
                RAM - 1
            )),
            (_, Some(("info", "registers"))) => json!("CR0=00000010 CR2=0 CR3=0 CR4=0"),
            _ => json!({}),
        };
        if writeln!(client, "{}", json!({ "return": result })).is_err() {
            return;
        }
    }
}

/// The process that plays QEMU for the test called `name`; ended when dropped.
struct Played {
    child: Child,
    socket: PathBuf,
}

impl Played {
    fn start(name: &str) -> Self {
        let socket = std::env::temp_dir().join(format!("vgpu-played-{name}-{}", std::process::id()));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg0("qemu-system-x86_64")
            .args([name, "--exact", "--nocapture"])
            .env(SOCKET, &socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("listening")), "it listens");
        Self { child, socket }
    }

    fn spec(&self) -> GuestSpec {
        GuestSpec::new(GuestSource::Monitor(MonitorAddress::Unix(self.socket.clone())))
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn places(ram: &Ram) -> Vec<u64> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut found: Vec<u64> =
        candidates(ram, RootElection::new(None, &mut scratch)).iter().map(|one| one.found.page.get()).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_backend_that_starts_inside_its_file_shows_its_own_guest() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let file = File::from(memfd_create("two guests", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(2 * RAM).unwrap();
        write(&file, &guest(2), 0);
        write(&file, &guest(1), OFFSET);
        // SAFETY: the file is this process's own, and nobody shrinks it.
        let map = unsafe { MmapOptions::new().offset(OFFSET).len(RAM as usize).map_mut(&file) }.unwrap();
        play(Path::new(&socket), &map);
    }
    assert_ne!(truth(&guest(1)), truth(&guest(2)), "the guests differ");
    let qemu = Played::start("a_backend_that_starts_inside_its_file_shows_its_own_guest");
    let mut attachment = attach(&qemu.spec()).unwrap();
    assert!(matches!(*attachment.ram, Ram::Mapped(_)), "a shared file is mapped");
    assert_eq!(places(&attachment.ram), truth(&guest(1)));
    attachment.refresh().unwrap();
    assert_eq!(attachment.ram.bytes(), RAM);
}

#[test]
fn private_copies_are_read_and_not_the_file() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let file = File::from(memfd_create("another guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(RAM).unwrap();
        write(&file, &guest(2), 0);
        // SAFETY: as above.
        let mut map = unsafe { MmapOptions::new().len(RAM as usize).map_copy(&file) }.unwrap();
        // What the guest writes stays in this process: the file goes on showing what it showed.
        for page in guest(2).guest.ram.present_pages() {
            let at = page.get() as usize;
            map[at..at + 4096].fill(0);
        }
        let ours = guest(1);
        for page in ours.guest.ram.present_pages() {
            let at = page.get() as usize;
            map[at..at + 4096].copy_from_slice(&ours.guest.ram.bytes(page, 4096));
        }
        play(Path::new(&socket), &map);
    }
    let qemu = Played::start("private_copies_are_read_and_not_the_file");
    let attachment = attach(&qemu.spec()).unwrap();
    assert!(matches!(*attachment.ram, Ram::Process(_)), "private memory is read through the process");
    assert_eq!(places(&attachment.ram), truth(&guest(1)));
}

/// A monitor that is answered by another virtual machine than before is none of the guest's any more.
#[test]
fn a_monitor_that_changed_hands_is_refused() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let file = File::from(memfd_create("a guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(RAM).unwrap();
        write(&file, &guest(1), 0);
        // SAFETY: as above.
        let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
        play(Path::new(&socket), &map);
    }
    let name = "a_monitor_that_changed_hands_is_refused";
    let first = Played::start(name);
    let mut attachment = attach(&first.spec()).unwrap();
    attachment.refresh().unwrap();
    std::fs::remove_file(&first.socket).unwrap();
    let second = Played::start(name);
    assert_eq!(first.socket, second.socket);
    let error = attachment.refresh().unwrap_err().to_string();
    assert!(error.contains(&second.child.id().to_string()) && error.contains("attach anew"), "{error}");
    drop(first);
    let error = attachment.refresh().unwrap_err().to_string();
    assert!(error.contains("has ended"), "{error}");
}
