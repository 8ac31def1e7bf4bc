//! The headers and the library state the same layouts and values: a C program prints the headers' side.

use core::mem::offset_of;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use vgpu_perception::abi::{self, Backend, CursorId, State};

use crate::ext::{CandidateC, ProgressC, StatsC, VERSION, phase, step};
use crate::failure::code;
use crate::ffi::{Object, STORAGE_ALIGN, Scratch};
use crate::heap::FileSegC;
use crate::memory::Mem;
use crate::perception::{ControlC, CursorC, FrameDescC, FrameInfoC, GeometryC, IntentC, StatusC};
use crate::ram_map::SEGMENTS;
use crate::reader::{PieceC, ReaderC};
use crate::region::RegionState;
use crate::scan::{Scan, scratch_bytes};
use crate::skip::{SkipC, reason};
use crate::storage::SegC;
use crate::win32::{ProcessC, Win32};

fn said_by_headers() -> BTreeMap<String, i64> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program: PathBuf = std::env::temp_dir().join(format!("vgpu-layout-{}", std::process::id()));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(&compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root.join("include"))
        .arg(root.join("tests/c/layout.c"))
        .arg("-o")
        .arg(&program)
        .status()
        .unwrap_or_else(|error| panic!("no C compiler {compiler}: {error}; install gcc, or set CC"));
    assert!(status.success(), "tests/c/layout.c does not compile");
    let output = Command::new(&program).output().unwrap();
    std::fs::remove_file(&program).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// What the library has, by the names of the C program.
#[derive(Default)]
struct Ours(BTreeMap<String, i64>);

impl Ours {
    fn value(&mut self, name: &str, value: impl TryInto<i64, Error: core::fmt::Debug>) {
        let before = self.0.insert(name.to_owned(), value.try_into().unwrap());
        assert_eq!(before, None, "{name} twice");
    }

    fn offset(&mut self, name: &str, value: usize) {
        self.value(name, value);
    }
}

macro_rules! layout {
    ($ours:ident, $name:literal, $type:ty, $($member:ident)+) => {
        $ours.value(concat!("sizeof ", $name), size_of::<$type>());
        $($ours.offset(concat!($name, ".", stringify!($member)), offset_of!($type, $member));)+
    };
}

fn wire(ours: &mut Ours) {
    layout!(ours, "vgpu_desc_t", abi::Desc, width height stride format frame_id timestamp_ns);
    ours.value("sizeof vgpu_producer_t", size_of::<abi::ProducerPage>());
    macro_rules! line {
        ($line:ident, $type:ty, $prefix:literal, $($member:ident)+) => {$(
            let name = concat!("vgpu_producer_t.", $prefix, stringify!($member));
            ours.offset(name, offset_of!(abi::ProducerPage, $line) + offset_of!($type, $member));
        )+};
    }
    line!(heads, abi::Heads, "", latest seq frame_id desc);
    line!(cursor, abi::Cursor, "cursor_", seq visible pos hotspot glyph id);
    line!(geometry, abi::Geometry, "geom_", seq);
    line!(geometry, abi::Geometry, "", virt_x virt_y virt_w virt_h cap_x cap_y dpi refresh_mhz);
    line!(status, abi::Status, "", heartbeat content_change_ns run_epoch status backend error_code applied_fps);
    line!(status, abi::Status, "", supported_formats ctrl_ack full_frame_ack);
    layout!(ours, "vgpu_control_t", abi::Control,
        ctrl_gen desired_state target_fps draw_cursor full_frame_req attached consumer_tick);
    assert_eq!((size_of::<ControlC>(), align_of::<ControlC>()), (size_of::<abi::Control>(), 8));
    ours.value("VGPU_PAGE", abi::PAGE);
    ours.value("VGPU_SLOT_COUNT", abi::SLOT_COUNT);
    ours.value("VGPU_SLOT_STRIDE", abi::SLOT_STRIDE);
    ours.value("VGPU_PRODUCER_OFFSET", abi::PRODUCER_OFFSET);
    ours.value("VGPU_CONTROL_OFFSET", abi::CONTROL_OFFSET);
    ours.value("VGPU_RING_OFFSET", abi::RING_OFFSET);
    ours.value("VGPU_REGION_BYTES", abi::REGION_BYTES);
    ours.value("VGPU_MAX_WIDTH", abi::MAX_WIDTH);
    ours.value("VGPU_MAX_HEIGHT", abi::MAX_HEIGHT);
    ours.value("VGPU_HEARTBEAT_PERIOD_MS", abi::HEARTBEAT_PERIOD_MS);
    ours.value("VGPU_LATEST_NONE", abi::LATEST_NONE);
    ours.value("VGPU_FMT_BGRA8888", abi::Format::BGRA8888.0);
    for number in 0..20 {
        let states = [("ST", State(number).name()), ("BK", Backend(number).name())];
        let commands = [("CMD", abi::Command(number).name()), ("CURSOR_ID", CursorId(number).name())];
        for (kind, name) in states.into_iter().chain(commands) {
            if let Some(name) = name {
                ours.value(&format!("VGPU_{kind}_{name}"), number);
            }
        }
    }
}

