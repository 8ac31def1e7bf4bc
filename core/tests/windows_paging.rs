//! Pages that Windows trimmed: found where they still are in RAM, and told apart from those that are gone.

use std::collections::HashSet;

use vgpu_perception::paging::Residence;
use vgpu_perception::process::nt::{NtKernel, NtPaging, RootBy};
use vgpu_perception::region::{FrameScratch, Sample};
use vgpu_perception::scan::ScanScratch;
use vgpu_perception::{
    Budget, Discovery, Gpa, NextUse, PAGE_BYTES, PageWalker, PhysRead, Process, ProcessSource, Step, WalkError,
    WalkErrorKind, abi,
};
use vgpu_perception_testkit::region::RegionImage;
use vgpu_perception_testkit::windows::{
    EntryState, LAYOUTS, Layout, Options, PageState, PrivateState, PrototypeState, Shape, Trim, TruthProcess,
    WindowsGuest,
};

/// Frames of several pages, so that pages of every state are among them.
fn options() -> Options {
    let image = RegionImage { width: 160, height: 120, ..RegionImage::default() };
    Options { image, ..Options::default() }
}

fn build(layout: &Layout, shape: Shape, options: Options) -> (WindowsGuest, NtKernel) {
    let windows = WindowsGuest::build(layout, shape, options);
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
    (windows, kernel)
}

fn process(windows: &WindowsGuest, kernel: &NtKernel, truth: &TruthProcess) -> Process<NtPaging> {
    let mut source = kernel.processes();
    loop {
        match source.next_process(&windows.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(process) if process.eprocess == Some(truth.eprocess) => return process,
            Step::Found(_) | Step::Pending => {}
            Step::Done => panic!("{} is not on the list", truth.name),
        }
    }
}

fn producer(windows: &WindowsGuest, kernel: &NtKernel) -> Process<NtPaging> {
    process(windows, kernel, &windows.truth.processes[windows.truth.producer])
}

/// Every page of the region, against the truth.
fn assert_region(windows: &WindowsGuest, space: &Process<NtPaging>) {
    let layout = windows.truth.layout.name;
    let shared = &windows.truth.shared;
    let walker = PageWalker::new(&windows.ram, space.space);
    let mut touched = shared.pages.iter().peekable();
    for index in 0..abi::REGION_BYTES / PAGE_BYTES {
        let gva = shared.region.base.wrapping_add(index * PAGE_BYTES);
        let found = walker.translate(gva);
        let Some(page) = touched.next_if(|page| page.index == index) else {
            let missing = matches!(
                found,
                Err(WalkError { kind: WalkErrorKind::NotMapped { .. } | WalkErrorKind::NotResident { .. }, .. })
            );
            assert!(missing, "{layout} page {index}: {found:?}");
            continue;
        };
        let Some(frame) = page.frame else {
            assert!(
                matches!(found, Err(WalkError { kind: WalkErrorKind::NotResident { .. }, .. })),
                "{layout} page {page:?}: {found:?}"
            );
            continue;
        };
        let found = found.unwrap_or_else(|error| panic!("{layout} {page:?}: {error}"));
        assert_eq!(found.gpa, frame, "{layout} {page:?}");
        let table_gone = shared.trimmed_table.is_some_and(|start| gva >= start && gva < start.wrapping_add(2 << 20));
        let present = matches!(page.state.entry, EntryState::Dirty | EntryState::Clean) && !table_gone;
        assert_eq!(found.residence == Residence::Present, present, "{layout} {page:?}");
        assert!(found.rights.user);
    }
}

#[test]
fn every_page_is_found_through_every_state() {
    let mut states = HashSet::new();
    for (n, layout) in LAYOUTS.iter().enumerate() {
        for (shape, l1tf) in [(Shape::FourLevel, true), (Shape::FiveLevel, n % 2 == 0), (Shape::SmallPages, false)] {
            let options = Options { l1tf, trim_table: n % 3 != 2, trim_pool: n % 2 == 1, ..options() };
            let (windows, kernel) = build(layout, shape, options);
            let space = producer(&windows, &kernel);
            assert!(space.space.resolver.knows_descriptors(), "{}", layout.name);
            assert_region(&windows, &space);
            states.extend(windows.truth.shared.pages.iter().map(|page| format!("{:?}", page.state)));
        }
    }
    assert_eq!(states.len(), 8, "{states:?}");
}

