//! Streams and numbered stills whose producer ends and comes back, and that are told to end: what was written is whole
//! frames, each checked pixel by pixel.

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use vgpu_perception_producer::pattern;

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;
const FRAME: usize = WIDTH as usize * HEIGHT as usize * 4;

/// Long enough to find a guest and a frame of it on a machine with more to do.
const PATIENT: &[&str] = &["--wait-ms", "5000", "--timeout", "10"];

fn vgpu() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vgpu"))
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// The demo's guest in its RAM file, and a producer whose life the test has in its hands.
struct Guest {
    demo: Child,
    _says: BufReader<ChildStderr>,
    folder: PathBuf,
    /// What to type for it.
    words: Vec<String>,
    producer: Child,
}

impl Guest {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("vgpu-streams-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut command = vgpu();
        command.args(["demo", "--seconds", "1", "--serve", "-o"]).arg(folder.join("demo.png"));
        let mut demo = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut says = BufReader::new(demo.stderr.take().unwrap());
        let words = loop {
            let mut line = String::new();
            assert_ne!(says.read_line(&mut line).unwrap(), 0, "the demo ended");
            if let Some((system, rest)) = line.split_once("vgpu stream ")
                && system.contains("on linux")
            {
                break rest.split(" | ").next().unwrap().split(' ').map(str::to_owned).collect::<Vec<_>>();
            }
        };
        let ram = Path::new(&words[0]);
        let theirs = Self::producer_of(ram);
        kill("-KILL", theirs);
        let producer = Self::produce(ram);
        let guest = Self { demo, _says: says, folder, words, producer };
        // A machine with more to do starts a producer later than a command that is to find it.
        let (code, _, said) = end(guest.run("find", &["--wait-for", "60"]));
        assert_eq!(code, 0, "the new producer does not beat: {said}");
        guest
    }

