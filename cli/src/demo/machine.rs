//! A built-in guest: its RAM in a file, its producer in a process of its own. Nothing of it outlives the demo.

use core::fmt::Write as _;
use core::time::Duration;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use vgpu_perception_host::attach::bytes;
use vgpu_perception_host::{Guest as HostGuest, Ram as HostRam};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_producer::program::{self, Options, Place};
use vgpu_perception_testkit::windows::{Layout, Options as WindowsOptions, Shape, WindowsGuest};
use vgpu_perception_testkit::{FileSegment, LinuxOptions, MappedPage, Placement, Ram, Ring, standard_linux};

use crate::args;
use crate::failure::Failure;

/// Sparse, and on both sides of the hole below 4 GiB.
const RAM_BYTES: u64 = 4 << 30;
/// What one guest really takes: its region, and the tables of its processes.
const NEEDED: u64 = 128 << 20;

/// What has to be gone when the demo is: folders and processes. A signal's thread ends them where the demo cannot.
#[derive(Clone, Debug, Default)]
pub(super) struct Remains(Arc<Mutex<Vec<Remain>>>);

#[derive(Debug)]
enum Remain {
    Folder(PathBuf),
    Process(Child),
}

impl Remains {
    fn add(&self, remain: Remain) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(remain);
    }

    /// Ends the processes first: they write into the folders.
    pub(super) fn clear(&self) {
        for remain in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).rev() {
            match remain {
                Remain::Process(mut child) => {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Remain::Folder(path) => {
                    let _ = fs::remove_dir_all(path);
                }
            }
        }
    }

    /// A failure where a producer has ended by itself.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for remain in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if let Remain::Process(child) = remain
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(Failure::Guest(ended(status)));
            }
        }
        Ok(())
    }

    /// What there is to say of a producer that has ended by itself; each is said once.
    #[cfg(feature = "serve")]
    pub(super) fn news(&self) -> Option<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..all.len() {
            if let Some(Remain::Process(child)) = all.get_mut(index)
                && let Ok(Some(status)) = child.try_wait()
            {
                all.remove(index);
                return Some(ended(status));
            }
        }
        None
    }
}

fn ended(status: ExitStatus) -> String {
    format!(
        "the demo's producer has ended by itself: {status} (SIGBUS: no room where the RAM file is; else somebody \
         ended it)"
    )
}

impl Drop for Remains {
    fn drop(&mut self) {
        // The signal's thread holds one too; the demo's own is the one that matters, and clearing twice does no harm.
        self.clear();
    }
}

/// A folder in shared memory, where the RAM file is written all the time without a disk; elsewhere where that is full.
fn scratch(remains: &Remains, name: &str) -> Result<PathBuf, Failure> {
    let mut tried = Vec::new();
    for parent in [PathBuf::from("/dev/shm"), std::env::temp_dir()] {
        let free = rustix::fs::statvfs(&parent).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        match free {
            Ok(free) if free < NEEDED => tried.push(format!("{}: {} free", parent.display(), bytes(free))),
            Err(error) => tried.push(format!("{}: {error}", parent.display())),
            Ok(_) => {
                let path = parent.join(format!("vgpu-demo-{}-{name}", std::process::id()));
                match fs::create_dir(&path) {
                    Ok(()) => {
                        remains.add(Remain::Folder(path.clone()));
                        return Ok(path);
                    }
                    Err(error) => tried.push(format!("{}: {error}", path.display())),
                }
            }
        }
    }
    Err(Failure::Guest(format!("no room for the demo's guest, which takes {}: {}", bytes(NEEDED), tried.join("; "))))
}

/// A guest that runs.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) ram: PathBuf,
    segments: Vec<FileSegment>,
}

impl Machine {
    /// Builds a guest and starts its producer.
    pub(super) fn start(is_windows: bool, remains: &Remains) -> Result<Self, Failure> {
        let name = if is_windows { "windows" } else { "linux" };
        let folder = scratch(remains, name)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Failure::Guest(format!("{}: {error}", path.display()))
        };
        let ram = folder.join(format!("{name}.ram"));
        let list = folder.join("pieces");
        let made = if is_windows { windows() } else { linux() };
        let segments = made.ram.to_file(&ram).map_err(io(&ram))?;
        fs::write(&list, pieces(&made, &segments)).map_err(io(&list))?;
        remains.add(Remain::Process(start(&ram, &list)?));
        Ok(Self { ram, segments })
    }

    /// The guest as anybody would attach to it: its RAM file, and where that lies in the guest.
    pub(super) fn attach(&self) -> Result<HostGuest<HostRam>, Failure> {
        let map = self.segments.iter().map(|at| Segment { gpa: at.gpa, len: at.len, offset: at.offset, file: 0 });
        let ram = HostRam::Mapped(GuestRam::open(&self.ram, SegmentMap::new(map)?)?);
        let end = ram.end();
        Ok(HostGuest::over(ram, end))
    }

    /// What to type for any other command on this guest.
    pub(super) fn words(&self) -> String {
        self.segments.iter().fold(self.ram.display().to_string(), |mut text, at| {
            let _ = write!(text, " --map={:#x}:{:#x}:{:#x}", at.gpa.get(), at.len, at.offset);
            text
        })
    }

    /// Bytes that its RAM file takes.
    pub(super) fn taken(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&self.ram).map_or(0, |file| file.blocks() * 512)
    }
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

fn start(ram: &Path, pieces: &Path) -> Result<Child, Failure> {
    let fail = |error: io::Error| Failure::Guest(format!("cannot start the demo's producer: {error}"));
    let exe = std::env::current_exe().map_err(fail)?;
    let mut command = Command::new(exe);
    command.arg("demo-producer").args([ram, pieces]).arg(std::process::id().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(fail)
}

/// The producer's process. It ends with the demo, also where that is killed.
pub(crate) fn produce(args: &args::DemoProducer) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Guest(format!("the demo's producer: {error}"));
    let parent = || rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    let demo = args.demo;
    let watch = move || {
        while parent() == demo {
            std::thread::sleep(Duration::from_millis(200));
        }
        std::process::exit(0);
    };
    std::thread::Builder::new().name("parent".into()).spawn(watch).map_err(failed)?;
    let place = Place::Stitch(args.ram.clone(), args.pieces.clone());
    program::run(&Options { place, fps: 60, ..Options::default() }).map_err(failed)
}
