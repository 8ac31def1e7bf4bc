//! A Windows guest of which nothing is known but its RAM: the kernel, and the layout of its process objects.

use core::cell::Cell;

use vgpu_perception::process::nt::{FieldName, KernelPulse, KernelSearch, NtError, NtKernel, RootOrigin};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception::{Budget, Cr3, Extent, Gpa, PagingMode, PhysError, PhysRead, Step};
use vgpu_perception_testkit::Ram;
use vgpu_perception_testkit::linux::{LinuxOptions, standard_linux};
use vgpu_perception_testkit::windows::{
    LAYOUTS, LOADER_TABLE, Layout, Options, RootPlace, Shape, StartBlock, WindowsGuest,
};

/// Searches in small steps.
fn search<M: PhysRead>(ram: &M) -> Result<NtKernel, Option<NtError>> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut search = KernelSearch::new(None, &mut scratch);
    loop {
        match search.step(ram, &mut Budget::new(1 << 16)).unwrap() {
            Step::Found(kernel) => {
                assert_eq!(search.step(ram, &mut Budget::unlimited()), Ok(Step::Done), "one is enough");
                return Ok(kernel);
            }
            Step::Pending => {}
            Step::Done => return Err(search.failure()),
        }
    }
}

fn find(windows: &WindowsGuest) -> NtKernel {
    search(&windows.ram).unwrap_or_else(|error| panic!("{}: {error:?}", windows.truth.layout.name))
}

/// The fields that this guest lets nobody prove.
fn unprovable(windows: &WindowsGuest) -> Vec<FieldName> {
    if windows.truth.kpti { Vec::new() } else { vec![FieldName::UserDirectoryTableBase] }
}

fn assert_whole(windows: &WindowsGuest, kernel: &NtKernel) {
    windows.assert_kernel(kernel);
    let (_, absent) = windows.compare(&kernel.layout);
    assert_eq!(absent, unprovable(windows), "{}", windows.truth.layout.name);
}

#[test]
fn every_layout_is_told_in_every_shape() {
    for layout in LAYOUTS {
        for shape in Shape::ALL {
            for kpti in [true, false] {
                let windows = WindowsGuest::build(layout, shape, Options { kpti, ..Options::default() });
                let kernel = find(&windows);
                assert_whole(&windows, &kernel);
                assert_eq!(kernel.origin, RootOrigin::StartBlock, "{}", layout.name);
                let version = kernel.version.unwrap();
                assert_eq!((version.major, version.minor), (layout.major, layout.minor));
                assert_eq!(version.build, layout.shares_build().then_some(layout.build));
                kernel.revalidate(&windows.ram).unwrap();
            }
        }
    }
}

/// Offsets that no build has: told from structure, or not at all.
#[test]
fn layouts_that_are_in_no_table_are_told_too() {
    for seed in 0..150 {
        let layout = Layout::random(seed);
        let shape = Shape::ALL[usize::try_from(seed % 3).unwrap()];
        let windows = WindowsGuest::build(&layout, shape, Options { seed, kpti: seed % 5 != 0, ..Options::default() });
        assert_whole(&windows, &find(&windows));
    }
}

#[test]
fn a_kernel_is_found_by_whatever_there_is() {
    let rows = [
        (StartBlock::System, RootPlace::Low, RootOrigin::StartBlock),
        // The loader's tables lead to the System process, whose own are then taken.
        (StartBlock::Loader, RootPlace::Middle, RootOrigin::StartBlock),
        (StartBlock::StaleLoader, RootPlace::Low, RootOrigin::SelfMap),
        (StartBlock::StaleLoader, RootPlace::High, RootOrigin::SelfMap),
        (StartBlock::Missing, RootPlace::Low, RootOrigin::SelfMap),
        (StartBlock::Missing, RootPlace::Middle, RootOrigin::SelfMap),
        (StartBlock::Missing, RootPlace::High, RootOrigin::SelfMap),
    ];
    for name in ["7 SP1", "8.1", "10 1809", "11 24H2"] {
        for shape in Shape::ALL {
            for (start_block, root, origin) in rows {
                let options = Options { start_block, root, ..Options::default() };
                let windows = WindowsGuest::build(&Layout::named(name), shape, options);
                let kernel = find(&windows);
                assert_whole(&windows, &kernel);
                assert_eq!(kernel.origin, origin, "{name} {shape:?} {start_block:?} {root:?}");
            }
        }
    }
}