fn surface(ours: &mut Ours) {
    layout!(ours, "gpa_seg", SegC, gpa len file_off);
    layout!(ours, "process", ProcessC, cr3 peb eprocess pid name);
    layout!(ours, "vgpup_frame_desc", FrameDescC, width height stride format frame_id timestamp_ns);
    layout!(ours, "vgpup_frame_info", FrameInfoC, desc bytes);
    layout!(ours, "vgpup_cursor", CursorC, seq visible x y hot_x hot_y glyph_w glyph_h id);
    layout!(ours, "vgpup_geometry", GeometryC, virt_x virt_y virt_w virt_h cap_x cap_y dpi refresh_mhz);
    layout!(ours, "vgpup_status", StatusC, heartbeat run_epoch status backend error_code applied_fps
        supported_formats ctrl_ack full_frame_ack content_change_ns);
    layout!(ours, "vgpup_control_intent", IntentC, desired_state target_fps draw_cursor full_frame_req);
    layout!(ours, "vgpux_skip", SkipC, reason seq slot needed capacity frame_id last);
    layout!(ours, "vgpux_scan_progress", ProgressC, phase pass done total);
    layout!(ours, "vgpux_file_seg", FileSegC, gpa len file_off file reserved);
    for (name, value) in [("KERNEL", phase::KERNEL), ("PROCESSES", phase::PROCESSES), ("END", phase::END)] {
        ours.value(&format!("VGPUX_PHASE_{name}"), value);
    }
    layout!(ours, "vgpux_piece", PieceC, gpa dst len);
    layout!(ours, "vgpux_reader", ReaderC, size read read_pieces read_words load_lines next_data is_cancelled batch);
    layout!(ours, "vgpux_candidate", CandidateC, proc_cr3 region_gva heartbeat frame_id page_gpa run_epoch status pid
        trimmed name);
    layout!(ours, "vgpux_scan_stats", StatsC, spaces tables runs frames judged candidates skipped truncated);
    let codes = [
        ("ARGUMENT", code::ARGUMENT),
        ("HANDLE", code::HANDLE),
        ("READ", code::READ),
        ("NOT_FOUND", code::NOT_FOUND),
        ("OPEN", code::OPEN),
        ("MEMORY", code::MEMORY),
        ("INTERNAL", code::INTERNAL),
        ("BUDGET", code::BUDGET),
    ];
    for (name, value) in codes {
        ours.value(&format!("VGPUX_E_{name}"), value);
    }
    let reasons = [
        ("NONE", reason::NONE),
        ("BUSY", reason::BUSY),
        ("TORN", reason::TORN),
        ("MOVED", reason::MOVED),
        ("NO_FRAME", reason::NO_FRAME),
        ("UNCHANGED", reason::UNCHANGED),
        ("OLDER", reason::OLDER),
        ("BAD_LATEST", reason::BAD_LATEST),
        ("BAD_DESCRIPTOR", reason::BAD_DESCRIPTOR),
        ("TOO_SMALL", reason::TOO_SMALL),
        ("BUSY_HANDLE", reason::BUSY_HANDLE),
        ("SAMPLED", reason::SAMPLED),
        ("OTHER", reason::OTHER),
    ];
    for (name, value) in reasons {
        ours.value(&format!("VGPUX_SKIP_{name}"), value);
    }
    for (name, value) in [("DONE", step::DONE), ("FOUND", step::FOUND), ("PENDING", step::PENDING)] {
        ours.value(&format!("VGPUX_SCAN_{name}"), value);
    }
    let numbers = ["MAJOR", "MINOR", "PATCH"].iter().zip(env!("CARGO_PKG_VERSION").split('.'));
    numbers.for_each(|(part, number)| ours.value(&format!("VGPUX_VERSION_{part}"), number.parse::<u32>().unwrap()));
    ours.value("VGPUX_VERSION", VERSION);
    ours.value("VGPUX_STORAGE_ALIGN", STORAGE_ALIGN);
    ours.value("VGPUX_MEM_STORAGE_BYTES", Mem::STORAGE);
    ours.value("VGPUX_WIN32_STORAGE_BYTES", Win32::STORAGE);
    ours.value("VGPUX_REGION_STORAGE_BYTES", RegionState::STORAGE);
    ours.value("VGPUX_SCAN_STORAGE_BYTES", Scan::STORAGE);
    ours.value("VGPUX_MEM_SEGMENTS", SEGMENTS);
    ours.value("VGPUX_SCRATCH_MIN_BYTES", Scratch::MIN);
    ours.value("VGPUX_SCRATCH_BYTES(5368709120ull)", scratch_bytes(5 << 30));
}

#[test]
fn the_headers_and_the_library_agree() {
    let mut ours = Ours::default();
    wire(&mut ours);
    surface(&mut ours);
    let theirs = said_by_headers();
    for (name, value) in &theirs {
        assert_eq!(ours.0.get(name), Some(value), "{name}: the library, then the header");
    }
    assert_eq!(ours.0.len(), theirs.len(), "the C program prints everything: {:?}", ours.0.keys());
}

/// Every constant and member of the headers is in the C program, so none can be forgotten above.
#[test]
fn the_c_program_prints_all_of_the_headers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = std::fs::read_to_string(root.join("tests/c/layout.c")).unwrap();
    let mut constants = 0;
    for header in ["vgpu_stream.h", "memmodel.h", "win32.h", "vgpu_perception.h", "vgpu_perception_ext.h"] {
        let text = std::fs::read_to_string(root.join("include").join(header)).unwrap();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("#define ") else { continue };
            let name = rest.split([' ', '(']).next().unwrap();
            if name.ends_with("_H") || name == "VGPU_LAYOUT" {
                continue;
            }
            constants += 1;
            let printed = program.contains(&format!("({name})")) || program.contains(&format!("({name}("));
            assert!(printed, "{header}: {name} is not in layout.c");
        }
    }
    assert!(constants > 60, "{constants}");
}
