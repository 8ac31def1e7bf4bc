//! Guests whose process objects have every field of a real revision, each filled by its type: no field is wrong, and
//! none is absent without a reason that `docs/windows.md` names.

use vgpu_perception::process::nt::{DescriptorShape, FieldName, NtKernel};
use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};

/// How many seeds each list is built with: what the other fields hold, and where everything lies.
const SEEDS: u64 = 8;

fn attach(layout: &Layout, seed: u64, kpti: bool) -> (WindowsGuest, NtKernel) {
    let shape = Shape::ALL[usize::try_from(seed % 4).unwrap()];
    let windows = WindowsGuest::build(layout, shape, Options { seed, kpti, ..Options::default() });
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None)
        .unwrap_or_else(|error| panic!("{} {seed}: {error}", layout.name));
    windows.assert_kernel(&kernel);
    (windows, kernel)
}

#[test]
fn every_field_of_every_list_is_told() {
    let mut guests = 0;
    for layout in Layout::listed() {
        for seed in 0..SEEDS {
            for kpti in [true, false] {
                let (windows, kernel) = attach(layout, seed, kpti);
                let (_, absent) = windows.compare(&kernel.layout);
                // Without page-table isolation no process has a table for user mode to show.
                let reasons: &[FieldName] = if windows.truth.kpti { &[] } else { &[FieldName::UserDirectoryTableBase] };
                assert_eq!(absent, reasons, "{} {seed} {kpti}", layout.name);
                guests += 1;
            }
        }
    }
    assert_eq!(guests, 26 * 2 * SEEDS);
}

/// Server 2003 makes the System process before its clock runs.
#[test]
fn a_system_process_without_a_date_does_not_hide_the_others() {
    for layout in Layout::listed() {
        let (windows, _) = attach(layout, 3, true);
        windows.set(&windows.truth.processes[0], layout.create_time, 8, 0);
        let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
        let (wrong, absent) = windows.compare(&kernel.layout);
        assert!(wrong.is_empty(), "{}: {wrong:?}", layout.name);
        assert!(!absent.contains(&FieldName::CreateTime) && !absent.contains(&FieldName::ExitTime), "{}", layout.name);
    }
}

#[test]
fn the_shape_of_the_tree_is_told_with_its_place() {
    for (version, shape) in [(5, DescriptorShape::Windows7), (10, DescriptorShape::Windows81)] {
        for layout in Layout::listed().iter().filter(|layout| layout.major == version) {
            let (_, kernel) = attach(layout, 1, true);
            assert_eq!(kernel.layout.descriptors.map(|(_, shape)| shape), Some(shape), "{}", layout.name);
        }
    }
}
