//! What the program `vgpu-producer` does, for those who want to run it in a process of their own.

use core::fmt::Write as _;
use core::time::Duration;
use std::fs::{OpenOptions, read_to_string};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::string::String;
use std::time::Instant;
use std::vec::Vec;

use rustix::time::{ClockId, clock_gettime};
use vgpu_perception::abi::{Backend, State};

use crate::chaos::Chaos;
use crate::mapped::{MappedRegion, Piece};
use crate::pattern;
use crate::producer::{Lifecycle, Producer, Start};
use crate::slot::FrameMeta;

/// Where the region is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// In shared memory of this process.
    #[default]
    Memory,
    /// In a file.
    File(PathBuf),
    /// In parts of a RAM file; the second file lists them, one a line: offset and length, decimal or `0x`.
    Stitch(PathBuf, PathBuf),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the region is made.
    pub place: Place,
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames a second; 0: as many as can be.
    pub fps: u32,
    /// Ends after so many frames.
    pub frames: Option<u64>,
    /// Ends after so many seconds.
    pub seconds: Option<u64>,
    /// The first `run_epoch`.
    pub run_epoch: u32,
    /// Changes the geometry with every frame too.
    pub restless: bool,
    /// Misbehaves in every way but in what is painted, as this seed has it.
    pub chaos: Option<u64>,
    /// Prints the number and the checksum of every such frame; 0: of none.
    pub report: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            place: Place::Memory,
            width: 1280,
            height: 720,
            fps: 30,
            frames: None,
            seconds: None,
            run_epoch: 1,
            restless: false,
            chaos: None,
            report: 0,
        }
    }
}

/// How often the heart beats: well within [`vgpu_perception::abi::HEARTBEAT_PERIOD_MS`].
const BEAT: Duration = Duration::from_millis(100);

/// Makes a region and publishes the frames of [`pattern`] in it, as the options say.
///
/// Prints `ready pid=… base=0x… run_epoch=… width=… height=…` once there is a first frame, and nothing after it but
/// what [`Options::report`] asks for. The cursor takes a step of [`pattern::cursor`] with every frame.
///
/// # Errors
/// What the kernel says of the region's memory; `InvalidInput` where the frame's size cannot be.
pub fn run(options: &Options) -> io::Result<()> {
    let region = open(&options.place)?;
    let base = region.base();
    let producer = Producer::start(region, Start { run_epoch: options.run_epoch, ..Start::default() });
    let mut show = Show::new(producer, options)?;
    show.frame()?;
    let (width, height, run_epoch) = (options.width, options.height, show.producer.run_epoch());
    let pid = std::process::id();
    say(&std::format!("ready pid={pid} base={base:#x} run_epoch={run_epoch} width={width} height={height}"))?;
    let begun = Instant::now();
    let ends = |frame_id| {
        options.frames.is_some_and(|frames| frame_id >= frames)
            || options.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds))
    };
    while !ends(show.producer.frame_id()) {
        show.wait();
        show.frame()?;
    }
    show.producer.set_status(&Lifecycle { status: State::STOPPED, ..Lifecycle::default() });
    Ok(())
}

fn open(place: &Place) -> io::Result<MappedRegion> {
    let writable = |path: &Path, new| OpenOptions::new().read(true).write(true).create(new).truncate(false).open(path);
    match place {
        Place::Memory => MappedRegion::create(),
        Place::File(path) => MappedRegion::in_file(&writable(path, true)?),
        Place::Stitch(ram, list) => MappedRegion::stitched(&writable(ram, false)?, &pieces(list)?),
    }
}

fn pieces(list: &Path) -> io::Result<Vec<Piece>> {
    let text = read_to_string(list)?;
    let bad = |line: &str| {
        let told = std::format!("{}: `{line}` is not an offset and a length", list.display());
        io::Error::new(io::ErrorKind::InvalidInput, told)
    };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let piece = |line: &str| {
        let (offset, len) = line.split_once(' ')?;
        Some(Piece { offset: number(offset.trim())?, len: number(len.trim())? })
    };
    text.lines().map(|line| piece(line).ok_or_else(|| bad(line))).collect()
}

