//! A process of the guest forges 200 regions: the live one is bound within one round, by the seed's flow.

mod common;

use common::{Dir, LiveGuest, command, program, run, shared_library};
use vgpu_perception::Gva;
use vgpu_perception_testkit::linux::{LinuxOptions, REGION_BASE, standard_linux};
use vgpu_perception_testkit::{Placement, Region, RegionImage, Ring};

#[test]
fn the_live_region_is_bound_within_one_round() {
    let dir = Dir::new("forge");
    shared_library(&dir);
    let program = program(&dir, "tests/c/forge.c");
    // Physical memory for all of their rings, which nobody ever touches.
    let mut linux = standard_linux(LinuxOptions { ram: 32 << 30, ring: Ring::Absent, ..LinuxOptions::default() });
    let forger = linux.forged.space;
    for n in 1..=200 {
        let base = Gva::new(REGION_BASE.get() - (n << 28));
        let image = RegionImage { heartbeat: 7, ..RegionImage::default() };
        Region::place(&mut linux.guest, forger, base, image, Placement::Scattered, Ring::Absent);
    }
    let guest = LiveGuest::of(&dir, linux);
    let output = run(&mut command(&program, guest.test_args()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("bound in turn ") && text.contains(" of 202"), "{text}");
    print!("{text}");
}