#[test]
fn sections_of_many_pieces_are_followed() {
    for (name, per_subsection) in [("7 SP1", 512), ("8", 1000), ("8.1", 333), ("10 2004", 129), ("11 24H2", 4096)] {
        let options = Options { per_subsection, trim_table: true, ..options() };
        let (windows, kernel) = build(&Layout::named(name), Shape::FourLevel, options);
        assert_region(&windows, &producer(&windows, &kernel));
    }
}

/// Written out: not resident. Never made: not resident. Nothing of it is taken for another page.
#[test]
fn pages_that_are_gone_are_not_resident() {
    fn gone(index: u64) -> PageState {
        let prototype = match index % 3 {
            0 => PrototypeState::PageFile,
            1 => PrototypeState::DemandZero,
            _ => PrototypeState::Transition,
        };
        let entry = match index % 5 {
            0 => EntryState::Direct,
            1 => EntryState::ConsultVad,
            _ => EntryState::Untouched,
        };
        if index == 0 { PageState::PRESENT } else { PageState { entry, prototype } }
    }
    for name in ["Vista SP2", "7 SP1", "8.1", "10 1809", "11 24H2"] {
        for l1tf in [true, false] {
            let options = Options { trim: Trim::With(gone), l1tf, ..options() };
            let (windows, kernel) = build(&Layout::named(name), Shape::FourLevel, options);
            assert_region(&windows, &producer(&windows, &kernel));
        }
    }
}

#[test]
fn private_pages_are_told_apart() {
    for layout in LAYOUTS {
        let (windows, kernel) = build(layout, Shape::FourLevel, options());
        for truth in windows.truth.processes.iter().filter(|one| one.is_alive() && !one.trimmed.is_empty()) {
            let space = process(&windows, &kernel, truth);
            let walker = PageWalker::new(&windows.ram, space.space);
            for (gva, state) in &truth.trimmed {
                let found = walker.translate(*gva);
                match state {
                    PrivateState::Transition(frame) => {
                        let found = found.unwrap();
                        assert_eq!((found.gpa, found.residence), (*frame, Residence::Trimmed), "{}", layout.name);
                        assert!(found.rights.user && found.rights.writable);
                    }
                    PrivateState::DemandZero | PrivateState::PageFile => {
                        assert!(
                            matches!(found, Err(WalkError { kind: WalkErrorKind::NotResident { .. }, .. })),
                            "{}: {found:?}",
                            layout.name
                        );
                    }
                }
            }
            // Between its ranges there is nothing.
            let nowhere = walker.translate(truth.section_base.wrapping_add(0x7000_0000));
            assert!(matches!(nowhere, Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. })), "{nowhere:?}");
        }
    }
}

/// The whole way: nothing is known but the list, the producer is among the processes, and pages of the frame are
/// trimmed.
#[test]
fn the_region_is_found_and_read_from_a_trimmed_process() {
    for (layout, shape) in LAYOUTS.iter().zip(Shape::ALL.iter().cycle()) {
        let (windows, kernel) = build(layout, *shape, Options { trim_table: true, ..options() });
        let mut processes = vec![Process::default(); 64];
        let mut frames = vec![0; ScanScratch::<()>::page_bitmap_words(Gpa::new(6 << 30)) as usize];
        let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
        let mut scan = Discovery::new(kernel.processes(), scratch);
        let truth = &windows.truth;
        let mut found = Vec::new();
        loop {
            match scan.step(&windows.ram, &mut Budget::new(1 << 16)).unwrap() {
                Step::Found(one) => found.push(one),
                Step::Pending => {}
                Step::Done => break,
            }
        }
        let pids: Vec<_> = found.iter().map(|one| one.process.pid).collect();
        let agent = &truth.processes[truth.producer];
        let one = found.iter().find(|one| one.process.pid == Some(agent.pid));
        let one = one.unwrap_or_else(|| panic!("{}: {pids:?}, {:?}", layout.name, scan.stats()));
        // Only the producer's and the forger's map such pages for writing.
        assert_eq!(found.len(), 2, "{}: {pids:?}", layout.name);
        assert_eq!(one.base, truth.shared.region.base);
        let mut dst = vec![0; 1 << 17];
        let sample = one.region().sample_frame(&windows.ram, &mut FrameScratch::new(), &mut dst, NextUse::Unknown);
        let Ok(Sample::Fresh(info)) = sample else { panic!("{}: {sample:?}", layout.name) };
        assert_eq!(dst[..info.bytes], truth.shared.region.image.pixels(info.desc.frame_id));
    }
}

