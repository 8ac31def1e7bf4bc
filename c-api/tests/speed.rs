//! What the boundary costs: the same read from Rust, and from a C program through the shared library. Prints, asserts
//! no time.
//!
//! `cargo test --release -p vgpu-perception-capi --test speed -- --ignored --nocapture`

mod common;

use core::hint::black_box;
use std::time::Instant;

use common::{Dir, LiveGuest, command, compile_as, link_library, optimised, root, run};
use vgpu_perception::region::{Region, Sample};
use vgpu_perception::{AddressSpace, Cr3, Gpa};
use vgpu_perception_mapped::{GuestRam, Segment, SegmentMap};
use vgpu_perception_testkit::linux::LinuxOptions;

const CALLS: u32 = 2_000_000;

#[test]
#[ignore = "it measures, and wants a machine with nothing else to do"]
fn a_cursor_from_rust_and_from_c() {
    let dir = Dir::new("speed");
    let guest = LiveGuest::new(&dir, LinuxOptions::default());
    let segment = |segment: &vgpu_perception_testkit::FileSegment| Segment {
        gpa: Gpa::new(segment.gpa.get()),
        len: segment.len,
        file: 0,
        offset: segment.offset,
    };
    let ram = GuestRam::open(&guest.path, SegmentMap::new(guest.segments.iter().map(segment)).unwrap()).unwrap();
    let place = &guest.linux.region;
    let space = AddressSpace::new(Cr3::new(place.space.root.get())).with_mode(place.space.mode);
    let mut region: Region = Region::new(space, place.base);
    let mut rust: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                // The whole snapshot is wanted, as C gets it: else the compiler leaves most of the call out.
                let read = black_box(black_box(&mut region).read_cursor(black_box(&ram)));
                assert!(matches!(read, Ok(Sample::Fresh(_))));
            }
            start.elapsed().as_secs_f64() / f64::from(CALLS) * 1e9
        })
        .collect();
    rust.sort_by(f64::total_cmp);
    println!("figure: vgpup_read_cursor from Rust: {:.2} ns, least {:.2}", rust[4], rust[0]);

    link_library(&dir, optimised());
    let program = compile_as(&dir, &root().join("tests/c/speed.c"), &["-O2"]);
    let args = guest.test_args();
    let mut order = vec![args[0].clone(), args[2].clone(), args[3].clone(), args[1].clone()];
    order.extend_from_slice(&args[5..]);
    let output = run(&mut command(&program, order));
    println!("figure: vgpup_read_cursor from C: {}", String::from_utf8_lossy(&output.stdout).trim());
}
