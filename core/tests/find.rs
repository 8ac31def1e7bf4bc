//! The front door of the core: one search from nothing to ranked candidates, resumable at any point.

use vgpu_perception::find::{FindError, FindPhase, Finder, Rank, Verdict, Workspace, WorkspaceSize};
use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::process::roots::RootCandidate;
use vgpu_perception::region::{Reader, Sample};
use vgpu_perception::scan::Candidate;
use vgpu_perception::{Budget, Cr3, Gpa, PhysRead, Process, Step};
use vgpu_perception_testkit::windows::{Layout, Options, Shape, WindowsGuest};
use vgpu_perception_testkit::{LinuxOptions, Ram, StandardLinux, standard_linux};

type Buffers = Workspace<Vec<RootCandidate>, Vec<Process<GuestPaging>>, Vec<u64>>;

fn workspace() -> Buffers {
    let size = WorkspaceSize::for_ram(Gpa::new(8 << 30));
    assert!(size.bytes() < 2 << 20, "{} bytes for 8 GiB", size.bytes());
    Workspace::new(
        vec![RootCandidate::default(); size.roots],
        vec![Process::default(); size.processes],
        vec![0; size.page_bitmap],
    )
}

fn all(ram: &impl PhysRead, mut finder: Finder<'_>, budget: u64) -> Result<Vec<Candidate<GuestPaging>>, FindError> {
    let mut found = Vec::new();
    loop {
        match finder.step(ram, &mut Budget::new(budget))? {
            Step::Found(candidate) => found.push(candidate),
            Step::Pending => {}
            Step::Done => {
                assert_eq!(finder.progress().phase, FindPhase::End);
                assert_eq!(finder.stats().candidates, found.len() as u64);
                return Ok(found);
            }
        }
    }
}

fn places(found: &[Candidate<GuestPaging>]) -> Vec<(Cr3, u64)> {
    found.iter().map(|one| (one.process.space.root, one.base.get())).collect()
}

fn linux() -> StandardLinux {
    standard_linux(LinuxOptions::default())
}

#[test]
fn small_steps_find_what_one_large_step_finds() {
    let linux = linux();
    let ram = &linux.guest.ram;
    let mut workspace = workspace();
    let at_once = all(ram, Finder::new(&mut workspace), u64::MAX).unwrap();
    assert!(at_once.iter().any(|one| one.base == linux.region.base), "the region is among them");
    // The same workspace again: what it held before means nothing.
    let in_steps = all(ram, Finder::new(&mut workspace), 100).unwrap();
    assert_eq!(places(&at_once), places(&in_steps));
}

#[test]
fn a_kernel_that_was_found_saves_the_search() {
    let linux = linux();
    let ram = &linux.guest.ram;
    let mut workspace = workspace();
    let mut finder = Finder::new(&mut workspace);
    assert_eq!(finder.found_kernel(), None);
    while !finder.step_kernel(ram, &mut Budget::new(1000)).unwrap() {}
    let kernel = *finder.found_kernel().unwrap();
    assert!(matches!(kernel, GuestKernel::Roots(_)) && finder.not_windows().is_some());
    let again = all(ram, Finder::new(&mut workspace).kernel(kernel), u64::MAX).unwrap();
    assert!(again.iter().any(|one| one.base == linux.region.base));
}

#[test]
fn a_root_that_cannot_serve_is_an_error_and_a_hint_is_not() {
    let linux = linux();
    let ram = &linux.guest.ram;
    let mut workspace = workspace();
    let nowhere = Cr3::new(1 << 45);
    let error = all(ram, Finder::new(&mut workspace).root(nowhere), u64::MAX).unwrap_err();
    assert!(matches!(error, FindError::Root(_)), "{error:?}");
    assert!(error.to_string().contains(&nowhere.to_string()), "{error}");
    let found = all(ram, Finder::new(&mut workspace).hint(nowhere), u64::MAX).unwrap();
    assert!(found.iter().any(|one| one.base == linux.region.base));
}

/// QEMU says what a processor had loaded: in user mode under page-table isolation that leads to no kernel.
#[test]
fn a_root_of_user_mode_is_not_all_there_is() {
    let guest = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let user = Cr3::new(guest.truth.processes[guest.truth.producer].user_table_field);
    let mut workspace = workspace();
    let mut kernel_of = |finder: fn(Finder<'_>, Cr3) -> Finder<'_>| {
        let mut finder = finder(Finder::new(&mut workspace), user);
        while !finder.step_kernel(&guest.ram, &mut Budget::unlimited())? {}
        Ok::<_, FindError>(*finder.found_kernel().unwrap())
    };
    let Ok(GuestKernel::Nt(kernel)) = kernel_of(|finder, root| finder.hint(root)) else {
        panic!("the kernel is found without the root")
    };
    guest.assert_kernel(&kernel);
    // What the user gave is taken as it is.
    assert!(!matches!(kernel_of(|finder, root| finder.root(root)), Ok(GuestKernel::Nt(_))));
}

#[test]
fn ram_without_a_kernel_says_so() {
    let ram = Ram::flat(64 << 20);
    ram.write_u64(Gpa::new(0x5000), 1);
    let error = all(&ram, Finder::new(&mut workspace()), 50).unwrap_err();
    assert_eq!(error, FindError::NoKernel);
}

#[test]
fn candidates_are_ranked_and_read_through_their_own_memory() {
    let linux = linux();
    let ram = &linux.guest.ram;
    let mut workspace = workspace();
    let mut found = all(ram, Finder::new(&mut workspace), u64::MAX).unwrap();
    assert!(found.len() > 1, "the standard guest has a forged region too");
    found.sort_by_key(|one| {
        Rank::of(one, if one.base == linux.region.base { Verdict::Alive } else { Verdict::Unknown })
    });
    assert_eq!(found[0].base, linux.region.base);
    let mut reader = Reader::new(ram, found[0].region());
    let mut picture = vec![0; 64 * 48 * 4];
    let Ok(Sample::Fresh(frame)) = reader.frame(&mut picture) else { panic!("a frame") };
    assert_eq!(&picture[..frame.bytes], linux.region.image.pixels(frame.desc.frame_id));
    assert!(matches!(reader.frame(&mut picture), Ok(Sample::Skip(_))), "each frame once");
    reader.forget_frames();
    assert!(matches!(reader.frame(&mut picture), Ok(Sample::Fresh(_))));
    assert!(reader.cursor().unwrap().fresh().is_some() && reader.geometry().unwrap().fresh().is_some());
}