/// A region handle outlives its process: what the descriptors of the next one say is not taken for it.
#[test]
fn a_process_object_that_was_reused_is_noticed() {
    let (windows, kernel) = build(&Layout::named("10 2004"), Shape::FourLevel, options());
    let space = producer(&windows, &kernel);
    let shared = &windows.truth.shared;
    let walker = PageWalker::new(&windows.ram, space.space);
    let untouched = shared.pages.iter().find(|page| page.state.entry == EntryState::Untouched).unwrap();
    let gva = shared.region.base.wrapping_add(untouched.index * PAGE_BYTES);
    assert_eq!(walker.translate(gva).unwrap().gpa, untouched.frame.unwrap());
    let agent = &windows.truth.processes[windows.truth.producer];
    windows.set(agent, windows.truth.layout.directory_table_base, 8, 0x7777_7000);
    assert!(matches!(walker.translate(gva), Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. })));
}

/// Descriptors that contradict themselves lead nowhere, not to another page.
#[test]
fn sections_that_contradict_themselves_are_left_out() {
    let (windows, kernel) = build(&Layout::named("10 2004"), Shape::FourLevel, options());
    let space = producer(&windows, &kernel);
    let shared = &windows.truth.shared;
    let walker = PageWalker::new(&windows.ram, space.space);
    let page = shared.pages.iter().find(|page| page.state.entry == EntryState::ConsultVad).unwrap();
    let gva = shared.region.base.wrapping_add(page.index * PAGE_BYTES);
    let frame = page.frame.unwrap();
    let section = &shared.section;
    let kernel_gpa = |gva| windows.guest.gpa(windows.kernel.space, gva);
    let rows = [
        // The segment names another control area; the subsection is empty; its array starts behind the descriptor's.
        (windows.ram.load_u64(kernel_gpa(section.control_area)).unwrap(), 0xffff_ad00_0000_1000),
        (section.subsection.get() + 0x28, 0),
        (section.subsection.get() + 8, section.first_prototype().get() + 0x4000),
    ];
    for (at, value) in rows {
        assert_eq!(walker.translate(gva).unwrap().gpa, frame);
        let at = kernel_gpa(vgpu_perception::Gva::new(at));
        let before = windows.ram.load_u64(at).unwrap();
        windows.ram.write_u64(at, value);
        assert!(
            matches!(walker.translate(gva), Err(WalkError { kind: WalkErrorKind::NotResident { .. }, .. })),
            "{at}"
        );
        windows.ram.write_u64(at, before);
    }
}

/// With the tables for user mode as root, where the field of the process's own holds garbage.
#[test]
fn a_guarded_process_is_read_by_its_user_root() {
    let (windows, kernel) = build(&Layout::named("10 1903"), Shape::FourLevel, options());
    let game = windows.process("game.exe");
    let mut source = kernel.processes();
    let found = loop {
        match source.step(&windows.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(found) if found.process.eprocess == Some(game.eprocess) => break found,
            Step::Found(_) | Step::Pending => {}
            Step::Done => panic!("the process is on the list"),
        }
    };
    assert_eq!(found.root, RootBy::UserField);
    let mut bytes = [0; 8];
    PageWalker::new(&windows.ram, found.process.space).read(game.peb.wrapping_add(0x10), &mut bytes).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), game.section_base.get());
}
