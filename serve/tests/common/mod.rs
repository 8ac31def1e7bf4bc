//! A guest in a RAM file with a producer that lives, and a client that speaks HTTP by hand.
#![allow(dead_code, reason = "each test uses what it needs")]

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use vgpu_perception_host::{Guest, Ram};
use vgpu_perception_mapped::{GuestRam, RamFile, RamOptions, Segment, SegmentMap, SigbusGuard};
use vgpu_perception_producer::mapped::{MappedRegion, Piece};
use vgpu_perception_producer::{FrameMeta, Producer, pattern};
use vgpu_perception_serve::{Access, Address, Discover, Limits, Listener, Server, Source, Token};
use vgpu_perception_testkit::{FileSegment, LinuxOptions, Placement, Ring, standard_linux};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A guest whose producer runs in a thread.
pub(crate) struct Machine {
    folder: PathBuf,
    segments: Vec<FileSegment>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// About `fps` frames a second until frame `last`; then only its heart beats.
    pub(crate) fn start(width: u32, height: u32, fps: u32, last: u64) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let shared = PathBuf::from("/dev/shm");
        let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let folder = parent.join(format!("vgpu-serve-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let linux = standard_linux(LinuxOptions {
            processes: 5,
            ring: Ring::All,
            // A process may have 65530 mappings, and the load test has 64 guests in one.
            placement: Placement::Large2M,
            seed: u64::from(number),
            ..LinuxOptions::default()
        });
        let ram = linux.guest.ram;
        // The producer starts in fresh memory: its page and that of the control words are in the first 2 MiB.
        let first = linux.region.pages[0].gpa;
        for word in 0..1024 {
            ram.write_u64(first.wrapping_add(word * 8), 0);
        }
        let path = folder.join("ram");
        let segments = ram.to_file(&path).unwrap();
        let pieces: Vec<Piece> = linux
            .region
            .pages
            .iter()
            .map(|page| {
                let inside = |segment: &&FileSegment| page.gpa.get().wrapping_sub(segment.gpa.get()) < segment.len;
                let segment = segments.iter().find(inside).unwrap();
                Piece { offset: page.gpa.get() - segment.gpa.get() + segment.offset, len: page.size.bytes() }
            })
            .collect();
        let end = Arc::new(AtomicBool::new(false));
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let thread = std::thread::spawn({
            let end = Arc::clone(&end);
            move || produce(&file, &pieces, (width, height), fps, last, &end)
        });
        Self { folder, segments, end, thread: Some(thread) }
    }

    pub(crate) fn source(&self, name: &str) -> Source {
        source(name, self.ram(), self.segments())
    }

    /// Its RAM file.
    pub(crate) fn ram(&self) -> PathBuf {
        self.folder.join("ram")
    }

    /// Where that lies in the guest.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let segment = |at: &FileSegment| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 };
        self.segments.iter().map(segment).collect()
    }

    /// The producer ends; its memory stays.
    pub(crate) fn stop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A guest that is attached to by its RAM file, with the guard that attaching by a name switches on.
pub(crate) fn source(name: &str, ram: PathBuf, segments: Vec<Segment>) -> Source {
    let attach = move || {
        let map = SegmentMap::new(segments.iter().copied()).unwrap();
        let guard = SigbusGuard::install().map_err(|error| error.to_string())?;
        let open = RamFile::open(&ram).and_then(|file| GuestRam::new(vec![file], map, RamOptions::new().guard(guard)));
        let ram = Ram::Mapped(open.map_err(|error| error.to_string())?);
        let end = ram.end();
        Ok(Guest::over(ram, end))
    };
    Source { name: name.into(), key: name.into(), attach: Box::new(attach) }
}

fn produce(file: &File, pieces: &[Piece], (width, height): (u32, u32), fps: u32, last: u64, end: &AtomicBool) {
    let mut producer = Producer::new(MappedRegion::stitched(file, pieces).unwrap());
    producer.set_geometry(&pattern::geometry(1, width, height));
    let meta = FrameMeta { width, height, timestamp_ns: 1 };
    let mut row = vec![0; width as usize * 4];
    // Its heart beats ten times a second at least.
    let beats = fps.clamp(10, 60);
    for beat in 0_u32.. {
        if end.load(Ordering::Relaxed) {
            break;
        }
        let id = producer.frame_id() + 1;
        if id <= last && beat.is_multiple_of(beats / fps.clamp(1, 60)) {
            let fill = |y: u32, row: &mut [u8]| pattern::fill_row(id, width, height, y, row);
            producer.publish_rows(&meta, &mut row, fill).unwrap();
        }
        producer.beat();
        std::thread::sleep(Duration::from_secs(1) / beats);
    }
}

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A server in a thread with a runtime of its own, or in another process.
pub(crate) struct Running {
    pub(crate) address: Address,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(sources: Vec<Source>, limits: Limits) -> Self {
        Self::at("127.0.0.1:0", sources, limits)
    }

    pub(crate) fn at(address: &str, sources: Vec<Source>, limits: Limits) -> Self {
        Self::with(address, sources, None, limits)
    }

    /// One that asks for its guests, as for those of a host.
    pub(crate) fn discovering(discover: Discover) -> Self {
        Self::with("127.0.0.1:0", Vec::new(), Some(discover), Limits::default())
    }

    fn with(address: &str, sources: Vec<Source>, discover: Option<Discover>, limits: Limits) -> Self {
        let (end, ended) = tokio::sync::oneshot::channel();
        let (told, tell) = std::sync::mpsc::channel();
        let address: Address = address.parse().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = Listener::bind(&address).await.unwrap();
                told.send(listener.address().clone()).unwrap();
                let token = Token::new(TOKEN).unwrap();
                let access = match listener.address() {
                    Address::Tcp(at) => Access::loopback(token, at.port()),
                    Address::Unix(_) => Access::unix(None),
                };
                let server = Server::new(sources, discover, access, limits).unwrap();
                server.run(listener, async { drop(ended.await) }).await;
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self { address: tell.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }

    /// One that others started, and end.
    pub(crate) fn elsewhere(at: SocketAddr) -> Self {
        Self { address: Address::Tcp(at), end: None, thread: None }
    }

    pub(crate) fn tcp(&self) -> SocketAddr {
        match self.address {
            Address::Tcp(at) => at,
            Address::Unix(_) => panic!("a Unix socket"),
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends a request with the token and more headers; reads the answer to its end.
    pub(crate) fn get(&self, path: &str, more: &str) -> Answer {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n{more}");
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{bearer}\r\n", self.tcp()))
    }

    /// Sends what it is given.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    /// Asks again until the guest shows a frame: it is searched first.
    pub(crate) fn frame(&self, path: &str) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.get(path, "");
            if answer.status == 200 {
                return answer;
            }
            assert!(Instant::now() < deadline, "{} {}", answer.status, answer.text());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// An answer, in its parts.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes[end..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A PNG as the guest's pixels.
pub(crate) fn bgra(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    let pixels = rgb.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0], 0xff]).collect();
    (info.width, info.height, pixels)
}

/// Panics where the answer is no whole frame of the pattern; gives its number.
pub(crate) fn whole(answer: &Answer) -> u64 {
    let id: u64 = answer.header("x-frame-id").unwrap().parse().unwrap();
    let (width, height, pixels) = bgra(&answer.body);
    pattern::check(id, width, height, &pixels).unwrap();
    id
}
