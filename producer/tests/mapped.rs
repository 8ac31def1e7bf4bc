//! Regions in real shared memory.
#![cfg(feature = "mapped")]

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Command;

use vgpu_perception::abi;
use vgpu_perception_producer::mapped::{MappedRegion, Piece};
use vgpu_perception_producer::{FrameMeta, Producer, RegionWrite as _, pattern};

/// A file of its own that is gone at the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("vgpu-producer-{name}-{}", std::process::id())))
    }

    fn create(&self) -> File {
        File::options().read(true).write(true).create(true).truncate(true).open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read(file: &mut File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_stitched_region_lies_where_its_pieces_say() {
    let scratch = Scratch::new("stitch");
    let mut file = scratch.create();
    file.set_len(200 << 20).unwrap();
    // Single pages from behind, then the rest: page n of the region is not page n of the file.
    let mut pieces: Vec<Piece> = (0..600).map(|n| Piece { offset: (199 << 20) - n * 8192, len: 4096 }).collect();
    pieces.push(Piece { offset: 4096, len: 1 << 20 });
    pieces.push(Piece { offset: 4096 + (1 << 20), len: abi::REGION_BYTES - 600 * 4096 - (1 << 20) });
    let region = MappedRegion::stitched(&file, &pieces).unwrap();
    let pixels = vec![0xa5; 4096 * 200];
    let meta = FrameMeta { width: 4096 / 4, height: 200, timestamp_ns: 0 };
    Producer::new(region).publish(&meta, &pixels).unwrap();
    assert_eq!(read(&mut file, 199 << 20, 4), 0_u32.to_le_bytes());
    assert_eq!(read(&mut file, (199 << 20) + 0x10, 8), 1_u64.to_le_bytes());
    for page in 0..200 {
        let at = abi::RING_OFFSET / 4096 + page;
        let offset = if at < 600 { (199 << 20) - at * 8192 } else { 4096 + (at - 600) * 4096 };
        assert_eq!(read(&mut file, offset, 4096), pixels[..4096], "page {page}");
    }
}

#[test]
fn pieces_that_are_no_region_are_refused() {
    let scratch = Scratch::new("refused");
    let file = scratch.create();
    file.set_len(100 << 20).unwrap();
    let whole = abi::REGION_BYTES;
    for pieces in [
        vec![],
        vec![Piece { offset: 0, len: whole - 4096 }],
        vec![Piece { offset: 0, len: whole + 4096 }],
        vec![Piece { offset: 100, len: whole }],
        vec![Piece { offset: 4 << 20, len: whole }],
        vec![Piece { offset: u64::MAX - 4095, len: whole }],
        vec![Piece { offset: 0, len: 100 }, Piece { offset: 4096, len: whole - 100 }],
    ] {
        let error = MappedRegion::stitched(&file, &pieces).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{pieces:?}");
    }
}

#[test]
fn stores_outside_the_region_do_not_happen() {
    for (offset, bytes) in [(abi::REGION_BYTES, 4), (abi::REGION_BYTES - 4, 8), (2, 4), (u64::MAX - 3, 16)] {
        let stored = std::panic::catch_unwind(|| {
            let region = MappedRegion::create().unwrap();
            region.store_bytes(offset, &[0; 16][..bytes]);
        });
        assert!(stored.is_err(), "{bytes} bytes at {offset:#x}");
    }
}

#[test]
fn the_program_publishes_what_the_pattern_says() {
    let scratch = Scratch::new("program");
    let run = Command::new(env!("CARGO_BIN_EXE_vgpu-producer"))
        .args(["--width", "66", "--height", "31", "--fps", "0", "--frames", "5", "--epoch", "3", "--report", "5"])
        .arg("--file")
        .arg(&scratch.0)
        .output()
        .unwrap();
    let out = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success() && out.starts_with("ready pid="), "{out}{}", String::from_utf8_lossy(&run.stderr));
    let mut file = File::open(&scratch.0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), abi::REGION_BYTES);
    let heads = read(&mut file, 0, 0x130);
    // Frame 5 is in slot 1, under its second pair of numbers; the session is the third; the producer has stopped.
    assert_eq!(
        (&heads[..4], &heads[8..12], &heads[0x10..0x18]),
        (&[1, 0, 0, 0][..], &[4, 0, 0, 0][..], &[5, 0, 0, 0, 0, 0, 0, 0][..])
    );
    assert_eq!((&heads[0x110..0x114], &heads[0x114..0x118]), (&[3, 0, 0, 0][..], &[3, 0, 0, 0][..]));
    let pixels = read(&mut file, abi::slot_offset(1).unwrap(), 66 * 31 * 4);
    assert_eq!(pattern::check(5, 66, 31, &pixels), Ok(()));
    let last = out.lines().last().unwrap();
    assert_eq!(last, format!("frame id=5 checksum={:#018x}", pattern::checksum(&pixels)));
}

#[test]
fn the_program_says_what_is_wrong_with_its_options() {
    for (arguments, told) in [
        (&["--width"][..], "--width needs a value"),
        (&["--fps", "fast"], "--fps fast: not a number"),
        (&["--slow"], "there is no option --slow"),
        (&["--width", "5000", "--frames", "1"], "5000 x 720"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_vgpu-producer")).args(arguments).output().unwrap();
        let error = String::from_utf8(run.stderr).unwrap();
        assert!(!run.status.success() && error.contains(told), "{arguments:?}: {error}");
    }
}
