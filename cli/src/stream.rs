//! `vgpu stream`: the frames of a guest as a video, to a file or a pipe.

use core::time::Duration;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::json;
use vgpu_perception_host::Ram;
use vgpu_perception_view::{Condition, Feed, Picture, PictureError, Taken, pointer, y4m};

use crate::args;
use crate::attach::attach;
use crate::commands::Report;
use crate::failure::Failure;
use crate::output::{QUALITY, Target};
use crate::stop::Stop;

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// What video tools read from a pipe without being told more
    Y4m,
    /// One JPEG after another
    Mjpeg,
    /// Pixels of four bytes, blue first, and nothing else
    Raw,
}

impl Format {
    fn of(asked: Option<Self>, path: &Path) -> Result<Self, Failure> {
        if let Some(asked) = asked {
            return Ok(asked);
        }
        match path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase()).as_deref() {
            Some("y4m") | None => Ok(Self::Y4m),
            Some("mjpeg" | "mjpg") => Ok(Self::Mjpeg),
            Some("raw" | "bgra") => Ok(Self::Raw),
            Some(other) => Err(Failure::Usage(format!(
                "{}: no stream is written as .{other}; .y4m, .mjpeg and .raw are, or give --format; for other videos: \
                 vgpu stream GUEST | ffmpeg -i - {}",
                path.display(),
                path.display()
            ))),
        }
    }
}

/// A width and a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(u32, u32);

fn size(text: &str) -> Result<Size, String> {
    let wrong = || format!("\"{text}\" is no size: WIDTHxHEIGHT, each from 1 to 16384, as 1280x720");
    let (width, height) = text.split_once(['x', 'X']).ok_or_else(wrong)?;
    let side = |text: &str| text.parse().ok().filter(|side| (1..=16384).contains(side)).ok_or_else(wrong);
    Ok(Size(side(width)?, side(height)?))
}

#[derive(Debug, Args)]
pub(crate) struct Stream {
    #[command(flatten)]
    pub(crate) guest: args::Guest,
    #[command(flatten)]
    pub(crate) which: args::Which,
    /// Where to write: a file, or - for standard output
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    pub(crate) output: PathBuf,
    /// The format; else what the name of the file says, y4m where it says nothing
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// End after so many frames
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) frames: Option<u64>,
    /// Frames a second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    pub(crate) fps: u32,
    /// The size of the video; other sizes are scaled into it. Else that of the first frame
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(crate) size: Option<Size>,
    /// Write a frame only when the guest published a new one, not at every tick
    #[arg(long)]
    pub(crate) only_changed: bool,
    /// Draw the pointer where the guest has it
    #[arg(long)]
    pub(crate) cursor: bool,
    /// Write the time of each frame here, in milliseconds since the first (timestamp format v2, as mkvmerge reads it)
    #[arg(long, value_name = "FILE")]
    pub(crate) timestamps: Option<PathBuf>,
    /// Give up after so many seconds without a living producer; 0 waits for ever
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) timeout: u64,
}

/// The file behind the stream, which ends with a whole frame whatever happens.
struct Sink {
    target: Target,
    file: File,
    /// Bytes up to the end of the last whole frame.
    whole: u64,
}

impl Sink {
    /// False where whoever reads has gone.
    fn write(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.whole += bytes.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => {
                // A disk that is full: half a frame is of no use to anybody.
                if !self.target.is_stdout() {
                    let _ = self.file.set_len(self.whole);
                }
                Err(self.target.failed(&error))
            }
        }
    }
}

/// Pictures of any size as frames of one size in one format.
struct Encode {
    format: Format,
    fps: u32,
    size: Option<Size>,
    y4m: Option<y4m::Frames>,
    /// The last frame, to be written again where nothing changed.
    bytes: Vec<u8>,
}

impl Encode {
    fn frame(&mut self, picture: &Picture<'_>) -> Result<(), PictureError> {
        let Size(width, height) = *self.size.get_or_insert(Size(picture.width(), picture.height()));
        let scaled;
        let picture = if (picture.width(), picture.height()) == (width, height) {
            *picture
        } else {
            scaled = picture.boxed(width, height)?;
            Picture::new(width, height, &scaled)?
        };
        self.bytes.clear();
        match self.format {
            Format::Raw => self.bytes.extend_from_slice(picture.pixels()),
            Format::Mjpeg => picture.jpeg(&mut self.bytes, QUALITY)?,
            Format::Y4m => {
                self.y4m.get_or_insert_with(|| y4m::Frames::new(width, height)).write(&picture, &mut self.bytes)?;
            }
        }
        Ok(())
    }

