//! A guest that runs, with its RAM in a file: what examples attach to.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use vgpu_perception_producer::{FrameMeta, RegionWrite, pattern};

use crate::file::FileSegment;
use crate::linux::{LinuxOptions, standard_linux};
use crate::region::{Region, RegionImage};

/// A synthetic Linux guest of 4 GiB in a sparse file, and a thread that plays its producer: 30 frames a second of 320 x
/// 200 pixels, a cursor that moves, a heart that beats. Both are gone when this is dropped.
#[derive(Debug)]
pub struct RunningGuest {
    folder: PathBuf,
    segments: Vec<FileSegment>,
    stop: Arc<AtomicBool>,
    producer: Option<JoinHandle<()>>,
}

/// What its frames look like. Each slot has been written once, so that its pages are mapped.
const IMAGE: RegionImage = RegionImage { width: 320, height: 200, frames: 3, heartbeat: 1, run_epoch: 1 };

impl RunningGuest {
    /// Builds the guest in a folder of its own, in shared memory where there is one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn start() -> io::Result<Self> {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let named = |n: u32| parent.join(format!("vgpu-guest-{}-{n}", std::process::id()));
        // Another guest of this process may take a name at the same time.
        let settled = |made: &io::Result<PathBuf>| {
            !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        };
        let made = (0..).map(|n| fs::create_dir(named(n)).map(|()| named(n))).find(settled);
        let folder = made.expect("some name is free")?;
        // From here on, what was made is removed again.
        let mut guest = Self { folder, segments: Vec::new(), stop: Arc::default(), producer: None };
        let linux = standard_linux(LinuxOptions { image: IMAGE, ..LinuxOptions::default() });
        guest.segments = linux.guest.ram.to_file(&guest.ram())?;
        let file = OpenOptions::new().write(true).open(guest.ram())?;
        let region = RegionInFile { file, segments: guest.segments.clone(), region: linux.region };
        let stop = Arc::clone(&guest.stop);
        guest.producer = Some(std::thread::Builder::new().name("producer".into()).spawn(move || play(region, &stop))?);
        Ok(guest)
    }

    /// The file that holds its RAM.
    #[must_use]
    pub fn ram(&self) -> PathBuf {
        self.folder.join("ram")
    }

    /// Where the guest's physical memory lies in that file.
    #[must_use]
    pub fn segments(&self) -> &[FileSegment] {
        &self.segments
    }
}

impl Drop for RunningGuest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.producer.take().map(JoinHandle::join);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Publishes until it is told to stop.
fn play(region: RegionInFile, stop: &AtomicBool) {
    let (width, height) = (IMAGE.width, IMAGE.height);
    let mut producer = IMAGE.write(region);
    while !stop.load(Ordering::Relaxed) {
        let frame_id = producer.frame_id() + 1;
        let meta = FrameMeta { width, height, timestamp_ns: RegionImage::timestamp_ns(frame_id) };
        let pixels = IMAGE.pixels(frame_id);
        producer.publish(&meta, &pixels).expect("the image's size can be");
        producer.set_cursor(&pattern::cursor(u32::try_from(frame_id).unwrap_or(0), width, height));
        producer.beat();
        std::thread::sleep(Duration::from_millis(33));
    }
}

/// A region in a RAM file: offsets are translated to wherever its pages lie in the file.
struct RegionInFile {
    file: File,
    segments: Vec<FileSegment>,
    region: Region,
}

impl RegionInFile {
    fn store(&self, offset: u64, bytes: &[u8]) {
        let gpa = self.region.gpa(offset).expect("the frames' pages are mapped").get();
        let holds = |segment: &&FileSegment| gpa.wrapping_sub(segment.gpa.get()) < segment.len;
        let segment = self.segments.iter().find(holds).expect("a page of the guest is in its RAM file");
        let at = segment.offset + (gpa - segment.gpa.get());
        self.file.write_all_at(bytes, at).expect("the RAM file can be written");
    }
}

impl RegionWrite for RegionInFile {
    fn store_u32(&self, offset: u64, value: u32) {
        self.store(offset, &value.to_le_bytes());
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.store(offset, &value.to_le_bytes());
    }

    fn store_bytes(&self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let in_page = usize::try_from(4096 - at % 4096).expect("less than a page fits");
            let (head, tail) = rest.split_at(rest.len().min(in_page));
            self.store(at, head);
            at += head.len() as u64;
            rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Field;

    #[test]
    fn it_beats_and_leaves_nothing_behind() {
        let guest = RunningGuest::start().unwrap();
        let linux = standard_linux(LinuxOptions { image: IMAGE, ..LinuxOptions::default() });
        let gpa = linux.region.gpa(Field::HEARTBEAT.offset).unwrap().get();
        let segment = guest.segments().iter().find(|one| gpa.wrapping_sub(one.gpa.get()) < one.len).unwrap();
        let file = File::open(guest.ram()).unwrap();
        let beats = || {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, segment.offset + (gpa - segment.gpa.get())).unwrap();
            u64::from_le_bytes(bytes)
        };
        let before = beats();
        while beats() < before + 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let folder = guest.folder.clone();
        drop(guest);
        assert!(!folder.exists());
    }
}