    /// The number of the producer that the demo started.
    fn producer_of(ram: &Path) -> u32 {
        let all = fs::read_dir("/proc").unwrap();
        let mut numbers = all.filter_map(|one| one.ok()?.file_name().to_str()?.parse().ok());
        let is_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&b"demo-producer".as_slice()) && words.contains(&ram.as_os_str().as_encoded_bytes())
        };
        numbers.find(is_it).expect("the demo has no producer")
    }

    fn produce(ram: &Path) -> Child {
        let mut command = vgpu();
        command.arg("demo-producer").arg(ram).arg(ram.with_file_name("pieces")).arg(std::process::id().to_string());
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    fn end_producer(&mut self) {
        self.producer.kill().unwrap();
        self.producer.wait().unwrap();
    }

    fn restart_producer(&mut self) {
        self.producer = Self::produce(Path::new(&self.words[0]));
    }

    fn run(&self, command: &str, more: &[&str]) -> Child {
        let mut words = vgpu();
        words.arg(command).args(&self.words).args(more);
        words.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.producer.kill();
        let _ = self.producer.wait();
        kill("-TERM", self.demo.id());
        let _ = self.demo.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The number of the frame that these pixels are, each of them.
fn number(pixels: &[u8]) -> Option<u64> {
    let mut row = vec![0; WIDTH as usize * 4];
    (1..50_000).find(|id| {
        pattern::fill_row(*id, WIDTH, HEIGHT, 0, &mut row);
        pixels[..row.len()] == row && pattern::check(*id, WIDTH, HEIGHT, pixels).is_ok()
    })
}

/// Where pixels are not those of frame `id`; `None` where that is nearly everywhere.
fn differing(id: u64, pixels: &[u8]) -> Option<Vec<(usize, usize)>> {
    let mut row = vec![0; WIDTH as usize * 4];
    let mut off = Vec::new();
    for (y, got) in (0..HEIGHT).zip(pixels.chunks_exact(row.len())) {
        pattern::fill_row(id, WIDTH, HEIGHT, y, &mut row);
        let pairs = got.chunks_exact(4).zip(row.chunks_exact(4)).enumerate();
        off.extend(pairs.filter(|(_, (got, want))| got != want).map(|(x, _)| (x, y as usize)));
        if off.len() > 4000 {
            return None;
        }
    }
    Some(off)
}

/// How it ended, and what it said.
fn end(child: Child) -> (i32, Vec<u8>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_stream_goes_on_where_its_producer_begins_anew() {
    let mut guest = Guest::start("restart");
    let more = ["--format", "raw", "--frames", "30", "--fps", "10", "--only-changed", "--timeout", "60"];
    let mut stream = guest.run("stream", &more);
    let mut out = stream.stdout.take().unwrap();
    let mut pixels = vec![0; FRAME];
    let mut next = || {
        out.read_exact(&mut pixels).unwrap();
        number(&pixels).expect("a frame is torn")
    };
    let first: Vec<u64> = (0..10).map(|_| next()).collect();
    assert!(first.windows(2).all(|two| two[0] < two[1]), "{first:?}");
    guest.end_producer();
    // Long enough for the heart to be missed: the stream says so, and waits.
    std::thread::sleep(Duration::from_secs(2));
    guest.restart_producer();
    let rest: Vec<u64> = (10..30).map(|_| next()).collect();
    let begun = rest.windows(2).filter(|two| two[0] >= two[1]).count();
    assert!(begun <= 1 && rest[19] < first[9] + 20 * 60, "numbers begin anew once: {first:?} {rest:?}");
    let (code, _, said) = end(stream);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("30 frames written"), "{said}");
}

#[test]
fn a_signal_ends_a_stream_after_a_whole_frame() {
    let guest = Guest::start("signal");
    for signal in ["-INT", "-TERM"] {
        let file = guest.folder.join(format!("out{signal}.raw"));
        let stream = guest.run("stream", &["-o", file.to_str().unwrap()]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::metadata(&file).map_or(0, |file| file.len()) < 3 * FRAME as u64 {
            assert!(Instant::now() < deadline, "no frames");
            std::thread::sleep(Duration::from_millis(20));
        }
        kill(signal, stream.id());
        let (code, _, said) = end(stream);
        assert_eq!(code, 0, "{said}");
        let bytes = fs::read(&file).unwrap();
        assert_eq!(bytes.len() % FRAME, 0, "half a frame is written");
        let last = &bytes[bytes.len() - FRAME..];
        assert!(number(last).is_some(), "the last frame is torn");
    }
}

#[test]
fn a_pointer_is_drawn_into_a_stream_and_nothing_else() {
    let guest = Guest::start("pointer");
    // It moves all the time, and may be off the screen or hidden in one of them.
    let stream = guest.run("stream", &["--format", "raw", "--frames", "12", "--fps", "7", "--cursor"]);
    let (code, frames, said) = end(stream);
    assert_eq!((code, frames.len()), (0, 12 * FRAME), "{said}");
    let mut drawn = 0;
    for pixels in frames.chunks_exact(FRAME) {
        // The frame that differs least: the pointer is small.
        let off = (1..10_000).filter_map(|id| differing(id, pixels)).min_by_key(Vec::len);
        let off = off.expect("it is no frame of the guest");
        let span = |values: Vec<usize>| values.iter().max().zip(values.iter().min()).map(|(max, min)| max - min);
        let size = (span(off.iter().map(|at| at.0).collect()), span(off.iter().map(|at| at.1).collect()));
        if let (Some(width), Some(height)) = size {
            assert!(width < 64 && height < 64, "{width} x {height} pixels of another picture");
            drawn += 1;
        }
    }
    assert!(drawn > 0, "no pointer is drawn in any of them");
}

/// Takes stills until `over` happens to the guest; what was taken has to be whole pictures. Gives what was said.
fn stills(name: &str, over: impl FnOnce(&mut Guest)) -> String {
    let mut guest = Guest::start(name);
    let name = guest.folder.join("shot.ppm");
    let mut sample = guest.run("sample", &[PATIENT, &["--each", "100000", "-o", name.to_str().unwrap()]].concat());
    let shots = |folder: &Path| -> Vec<PathBuf> {
        let all = fs::read_dir(folder).unwrap().map(|one| one.unwrap().path());
        all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("shot")).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while shots(&guest.folder).len() < 3 {
        if Instant::now() > deadline || sample.try_wait().unwrap().is_some() {
            let _ = sample.kill();
            panic!("no stills: {:?}", end(sample));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    over(&mut guest);
    let (code, _, said) = end(sample);
    assert_eq!(code, 1, "{said}");
    let shots = shots(&guest.folder);
    assert!(shots.len() >= 3, "{shots:?}");
    for path in shots {
        let bytes = fs::read(&path).unwrap();
        let head = format!("P6\n{WIDTH} {HEIGHT}\n255\n");
        assert!(bytes.starts_with(head.as_bytes()), "{} is no picture", path.display());
        let bgra = |rgb: &[u8]| [rgb[2], rgb[1], rgb[0], 0xff];
        let pixels: Vec<u8> = bytes[head.len()..].chunks_exact(3).flat_map(bgra).collect();
        assert!(number(&pixels).is_some(), "{} is torn", path.display());
    }
    said
}

#[test]
fn stills_that_were_taken_stay_where_the_producer_ends() {
    let said = stills("ends", Guest::end_producer);
    assert!(said.contains("no frame within 10 s"), "{said}");
}

#[test]
fn stills_that_were_taken_stay_where_the_guests_ram_shrinks() {
    let said = stills("shrinks", |guest| {
        fs::OpenOptions::new().write(true).open(&guest.words[0]).unwrap().set_len(4096).unwrap();
    });
    assert!(said.contains("its file shrank"), "{said}");
}