/// Tables that do not name themselves, as a hypervisor could keep them from doing: only what they share is left.
#[test]
fn without_self_references_the_shared_half_leads_there() {
    for shape in Shape::ALL {
        let options = Options { start_block: StartBlock::Missing, kpti: false, ..Options::default() };
        let windows = WindowsGuest::build(&Layout::named("10 2004"), shape, options);
        let slot = 8 * windows.truth.self_map;
        let roots = windows.truth.processes.iter().map(|process| process.space.root);
        for root in roots.chain([LOADER_TABLE]) {
            windows.ram.write_u64(root.wrapping_add(slot), 0);
        }
        let kernel = find(&windows);
        windows.assert_kernel(&kernel);
        assert_eq!(kernel.origin, RootOrigin::Roots);
        assert_eq!(windows.compare(&kernel.layout).1, [FieldName::UserDirectoryTableBase]);
    }
}

#[test]
fn any_process_root_leads_to_the_kernel() {
    for (layout, shape) in LAYOUTS.iter().zip(Shape::ALL.iter().cycle()) {
        let windows = WindowsGuest::build(layout, *shape, Options::default());
        for process in windows.truth.processes.iter().step_by(5) {
            let context = Cr3::new(process.space.root.get() | 0x8000_0000_0000_0002);
            for mode in [None, Some(windows.truth.mode)] {
                let kernel = NtKernel::attach(&windows.ram, context, mode).unwrap();
                assert_whole(&windows, &kernel);
                assert_eq!((kernel.origin, kernel.found), (RootOrigin::Given, context));
            }
        }
    }
}

#[test]
fn roots_that_lead_nowhere_say_why() {
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let attach = |root| NtKernel::attach(&windows.ram, root, None);
    let producer = &windows.truth.processes[windows.truth.producer];
    let user = Cr3::new(producer.user_table_field);
    assert_eq!(attach(user), Err(NtError::NoSharedData { root: user }));
    let hole = Cr3::new(0x00f0_0000_0000);
    assert_eq!(attach(hole), Err(NtError::NoSharedData { root: hole }));
    // Read with one level too many.
    let root = windows.truth.kcr3;
    let five = NtKernel::attach(&windows.ram, root, Some(PagingMode::FiveLevel));
    assert_eq!(five, Err(NtError::NoSharedData { root }));

    let image = windows.truth.nt_base;
    windows.write_kernel(windows.truth.initial_system_process, &0x1234_u64.to_le_bytes());
    assert_eq!(attach(root), Err(NtError::NoSystem { variable: windows.truth.initial_system_process }));
    windows.write_kernel(image.wrapping_add(0x3c), &0x900_u32.to_le_bytes());
    assert_eq!(attach(root), Err(NtError::NoImage { root }));
}

#[test]
fn a_kernel_that_was_kept_is_told_from_another() {
    let windows = WindowsGuest::build(&Layout::named("11 22H2"), Shape::FourLevel, Options::default());
    let kernel = find(&windows);
    kernel.revalidate(&windows.ram).unwrap();
    let system = &windows.truth.processes[0];
    let layout = &windows.truth.layout;
    let rows = [
        (layout.pid, 8, 8, NtError::Changed { field: FieldName::UniqueProcessId }),
        (layout.directory_table_base, 8, 0x5000, NtError::Changed { field: FieldName::DirectoryTableBase }),
        (layout.links, 8, system.eprocess.get(), NtError::Changed { field: FieldName::ActiveProcessLinks }),
        (4, 4, 1, NtError::NotAProcess { at: system.eprocess }),
        (0, 1, 5, NtError::NotAProcess { at: system.eprocess }),
    ];
    for (offset, bytes, value, error) in rows {
        let at = windows.field(system, offset & !7);
        let before = windows.ram.load_u64(at).unwrap();
        windows.set(system, offset, bytes, value);
        assert_eq!(kernel.revalidate(&windows.ram), Err(error));
        windows.ram.write_u64(at, before);
    }
    let other =
        WindowsGuest::build(&Layout::named("11 22H2"), Shape::FourLevel, Options { seed: 9, ..Options::default() });
    kernel.revalidate(&other.ram).unwrap_err();
}

