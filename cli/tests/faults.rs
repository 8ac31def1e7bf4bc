//! What goes wrong around the commands that run for long: signals, a producer that dies, ports that are taken, places
//! that are full. Each is a clear line, and nothing is left behind.

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Instant;

fn vgpu() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vgpu"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A demo that runs, and what it says.
struct Demo {
    child: Child,
    says: BufReader<ChildStderr>,
    picture: PathBuf,
}

impl Demo {
    fn start(name: &str, more: &[&str]) -> Self {
        let seconds = if more.is_empty() { "600" } else { "1" };
        let picture = std::env::temp_dir().join(format!("vgpu-faults-{name}-{}.png", std::process::id()));
        let mut command = vgpu();
        command.args(["demo", "--seconds", seconds, "-o"]).arg(&picture).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stderr.take().unwrap());
        Self { child, says, picture }
    }

    /// Reads on until a line that has `text` in it.
    fn until(&mut self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let before = all.len();
            assert_ne!(self.says.read_line(&mut all).unwrap(), 0, "it ended before it said \"{text}\": {all}");
            if all[before..].contains(text) {
                return all[before..].to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        kill(name, self.child.id());
    }

    /// The producers that it started.
    fn producers(&self) -> Vec<u32> {
        let me = self.child.id().to_string();
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|one| one.ok()?.file_name().to_str()?.parse().ok());
        let is_ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&b"demo-producer".as_slice()) && words.contains(&me.as_bytes())
        };
        numbers.filter(is_ours).collect()
    }

    /// Waits for its end; gives its exit code and the rest of what it said. Nothing of it may be left.
    fn end(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.says.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        for folder in [Path::new("/dev/shm").to_owned(), std::env::temp_dir()] {
            let ours = format!("vgpu-demo-{}-", self.child.id());
            let left: Vec<_> = fs::read_dir(folder)
                .map(|all| all.flatten().filter(|one| one.file_name().to_string_lossy().starts_with(&ours)).collect())
                .unwrap_or_default();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.producers().is_empty() {
            assert!(Instant::now() < deadline, "a producer is left behind");
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = fs::remove_file(&self.picture);
        (code, rest)
    }
}

impl Drop for Demo {
    /// A test that fails leaves none behind either: a demo that is told to end ends its producers.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal("-TERM");
            let _ = self.child.wait();
        }
    }
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_demo_that_is_told_to_end_leaves_nothing_behind() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let mut demo = Demo::start(signal, &[]);
        // In the middle of its work, with a guest and a producer.
        demo.until("Taking frames");
        assert_eq!(demo.producers().len(), 1);
        demo.signal(signal);
        let (code, rest) = demo.end();
        assert_eq!(code, 1, "{rest}");
        assert!(rest.contains("ended by signal") && rest.contains("nothing is left behind"), "{rest}");
    }
}

#[test]
fn a_demo_that_is_killed_takes_its_producer_with_it() {
    let mut demo = Demo::start("kill", &[]);
    demo.until("Taking frames");
    let folder = format!("/dev/shm/vgpu-demo-{}-linux", demo.child.id());
    demo.signal("-KILL");
    let _ = demo.child.wait();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !demo.producers().is_empty() {
        assert!(Instant::now() < deadline, "the producer goes on without its demo");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Nobody can tidy up after SIGKILL but who sent it.
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn a_demo_notices_that_its_producer_died() {
    let mut demo = Demo::start("died", &[]);
    demo.until("Taking frames");
    kill("-KILL", demo.producers()[0]);
    let (code, rest) = demo.end();
    assert_eq!(code, 3, "{rest}");
    assert!(rest.contains("the demo's producer has ended by itself"), "{rest}");
}

#[test]
fn a_wall_of_the_demo_goes_on_without_a_producer_that_died() {
    let mut demo = Demo::start("wall", &["--serve"]);
    demo.until("Open this page");
    // The page is there before all producers are.
    let mut producers = demo.producers();
    while producers.len() < 2 {
        assert!(demo.child.try_wait().unwrap().is_none(), "the demo starts a producer for each guest");
        std::thread::sleep(Duration::from_millis(20));
        producers = demo.producers();
    }
    kill("-KILL", producers[0]);
    let line = demo.until("has ended by itself");
    assert!(line.contains("the demo's producer"), "{line}");
    std::thread::sleep(Duration::from_millis(500));
    assert!(demo.child.try_wait().unwrap().is_none(), "the other guest is shown on");
    demo.signal("-TERM");
    let (code, rest) = demo.end();
    assert_eq!(code, 0, "{rest}");
    assert!(!rest.contains("has ended by itself"), "it is said once: {rest}");
}

#[test]
fn places_that_are_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let output = vgpu().args(["serve", "--listen", &at]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = said(&output);
    assert!(
        text.contains(&format!("cannot listen at {at}")) && text.contains("127.0.0.1:0 takes a free port"),
        "{text}"
    );
    assert!(output.stdout.is_empty(), "no URL is promised");

    let path = std::env::temp_dir().join(format!("vgpu-faults-{}.sock", std::process::id()));
    let held = UnixListener::bind(&path).unwrap();
    let output = vgpu().args(["serve", "--listen", &format!("unix:{}", path.display())]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("in use"), "{}", said(&output));
    assert!(path.exists(), "somebody else's socket stays");
    drop(held);
    fs::remove_file(path).unwrap();
}

#[test]
fn places_that_cannot_be_reached_or_written() {
    let output = vgpu().args(["serve", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--allow-remote"), "{}", said(&output));
    let output = vgpu().args(["demo", "--seconds", "1", "-o", "/nowhere/at/all/frame.png"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("/nowhere/at/all"), "{}", said(&output));
}
