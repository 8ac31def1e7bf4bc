//! One operation again and again, for a simulator that counts instructions: see `benches/count`.

use core::hint::black_box;

use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::{CopyHint, CopyPolicy, Gpa, NextUse, PageWalker, PhysRead, PhysRun};
use vgpu_perception_mapped::copy_methods;

use crate::image::SmallGuest;

/// Does one operation `times` times on a small guest. `copy:METHOD` copies 128 KiB in 32 pages that do not touch.
pub(crate) fn count(operation: &str, times: usize) {
    let mut guest = SmallGuest::build(0, 32, 32);
    let mut scratch = FrameScratch::new();
    let mut dst = vec![0_u8; (128 << 10) + 4096];
    let skip = dst.as_ptr().align_offset(4096);
    let dst = &mut dst[skip..skip + (128 << 10)];
    let taken = guest.region.sample_frame(&guest.ram, &mut scratch, dst, NextUse::Unknown);
    assert!(matches!(taken, Ok(Sample::Fresh(_))), "the frame is there");
    let walker = PageWalker::new(&guest.ram, *guest.region.space());
    let base = guest.region.base();
    let runs: [PhysRun; 32] = core::array::from_fn(|nth| PhysRun { gpa: Gpa::new(nth as u64 * 0x2000), len: 4096 });
    let copy = operation.strip_prefix("copy:").map(|wanted| {
        let known = copy_methods().find(|(_, name)| *name == wanted);
        let (method, _) = known.unwrap_or_else(|| panic!("no method {wanted} on this processor"));
        CopyHint::new(128 << 10, NextUse::Handoff).with_policy(CopyPolicy::Fixed(method))
    });
    for _ in 0..times {
        match (operation, copy) {
            (_, Some(hint)) => black_box(&guest.ram).read_runs(&runs, black_box(&mut *dst), hint).expect("RAM"),
            ("translate", _) => {
                let _ = black_box(walker.translate(black_box(base)));
            }
            ("cursor", _) => {
                black_box(&guest.region.read_cursor(black_box(&guest.ram)));
            }
            ("geometry", _) => {
                black_box(&guest.region.read_geometry(black_box(&guest.ram)));
            }
            ("status", _) => {
                black_box(&guest.region.read_status(black_box(&guest.ram)));
            }
            ("poll", _) => {
                black_box(&guest.region.sample_frame(&guest.ram, &mut scratch, dst, NextUse::Unknown));
            }
            (other, _) => panic!("no operation {other}: translate, cursor, geometry, status, poll, copy:METHOD"),
        }
    }
}