/// Frames, cursor, heart: everything that goes on.
struct Show<'o> {
    producer: Producer<MappedRegion>,
    chaos: Option<Chaos>,
    options: &'o Options,
    row: Vec<u8>,
    due: Instant,
    beaten: Instant,
}

impl<'o> Show<'o> {
    fn new(producer: Producer<MappedRegion>, options: &'o Options) -> io::Result<Self> {
        let meta = FrameMeta { width: options.width, height: options.height, timestamp_ns: 0 };
        let stride = meta.stride().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let now = Instant::now();
        let row = std::vec![0; usize::try_from(stride).unwrap_or(0)];
        let mut new = Self { producer, chaos: options.chaos.map(Chaos::new), options, row, due: now, beaten: now };
        new.announce();
        Ok(new)
    }

    /// What a session says before its first frame.
    fn announce(&mut self) {
        self.producer.set_status(&Lifecycle {
            status: State::CAPTURING,
            backend: Backend::DDA,
            error_code: 0,
            applied_fps: self.options.fps,
        });
        self.producer.set_geometry(&pattern::geometry(1, self.options.width, self.options.height));
    }

    fn frame(&mut self) -> io::Result<()> {
        let (width, height) = (self.options.width, self.options.height);
        let meta = FrameMeta { width, height, timestamp_ns: monotonic_ns() };
        let frame_id = self.producer.frame_id().wrapping_add(1);
        let mut slot =
            self.producer.begin_publish(&meta).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        for y in 0..height {
            pattern::fill_row(frame_id, width, height, y, &mut self.row);
            slot.bytes(u64::from(y) * self.row.len() as u64, &self.row);
            if self.chaos.as_mut().is_some_and(Chaos::dies) {
                std::process::abort();
            }
            // A large frame takes longer than a beat on a slow machine.
            if y.is_multiple_of(32) && self.beaten.elapsed() >= BEAT {
                slot.beat();
                self.beaten = Instant::now();
            }
        }
        slot.finish();
        let step = (self.producer.cursor_seq() / 2).wrapping_add(1);
        self.producer.set_cursor(&pattern::cursor(step, width, height));
        if self.options.restless {
            let step = (self.producer.geometry_seq() / 2).wrapping_add(1);
            self.producer.set_geometry(&pattern::geometry(step, width, height));
        }
        self.report(frame_id)?;
        if let Some(chaos) = &mut self.chaos {
            chaos.between(&mut self.producer)?;
            if self.producer.geometry_seq() == 0 {
                self.announce();
            }
        }
        Ok(())
    }

    fn report(&mut self, frame_id: u64) -> io::Result<()> {
        if self.options.report == 0 || !frame_id.is_multiple_of(self.options.report) {
            return Ok(());
        }
        let (width, height) = (self.options.width, self.options.height);
        let mut picture = Vec::with_capacity(self.row.len() * height as usize);
        for y in 0..height {
            pattern::fill_row(frame_id, width, height, y, &mut self.row);
            picture.extend_from_slice(&self.row);
        }
        let mut line = String::new();
        let sum = pattern::checksum(&picture);
        let _ = write!(line, "frame id={frame_id} checksum={sum:#018x}");
        say(&line)
    }

    /// Until the next frame is due, beating meanwhile.
    fn wait(&mut self) {
        let period = if self.options.fps == 0 { Duration::ZERO } else { Duration::from_secs(1) / self.options.fps };
        self.due = (self.due + period).max(Instant::now());
        loop {
            if self.beaten.elapsed() >= BEAT {
                self.producer.beat();
                self.beaten = Instant::now();
            }
            let left = self.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(BEAT / 4));
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Nanoseconds of this machine's monotonic clock.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
