//! A whole attach through a process leaves its memory as it was: no page more is present after it, and no page table.
//! A VMM's memory that its guest never touched stays free for others.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use memmap2::{Advice, MmapMut};
use vgpu_perception_host::attach::{examine, running};
use vgpu_perception_host::{Guest, Ram, Sample};
use vgpu_perception_testkit::{LinuxOptions, StandardLinux, standard_linux};

const CHILD: &str = "VGPU_TEST_UNTOUCHED";
const RAM: u64 = 2 << 30;
const PAGE: u64 = 4096;

fn guest() -> StandardLinux {
    standard_linux(LinuxOptions { ram: RAM, ..LinuxOptions::default() })
}

/// Plays a QEMU that holds the guest in private memory, until its input ends.
fn play() -> ! {
    let mut memory = MmapMut::map_anon(RAM as usize).unwrap();
    // Small pages, so that what is present is what was written; and a mapping of its own.
    memory.advise(Advice::NoHugePage).unwrap();
    memory.advise(Advice::DontDump).unwrap();
    let ram = guest().guest.ram;
    for page in ram.present_pages() {
        let at = page.get() as usize;
        memory[at..at + PAGE as usize].copy_from_slice(&ram.bytes(page, PAGE as usize));
    }
    println!("memory at {:#x}", memory.as_ptr().addr());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

struct Played {
    child: Child,
    name: String,
    memory: u64,
}

impl Played {
    fn start(test: &str) -> Self {
        let name = format!("vgpu-untouched-{}", std::process::id());
        // The test harness takes any value of `--skip`, and makes a filter of a word without an option.
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg0("qemu-system-x86_64")
            .args([test, "--exact", "--nocapture", "--skip", "-name", &name, "--skip", "-m", "2G"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let memory = lines.find_map(|line| u64::from_str_radix(line.split_once("memory at 0x")?.1, 16).ok());
        Self { child, name, memory: memory.expect("it has its memory") }
    }

    /// Pages of its memory that are present, the shared zero page counted too, and KiB of page tables of the process.
    fn present(&self) -> (u64, u64) {
        let map = File::open(format!("/proc/{}/pagemap", self.child.id())).unwrap();
        let mut entries = vec![0; usize::try_from(RAM / PAGE * 8).unwrap()];
        map.read_exact_at(&mut entries, self.memory / PAGE * 8).unwrap();
        let present = |entry: &[u8]| u64::from_le_bytes(entry.try_into().unwrap()) >> 63;
        let pages = entries.chunks_exact(8).map(present).sum();
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:")).unwrap();
        (pages, line.trim().trim_end_matches(" kB").parse().unwrap())
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_whole_attach_makes_no_page_present() {
    if std::env::var_os(CHILD).is_some() {
        play();
    }
    let played = Played::start("a_whole_attach_makes_no_page_present");
    let linux = guest();
    let before = played.present();
    assert_eq!(before.0, linux.guest.ram.present_pages().count() as u64, "what the guest wrote, and no more");
    assert!(running().iter().any(|one| one.name.as_ref() == Some(&played.name)), "it is listed");
    assert_eq!(played.present(), before, "after a list");
    for way in [format!("pid:{}", played.child.id()), format!("name:{}", played.name)] {
        let host = Guest::attach(&way).unwrap();
        assert!(matches!(*host.memory(), Ram::Process(_)), "{way}: private memory is read through the process");
        assert_eq!(played.present(), before, "{way}: after attaching");
        let mut survey = host.survey().unwrap();
        assert_eq!(survey.candidates().len(), 2, "{way}: the region and the forged one");
        assert_eq!(played.present(), before, "{way}: after a survey");
        std::thread::sleep(survey.wait());
        assert!(survey.confirm().unwrap().is_empty(), "{way}: nobody beats");
        let mut picture = vec![0; linux.region.image.pixels(1).len()];
        for sighting in survey.candidates() {
            let mut live = survey.open(sighting);
            assert!(matches!(live.frame(&mut picture), Ok(Sample::Fresh(_))), "{way}: {sighting:?}");
            assert!(live.cursor().is_ok() && live.geometry().is_ok() && live.status().is_ok(), "{way}");
        }
        assert_eq!(played.present(), before, "{way}: after frames");
        let (findings, attachment) = examine(&way.parse().unwrap());
        assert!(attachment.is_some(), "{way}: {findings:?}");
        assert_eq!(played.present(), before, "{way}: after a doctor");
    }
    // The count tells: a read of what was never touched makes its page present.
    let pages: BTreeSet<u64> = linux.guest.ram.present_pages().map(|page| page.get()).collect();
    let hole = (0..RAM).step_by(PAGE as usize).find(|at| !pages.contains(at));
    let memory = File::open(format!("/proc/{}/mem", played.child.id())).unwrap();
    memory.read_exact_at(&mut [0; 8], played.memory + hole.unwrap()).unwrap();
    assert_eq!(played.present().0, before.0 + 1, "another reader made a page present");
}