    /// What a frame of the guest can go through without being held: planes in the size of the stream, where nothing is
    /// drawn into it.
    fn direct(&mut self, draws: bool) -> Option<&mut y4m::Frames> {
        if draws { None } else { self.y4m.as_mut() }
    }

    /// What went through [`direct`](Self::direct) is the last frame.
    fn passed(&mut self) -> Result<(), PictureError> {
        self.bytes.clear();
        if let Some(frames) = &self.y4m {
            frames.again(&mut self.bytes)?;
        }
        Ok(())
    }

    fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        if let (Format::Y4m, Some(Size(width, height))) = (self.format, self.size) {
            let _ = y4m::head(&mut head, width, height, self.fps);
        }
        head
    }
}

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Enough,
    Stopped,
    ReaderGone,
    Patience(Condition),
    GuestGone(String),
}

pub(crate) fn stream(args: &Stream, json: bool) -> Result<Report, Failure> {
    let target = Target::of(&args.output);
    if json && target.is_stdout() {
        return Err(Failure::Usage("--json and the frames both want standard output: give -o FILE".into()));
    }
    let format = Format::of(args.format, &args.output)?;
    target.check()?;
    if let Some(times) = &args.timestamps {
        Target::of(times).check()?;
    }
    let guest = attach(&args.guest)?;
    if !guest.is_live() {
        return Err(Failure::Usage(
            "this is a dump, in which nothing moves: vgpu sample --stale takes its picture".into(),
        ));
    }
    let stop = Stop::on_signals(|| {})?;
    let mut times = args.timestamps.as_deref().map(Times::create).transpose()?;
    let mut sink = Sink { file: target.open()?, target, whole: 0 };
    let mut encode = Encode { format, fps: args.fps, size: args.size, y4m: None, bytes: Vec::new() };
    let mut feed = args.which.feed(guest);
    let mut written = 0;
    let end = run(args, &mut feed, &mut encode, &mut sink, &mut times, &stop, &mut written)?;
    let counters = *feed.counters();
    let report = json!({
        "file": sink.target.to_string(),
        "frames": written,
        "taken": counters.frames,
        "missed": counters.missed,
        "retries": counters.retries,
        "sessions": counters.sessions,
    });
    let text = format!(
        "{}: {written} frames written, {} taken, {} missed, {} retries",
        sink.target, counters.frames, counters.missed, counters.retries
    );
    let nothing = match end {
        End::Enough | End::Stopped | End::ReaderGone => None,
        End::Patience(condition) => Some(format!("gave up after {} s: {condition}{}", args.timeout, args.which.hint())),
        End::GuestGone(why) if written == 0 => Some(why),
        End::GuestGone(why) => {
            eprintln!("vgpu: {why}");
            None
        }
    };
    let (text, note) = if sink.target.is_stdout() { (String::new(), Some(text)) } else { (text, None) };
    Ok(Report { json: report, text, nothing, note })
}

