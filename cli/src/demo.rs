//! The main job with nothing to install: a synthetic guest in a RAM file, a producer in another process, and the library
//! that knows of neither.

use core::fmt::Write as _;
use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;
use vgpu_perception::NextUse;
use vgpu_perception_host::{Guest as HostGuest, Ram as HostRam};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_producer::program::{self, Options, Place};
use vgpu_perception_testkit::windows::{Layout, Options as WindowsOptions, Shape, WindowsGuest};
use vgpu_perception_testkit::{FileSegment, LinuxOptions, MappedPage, Placement, Ram, Ring, standard_linux};

use crate::args;
use crate::commands::{Report, found};
use crate::failure::Failure;
use crate::frames::Sampler;
use crate::look::{Until, look};
use crate::output::{Still, Target};
use crate::show;

/// Sparse, and on both sides of the hole below 4 GiB.
const RAM_BYTES: u64 = 4 << 30;
/// More than the search and the sampling take: the producer ends by itself if this process does not end it.
const SPARE_SECONDS: u64 = 120;

/// A directory that is gone when the demo ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        // Shared memory where there is some: the RAM file is written all the time.
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("vgpu-demo-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| Failure::Guest(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The producer's process, ended with the demo.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn demo(args: &args::Demo) -> Result<Report, Failure> {
    let scratch = Scratch::new()?;
    let ram_path = scratch.0.join("guest.ram");
    let pieces_path = scratch.0.join("pieces");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| Failure::Guest(format!("{}: {error}", path.display()))
    };
    let made = if args.windows { windows() } else { linux() };
    let segments = made.ram.to_file(&ram_path).map_err(io(&ram_path))?;
    fs::write(&pieces_path, pieces(&made, &segments)).map_err(io(&pieces_path))?;
    let _producer = start(&ram_path, &pieces_path, args.seconds + SPARE_SECONDS)?;

    let map = segments.iter().map(|at| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 });
    let ram = GuestRam::open(&ram_path, SegmentMap::new(map)?)?;
    let ram = HostRam::Mapped(ram);
    let end = ram.end();
    let guest = HostGuest::over(ram, end);
    // The producer draws its first frame while it is being looked for: a retry is the normal case of a guest that boots.
    let deadline = Instant::now() + Duration::from_secs(20);
    let (look, mut live) = loop {
        let mut look = look(&guest, Duration::from_millis(600), Until::AllAreKnown)?;
        if !look.lives.is_empty() {
            let live = look.lives.remove(0);
            break (look, live);
        }
        if Instant::now() > deadline {
            return Err(Failure::Nothing(show::advice(&look)));
        }
    };
    let mut sampler = Sampler::new();
    live.set_copy(NextUse::ReadSoon);
    let begun = Instant::now();
    let mut whole = 0_u64;
    sampler.take(&mut live, u64::MAX, begun + Duration::from_secs(args.seconds), |info, pixels| {
        let (id, width, height) = (info.desc.frame_id, info.desc.width, info.desc.height);
        whole += u64::from(vgpu_perception_producer::pattern::check(id, width, height, pixels).is_ok());
        Ok(())
    })?;
    let Some(info) = sampler.last else { return Err(Failure::Nothing("the producer published no frame".into())) };
    sampler.write(&Target::of(&args.output), Still::of(None, &args.output)?)?;
    let report = found(&look);
    let tally = sampler.tally;
    let text = format!(
        "{}\n{} frames in {} s, every pixel right in {whole}; {} missed, {} polls met the writer\n{}: frame {}, {} x {}",
        report.text,
        tally.frames,
        args.seconds,
        tally.missed,
        tally.raced,
        args.output.display(),
        info.desc.frame_id,
        info.desc.width,
        info.desc.height
    );
    let json = json!({
        "find": report.json,
        "frames": tally.frames,
        "whole": whole,
        "missed": tally.missed,
        "raced": tally.raced,
        "frame": show::frame(&info),
        "file": args.output.display().to_string(),
    });
    let torn = (whole != tally.frames).then(|| format!("{} frames were not whole", tally.frames - whole));
    Ok(Report { json, text, nothing: torn, note: None })
}

/// A guest, and the pages of its region, in the order of the region.
struct Guest {
    ram: Ram,
    pages: Vec<MappedPage>,
}

/// A guest with several processes, decoys, and a region whose pages lie all over its RAM.
fn linux() -> Guest {
    let guest = standard_linux(LinuxOptions {
        ram: RAM_BYTES,
        processes: 9,
        placement: Placement::Fragments64K,
        ring: Ring::All,
        ..LinuxOptions::default()
    });
    fresh(Guest { ram: guest.guest.ram, pages: guest.region.pages })
}

/// A Windows guest with decoys of its own; of the region's pages one in eight is in the producer's tables as processors
/// know it, the others were trimmed.
fn windows() -> Guest {
    let options = WindowsOptions { ram: RAM_BYTES, ring: Ring::All, ..WindowsOptions::default() };
    let guest = WindowsGuest::build(&Layout::named("11 22H2"), Shape::FourLevel, options);
    fresh(Guest { ram: guest.ram, pages: guest.truth.shared.region.pages })
}

/// The producer starts in fresh memory.
fn fresh(guest: Guest) -> Guest {
    for page in guest.pages.iter().take(2) {
        for word in 0..512 {
            guest.ram.write_u64(page.gpa.wrapping_add(word * 8), 0);
        }
    }
    guest
}

/// The region's pages as pieces of the file, in the order of the region.
fn pieces(guest: &Guest, segments: &[FileSegment]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for page in &guest.pages {
        let holds = |segment: &&FileSegment| page.gpa.get().wrapping_sub(segment.gpa.get()) < segment.len;
        let Some(segment) = segments.iter().find(holds) else { continue };
        let offset = page.gpa.get() - segment.gpa.get() + segment.offset;
        match runs.last_mut() {
            Some((start, len)) if *start + *len == offset => *len += page.size.bytes(),
            _ => runs.push((offset, page.size.bytes())),
        }
    }
    runs.iter().fold(String::new(), |mut text, (start, len)| {
        let _ = writeln!(text, "{start} {len}");
        text
    })
}

fn start(ram: &Path, pieces: &Path, seconds: u64) -> Result<Running, Failure> {
    let fail = |error: std::io::Error| Failure::Guest(format!("cannot start the demo's producer: {error}"));
    let exe = std::env::current_exe().map_err(fail)?;
    let child = Command::new(exe)
        .arg("demo-producer")
        .args([ram, pieces])
        .arg(seconds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(fail)?;
    Ok(Running(child))
}

/// The producer's process.
pub(crate) fn produce(args: &args::DemoProducer) -> Result<(), Failure> {
    let options = Options {
        place: Place::Stitch(args.ram.clone(), args.pieces.clone()),
        seconds: Some(args.seconds),
        fps: 60,
        ..Options::default()
    };
    program::run(&options).map_err(|error| Failure::Guest(format!("the demo's producer: {error}")))
}