/// A warm reboot leaves the kernel of the boot before in RAM, whole: what moves tells them apart.
#[test]
fn the_kernel_that_runs_is_told_from_the_one_before() {
    let clock = 7;
    for (name, shape) in [("10 1809", Shape::FourLevel), ("11 24H2", Shape::FiveLevel)] {
        for start_block in [StartBlock::System, StartBlock::Missing] {
            let before = WindowsGuest::build(&Layout::named(name), shape, Options::default());
            let found_then = find(&before);
            before.tick(clock);
            assert_eq!(found_then.revalidate(&before.ram), Ok(KernelPulse::Moved));
            let options = Options { seed: 5, root: RootPlace::Middle, start_block, ..Options::default() };
            let now = before.reboot(&Layout::named(name), shape, options);
            assert_ne!(now.truth.kcr3.table(), before.truth.kcr3.table());
            // The old one is still there, and stands still.
            let kept = NtKernel::attach(&now.ram, before.truth.kcr3, None).unwrap();
            assert_eq!(kept.system, before.truth.processes[0].eprocess);
            // Each look of a search at memory lets the running kernel's clock go on.
            let ticking = Ticking { ram: &now.ram, windows: &now, loads: Cell::new(0) };
            let kernel = search(&ticking).unwrap();
            assert_eq!(kernel.root.table(), now.truth.kcr3.table(), "{name} {start_block:?}");
            assert_eq!(kernel.revalidate(&now.ram), Ok(KernelPulse::Moved));
            assert_eq!(kept.revalidate(&now.ram), Ok(KernelPulse::Still));
            // Where nothing moves, one of them is given all the same.
            search(&now.ram).unwrap();
        }
    }
}

#[test]
fn a_clock_that_went_back_is_another_boot() {
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let kernel = find(&windows);
    assert_eq!(kernel.revalidate(&windows.ram), Ok(KernelPulse::Still));
    let before = kernel.interrupt_time.unwrap();
    windows.tick(-1);
    assert_eq!(kernel.revalidate(&windows.ram), Err(NtError::Earlier { before, now: before - 1 }));
}

/// A kernel that is kept for long may have ended since: what counts is what moved since the last look.
#[test]
fn a_second_look_compares_with_the_first() {
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let mut kernel = find(&windows);
    windows.tick(5);
    assert_eq!(kernel.look_again(&windows.ram), Ok(KernelPulse::Moved));
    assert_eq!(kernel.look_again(&windows.ram), Ok(KernelPulse::Still));
    assert_eq!(kernel.revalidate(&windows.ram), Ok(KernelPulse::Still));
    windows.tick(-1);
    kernel.look_again(&windows.ram).unwrap_err();
    windows.tick(2);
    assert_eq!(kernel.look_again(&windows.ram), Ok(KernelPulse::Moved));
}

/// Memory in which a guest's clock goes on with every thousandth load.
struct Ticking<'w> {
    ram: &'w Ram,
    windows: &'w WindowsGuest,
    loads: Cell<u64>,
}

impl PhysRead for Ticking<'_> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.ram.read(gpa, dst)
    }
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.ram.load_u32(gpa)
    }
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.loads.set(self.loads.get() + 1);
        if self.loads.get().is_multiple_of(1000) {
            self.windows.tick(156_250);
        }
        self.ram.load_u64(gpa)
    }
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.ram.next_extent(from)
    }
}

#[test]
fn a_guest_that_is_not_windows_has_no_kernel() {
    let linux = standard_linux(LinuxOptions::default());
    assert!(matches!(search(&linux.guest.ram), Err(None | Some(NtError::NoSharedData { .. }))));
}