fn run(
    args: &Stream,
    feed: &mut Feed<Ram>,
    encode: &mut Encode,
    sink: &mut Sink,
    times: &mut Option<Times>,
    stop: &Stop,
    written: &mut u64,
) -> Result<End, Failure> {
    let tick = Duration::from_secs(1) / args.fps;
    let patience = Duration::from_secs(args.timeout);
    let (mut due, mut lived) = (Instant::now(), Instant::now());
    let mut drawn = None;
    loop {
        if let Some(end) = look_after(feed, patience, &mut lived) {
            return Ok(end);
        }
        // A writer that is met at its work is done soon: well before the next tick.
        let mut take = |feed: &mut Feed<Ram>| match encode.direct(args.cursor) {
            Some(planes) => match feed.pass(planes) {
                // A copy is done sooner than planes are made: it comes through where the producer overtook those.
                Ok(Taken::Nothing) => (feed.take(), false),
                Ok(taken) => (taken, true),
                // It has another size than the stream now: it is scaled.
                Err(_) => {
                    feed.again();
                    (feed.take(), false)
                }
            },
            None => (feed.take(), false),
        };
        let (mut taken, mut passed) = take(feed);
        while taken == Taken::Nothing && *feed.condition() == Condition::Live && Instant::now() < due + tick / 2 {
            if stop.sleep_until(Instant::now() + Duration::from_millis(1)) {
                break;
            }
            (taken, passed) = take(feed);
        }
        let cursor = if args.cursor { feed.cursor() } else { None };
        let moved = args.cursor && cursor.map(|now| now.seq) != drawn;
        let wanted = match taken {
            Taken::New => true,
            Taken::Same => moved,
            Taken::Nothing => false,
        };
        if wanted && passed {
            encode.passed().map_err(|error| sink.target.failed(&error))?;
        } else if wanted {
            let corner = if cursor.is_some() { feed.geometry() } else { None };
            if let Some(picture) = feed.picture() {
                let with = cursor.map(|now| {
                    let mut pixels = picture.pixels().to_vec();
                    let (left, top) = corner.map_or((0, 0), |at| (at.cap_x, at.cap_y));
                    pointer::draw(&mut pixels, picture.width(), picture.height(), &now, left, top);
                    pixels
                });
                let shown = match &with {
                    Some(pixels) => Picture::new(picture.width(), picture.height(), pixels),
                    None => Ok(picture),
                };
                shown.and_then(|shown| encode.frame(&shown)).map_err(|error| sink.target.failed(&error))?;
                drawn = cursor.map(|now| now.seq);
            }
        }
        let again = !args.only_changed && *feed.condition() == Condition::Live && !encode.bytes.is_empty();
        if wanted || again {
            let head = if *written == 0 { encode.head() } else { Vec::new() };
            if !sink.write(&head)? || !sink.write(&encode.bytes)? {
                return Ok(End::ReaderGone);
            }
            *written += 1;
            if let Some(times) = times {
                times.mark()?;
            }
            if args.frames.is_some_and(|frames| *written >= frames) {
                return Ok(End::Enough);
            }
        }
        // A reader that is slower than the clock gets fewer frames, not a burst of them.
        due = (due + tick).max(Instant::now());
        if stop.sleep_until(due) {
            return Ok(End::Stopped);
        }
    }
}

/// Does what is due for the producer, and tells a person what changed; an end where there is nothing to wait for.
fn look_after(feed: &mut Feed<Ram>, patience: Duration, lived: &mut Instant) -> Option<End> {
    let (changed, _) = feed.step(Instant::now());
    let now = Instant::now();
    match feed.condition() {
        Condition::Live => *lived = now,
        Condition::Detached(why) => return Some(End::GuestGone(why.clone())),
        condition if !patience.is_zero() && now.duration_since(*lived) > patience => {
            return Some(End::Patience(condition.clone()));
        }
        _ => {}
    }
    if changed {
        eprintln!("vgpu: {}", feed.condition());
    }
    None
}

/// The times of the frames, as mkvmerge reads them.
struct Times {
    target: Target,
    file: File,
    begun: Option<Instant>,
}

impl Times {
    fn create(path: &Path) -> Result<Self, Failure> {
        let target = Target::File(path.to_owned());
        let mut file = target.open()?;
        file.write_all(b"# timestamp format v2\n").map_err(|error| target.failed(&error))?;
        Ok(Self { target, file, begun: None })
    }

    fn mark(&mut self) -> Result<(), Failure> {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let line = format!("{:.3}\n", begun.elapsed().as_secs_f64() * 1000.0);
        self.file.write_all(line.as_bytes()).map_err(|error| self.target.failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_two_numbers() {
        assert_eq!(size("1280x720"), Ok(Size(1280, 720)));
        for wrong in ["", "1280", "0x720", "1280x", "x", "-1x5", "99999x1", "1x1x1"] {
            assert!(size(wrong).unwrap_err().contains("1280x720"), "{wrong}");
        }
    }

    #[test]
    fn names_say_the_format() {
        assert_eq!(Format::of(None, Path::new("-")).unwrap(), Format::Y4m);
        assert_eq!(Format::of(None, Path::new("a.mjpeg")).unwrap(), Format::Mjpeg);
        let told = Format::of(None, Path::new("out.mkv")).unwrap_err().to_string();
        assert!(told.contains("ffmpeg -i - out.mkv"), "{told}");
    }
}
