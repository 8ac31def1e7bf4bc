//! The server in a process of its own, so that its memory and its time are nobody else's.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use vgpu_perception::Gpa;
use vgpu_perception_mapped::Segment;
use vgpu_perception_serve::Limits;

use crate::common::{Machine, Running, source};

/// Says to this program, started again, that it is the server.
const ROLE: &str = "VGPU_LOAD_SERVER";
/// What the line with its address begins with.
const AT: &str = "the server is at ";

/// A server of some guests, `g0` to the last.
pub(crate) struct Apart {
    process: Child,
    /// Read no further, and open as long as it writes.
    _output: BufReader<ChildStdout>,
    pub(crate) server: Running,
}

impl Apart {
    pub(crate) fn start(machines: &[Machine]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_server_by_itself", "--ignored", "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.as_mut().unwrap();
        for machine in machines {
            write!(input, "{}", machine.ram().display()).unwrap();
            for at in machine.segments() {
                write!(input, " {} {} {}", at.gpa.get(), at.len, at.offset).unwrap();
            }
            writeln!(input).unwrap();
        }
        writeln!(input).unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let line =
            output.by_ref().lines().map(Result::unwrap).find(|line| line.contains(AT)).expect("the server ended");
        let address = line.rsplit(' ').next().unwrap().parse().unwrap();
        Self { process, _output: output, server: Running::elsewhere(address) }
    }

    /// Its memory in KiB: its own, and what it has mapped of the guests'.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let value = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (value("RssAnon:"), value("RssFile:") + value("RssShmem:"))
    }

    /// Seconds of processor that it took.
    pub(crate) fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Linux counts in hundredths for programs, whatever its clock.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Serves what is told by standard input, until that ends. Does nothing where nobody started it for that.
pub(crate) fn serve() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut sources = Vec::new();
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let (ram, numbers) = line.split_once(' ').unwrap();
        let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        let (segments, _) = numbers.as_chunks::<3>();
        let segment = |&[gpa, len, offset]: &[u64; 3]| Segment { gpa: Gpa::new(gpa), len, offset, file: 0 };
        let name = format!("g{}", sources.len());
        sources.push(source(&name, ram.into(), segments.iter().map(segment).collect()));
    }
    let server = Running::start(sources, Limits::default());
    println!("{AT}{}", server.tcp());
    assert_eq!(lines.next(), None);
}
