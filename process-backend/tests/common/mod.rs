//! A VMM of the tests' own: a child process that holds a guest in private memory, and does to it what it is told.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use core::sync::atomic::{AtomicU64, Ordering};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use memmap2::{Advice, MmapMut};
use vgpu_perception::{Gpa, PhysRead as _};
use vgpu_perception_process::{Piece, ProcessOptions, ProcessRam};
use vgpu_perception_producer::RegionWrite;
use vgpu_perception_testkit::Ram;
use zerocopy::FromBytes as _;

pub const PAGE: u64 = 4096;
const CHILD: &str = "VGPU_PROCESS_TEST_CHILD";

/// Runs `vmm` and ends, where this is the child that [`Vmm::start`] started; to be called first in every test.
pub fn child(vmm: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        vmm();
        std::process::exit(0);
    }
}

/// A child process that runs the test `name` of this binary again.
pub struct Vmm {
    child: Child,
    out: BufReader<ChildStdout>,
    input: Option<ChildStdin>,
}

impl Vmm {
    pub fn start(name: &str) -> Self {
        // Without random addresses: what one such process has at an address, the next one has there too.
        let mut child = Command::new("setarch")
            .arg("-R")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let input = child.stdin.take();
        Self { child, out, input }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The numbers of the next line that the child prints with [`say`].
    pub fn hear(&mut self) -> Vec<u64> {
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "the child said nothing more");
            if let Some(numbers) = line.trim_end().split_once("said ") {
                return numbers.1.split(' ').map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    /// Tells the child to go on.
    pub fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go on\n").unwrap();
    }

    /// Ends the child and waits until its number is free.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub fn ram(&self, pieces: &[Piece]) -> ProcessRam {
        ProcessRam::open(self.pid(), pieces, ProcessOptions::new()).unwrap()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.end();
    }
}

/// In the child: tells numbers.
pub fn say(numbers: &[u64]) {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    println!("said {}", numbers.join(" "));
    std::io::stdout().flush().unwrap();
}

/// In the child: waits for [`Vmm::go_on`]; false once the test is gone.
pub fn told_to_go_on() -> bool {
    std::io::stdin().lock().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0)
}

/// Memory as a VMM has it: private, anonymous, zero where nobody has written.
pub struct Private {
    words: &'static [AtomicU64],
}

impl Private {
    pub fn new(len: u64) -> Self {
        let map = MmapMut::map_anon(usize::try_from(len).unwrap()).unwrap();
        // Small pages: what is present is then what was written.
        map.advise(Advice::NoHugePage).unwrap();
        let bytes: &'static mut MmapMut = Box::leak(Box::new(map));
        Self { words: <[AtomicU64]>::mut_from_bytes(bytes).unwrap() }
    }

    pub fn addr(&self) -> u64 {
        self.words.as_ptr().addr() as u64
    }

    pub fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    pub fn word(&self, at: u64) -> &'static AtomicU64 {
        &self.words[usize::try_from(at / 8).unwrap()]
    }

    /// Writes `pattern` of every address to the pages of `start .. start + len`.
    pub fn fill(&self, start: u64, len: u64) {
        for at in (start..start + len).step_by(8) {
            self.word(at).store(pattern(at), Ordering::Relaxed);
        }
    }

    /// A guest of the test kit that lies in this memory: its RAM from 0 on.
    pub fn load(&self, ram: &Ram) {
        for page in ram.present_pages().filter(|page| page.get() < self.len()) {
            for at in (0..PAGE).step_by(8) {
                let word = ram.load_u64(page.wrapping_add(at)).unwrap();
                self.word(page.get() + at).store(word, Ordering::Relaxed);
            }
        }
    }

    pub fn piece(&self) -> Piece {
        Piece { gpa: Gpa::new(0), len: self.len(), host_addr: self.addr() }
    }
}

/// A word that tells addresses apart.
pub fn pattern(at: u64) -> u64 {
    (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The bytes of [`pattern`] at `at`.
pub fn pattern_bytes(at: u64, len: usize) -> Vec<u8> {
    let first = at & !7;
    let words = (first..at + len as u64).step_by(8).flat_map(|at| pattern(at).to_le_bytes());
    words.skip(usize::try_from(at - first).unwrap()).take(len).collect()
}

/// A region of a guest in [`Private`] memory, as its producer writes it.
pub struct InPrivate<'r> {
    pub memory: &'r Private,
    pub region: &'r vgpu_perception_testkit::Region,
}

impl InPrivate<'_> {
    fn word(&self, offset: u64) -> &'static AtomicU64 {
        self.memory.word(self.region.gpa(offset).expect("the page is mapped").get())
    }
}

impl RegionWrite for InPrivate<'_> {
    fn store_u32(&self, offset: u64, value: u32) {
        let shift = offset % 8 * 8;
        let mask = u64::from(u32::MAX) << shift;
        // The only writer; a store of four bytes that is one of eight.
        let word = self.word(offset & !7);
        let old = word.load(Ordering::Relaxed);
        word.store(old & !mask | u64::from(value) << shift, Ordering::Relaxed);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }
}

/// What the kernel says of a process's memory: KiB that are present of the mapping at `addr`, and of all page tables.
pub fn memory_of(pid: u32, addr: u64) -> (u64, u64) {
    let number = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let holds = |line: &str| {
        vgpu_perception_process::parse_area(line).is_some_and(|area| (area.start..area.end).contains(&addr))
    };
    let at = maps.lines().position(holds).unwrap();
    let area: Vec<&str> = maps.lines().skip(at).collect();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    (number(&area.join("\n"), "Rss:"), number(&status, "VmPTE:"))
}
