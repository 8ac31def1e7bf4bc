//! One operation again and again, for a simulator that counts instructions: see `benches/count`. A program of its own,
//! since it needs no peers, which take most of the time to build.
#![deny(unsafe_code)]

use core::hint::black_box;

use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::{CopyHint, CopyMethod, CopyPolicy, Gpa, NextUse, PageWalker, PhysRead, PhysRun};
use vgpu_perception_mapped::copy_methods;

mod builder;
mod small_guest;
mod writer;

use small_guest::SmallGuest;

/// A guest, and what its reader keeps.
struct Reader {
    guest: SmallGuest,
    scratch: FrameScratch,
    buffer: Vec<u8>,
    skip: usize,
}

/// Bytes of a copy, and of the frame's buffer.
const BYTES: usize = 128 << 10;

// Each operation in a function of its own, as it would be in a program: what stands around it does not matter then.
impl Reader {
    fn new() -> Self {
        let buffer = vec![0_u8; BYTES + 4096];
        let skip = buffer.as_ptr().align_offset(4096);
        Self { guest: SmallGuest::build(0, 32, 32), scratch: FrameScratch::new(), buffer, skip }
    }

    #[inline(never)]
    fn translate(&mut self) -> bool {
        let region = &self.guest.region;
        PageWalker::new(&self.guest.ram, *region.space()).translate(region.base()).is_ok()
    }

    #[inline(never)]
    fn cursor(&mut self) -> bool {
        matches!(black_box(&self.guest.region.read_cursor(&self.guest.ram)), Ok(Sample::Fresh(_)))
    }

    #[inline(never)]
    fn geometry(&mut self) -> bool {
        matches!(black_box(&self.guest.region.read_geometry(&self.guest.ram)), Ok(Sample::Fresh(_)))
    }

    #[inline(never)]
    fn status(&mut self) -> bool {
        matches!(black_box(&self.guest.region.read_status(&self.guest.ram)), Ok(Sample::Fresh(_)))
    }

    /// Takes the frame, or finds that it was taken.
    #[inline(never)]
    fn poll(&mut self) -> bool {
        let dst = &mut self.buffer[self.skip..self.skip + BYTES];
        let taken = self.guest.region.sample_frame(&self.guest.ram, &mut self.scratch, dst, NextUse::Unknown);
        matches!(black_box(&taken), Ok(Sample::Fresh(_)))
    }

    #[inline(never)]
    fn copy(&mut self, runs: &[PhysRun], method: CopyMethod) -> bool {
        let dst = &mut self.buffer[self.skip..self.skip + BYTES];
        let hint = CopyHint::new(BYTES as u64, NextUse::Handoff).with_policy(CopyPolicy::Fixed(method));
        self.guest.ram.read_runs(runs, dst, hint).is_ok()
    }
}

/// Does one operation `times` times on a small guest. `copy:METHOD` copies 128 KiB in 32 pages that do not touch.
fn count(operation: &str, times: usize) {
    let mut reader = Reader::new();
    assert!(reader.poll(), "the frame is there");
    let runs: [PhysRun; 32] = core::array::from_fn(|nth| PhysRun { gpa: Gpa::new(nth as u64 * 0x2000), len: 4096 });
    let copy = operation.strip_prefix("copy:").map(|wanted| {
        let known = copy_methods().find(|(_, name)| *name == wanted);
        known.unwrap_or_else(|| panic!("no method {wanted} on this processor")).0
    });
    for _ in 0..times {
        let reader = black_box(&mut reader);
        black_box(match (operation, copy) {
            (_, Some(method)) => reader.copy(&runs, method),
            ("translate", _) => reader.translate(),
            ("cursor", _) => reader.cursor(),
            ("geometry", _) => reader.geometry(),
            ("status", _) => reader.status(),
            ("poll", _) => reader.poll(),
            (other, _) => panic!("no operation {other}: translate, cursor, geometry, status, poll, copy:METHOD"),
        });
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(operation), Some(times)) = (arguments.next(), arguments.next()) else {
        panic!("usage: vgpu-count OPERATION TIMES");
    };
    count(&operation, times.parse().expect("a number of times"));
}
