//! The Windows guest is what its truth says: looked at with the naive walker, and with the plainest possible readers.

use vgpu_perception::{Gpa, Gva, PhysRead};
use vgpu_perception_testkit::naive;
use vgpu_perception_testkit::windows::{
    EntryState, Kind, LAYOUTS, Layout, ListShape, Options, PageState, PrivateState, PrototypeState, PteFormat,
    RootPlace, SHARED_DATA, STILL_ACTIVE, SWIZZLE_MASK, Shape, SharedRegion, StartBlock, Trim, TruthProcess, VadShape,
    WindowsGuest,
};
use vgpu_perception_testkit::{Field, Ram, Space};

fn gpa(ram: &Ram, space: Space, gva: u64) -> Option<Gpa> {
    naive::translate(ram, space.naive(), gva).ok().map(|page| Gpa::new(page.gpa))
}

/// Reads of the kernel half; a kernel page in transition is read as the memory manager would.
struct Kernel<'w>(&'w WindowsGuest);

impl Kernel<'_> {
    fn u64(&self, gva: u64) -> u64 {
        let at = gpa(&self.0.ram, self.0.kernel.space, gva)
            .or_else(|| {
                let entry = leaf_entry(&self.0.ram, self.0.kernel.space, gva)?;
                transition(entry).map(|frame| frame.wrapping_add(gva & 0xfff))
            })
            .unwrap_or_else(|| panic!("{gva:#x} is not mapped"));
        self.0.ram.load_u64(at).unwrap()
    }

    fn u32(&self, gva: u64) -> u32 {
        u32::try_from(self.u64(gva & !7) >> (gva % 8 * 8) & 0xffff_ffff).unwrap()
    }

    fn text(&self, gva: u64, most: usize) -> String {
        let byte = |at: u64| u8::try_from(self.u64(at & !7) >> (at % 8 * 8) & 0xff).unwrap();
        (0..most as u64).map(|n| byte(gva + n)).take_while(|byte| *byte != 0).map(char::from).collect()
    }
}

/// The last entry of the walk to `gva`, through page tables in transition; `None` where a higher one is zero.
fn leaf_entry(ram: &Ram, space: Space, gva: u64) -> Option<u64> {
    let mut table = space.root;
    for level in (1..=space.naive().levels).rev() {
        let index = gva >> (12 + 9 * (level - 1)) & 0x1ff;
        let entry = ram.load_u64(table.wrapping_add(8 * index)).unwrap();
        if level == 1 {
            return Some(entry);
        }
        table = if entry & 1 == 1 { Gpa::new(entry & 0x000f_ffff_ffff_f000) } else { transition(entry)? };
    }
    None
}

/// The frame of an entry in transition; the bit of the mitigation is no part of any frame here.
fn transition(entry: u64) -> Option<Gpa> {
    (entry & 0xc01 == 0x800).then(|| Gpa::new(entry & 0x000f_ffff_ffff_f000 & !SWIZZLE_MASK))
}

/// Finds an export by going through all names.
fn export(kernel: &Kernel<'_>, base: u64, name: &str) -> Option<u64> {
    assert_eq!(kernel.u64(base) & 0xffff, 0x5a4d);
    let pe = base + u64::from(kernel.u32(base + 0x3c));
    assert_eq!(kernel.u32(pe), 0x4550);
    assert!((0..512).any(|n| kernel.u64(base + 8 * n) == 0x4544_4f43_4c4f_4f50));
    let directory = base + u64::from(kernel.u32(pe + 24 + 112));
    assert_eq!(kernel.text(base + u64::from(kernel.u32(directory + 12)), 40), "ntoskrnl.exe");
    let [functions, names, numbers] = [28, 32, 36].map(|at| base + u64::from(kernel.u32(directory + at)));
    let count = u64::from(kernel.u32(directory + 24));
    let mut sorted = Vec::new();
    let mut found = None;
    for n in 0..count {
        let text = kernel.text(base + u64::from(kernel.u32(names + 4 * n)), 60);
        if text == name {
            let number = kernel.u32((numbers + 2 * n) & !3) >> ((numbers + 2 * n) % 4 * 8) & 0xffff;
            found = Some(base + u64::from(kernel.u32(functions + 4 * u64::from(number))));
        }
        sorted.push(text);
    }
    assert!(sorted.is_sorted() && count > 500);
    found
}

fn check_start_block(windows: &WindowsGuest) {
    let truth = &windows.truth;
    let word = |at: Gpa, offset| windows.ram.load_u64(at.wrapping_add(offset)).unwrap();
    let is_block = |page: &Gpa| {
        word(*page, 0) & 0xffff_ffff_ffff_00ff == 0x0000_0001_0006_00e9
            && word(*page, 0x70) & 0xffff_f800_0000_0003 == 0xffff_f800_0000_0000
            && word(*page, 0xa0) & 0xffff_ff00_0000_0fff == 0
            && word(*page, 0xa0) != 0
    };
    let found: Vec<Gpa> = (1..0x100).map(|n| Gpa::new(n << 12)).filter(is_block).collect();
    assert_eq!(found, truth.start_block.into_iter().collect::<Vec<_>>());
    for block in found {
        let code = word(block, 0x70);
        assert!((truth.nt_base.get()..truth.nt_base.get() + truth.nt_bytes).contains(&code));
        assert_eq!(word(block, 0xa8) >> 12 & 1 == 1, windows.guest.mode.top() as u32 == 5);
        let root = word(block, 0xa0);
        assert_eq!(gpa(&windows.ram, truth.processes[0].space, word(block, 0x78)), Some(Gpa::new(truth.kcr3.get())));
        assert!(naive::translate(&windows.ram, naive_at(windows, root), truth.nt_base.get()).is_ok());
    }
}

fn naive_at(windows: &WindowsGuest, cr3: u64) -> naive::NaiveSpace {
    naive::NaiveSpace { cr3, ..windows.kernel.space.naive() }
}

fn check_process(windows: &WindowsGuest, process: &TruthProcess, kpti: bool) {
    let (kernel, layout, at) = (Kernel(windows), &windows.truth.layout, process.eprocess.get());
    let word = |offset: u32| kernel.u64(at + u64::from(offset));
    let name = process.name;
    assert!(at.is_multiple_of(64));
    assert_eq!(word(0) & 0xff, 3, "{name}");
    assert_eq!(word(0) >> 32, u64::from(process.kind == Kind::Exited), "{name}");
    assert_eq!((word(0x18), word(0x20)), (at + 0x18, at + 0x18), "{name}");
    assert_eq!(kernel.text(at + u64::from(layout.image_name), 15), name);
    assert_eq!((word(layout.pid), word(layout.ppid)), (process.pid.into(), process.ppid.into()));
    assert_eq!((word(layout.peb), word(layout.section_base)), (process.peb.get(), process.section_base.get()));
    assert_eq!(word(layout.wow64) != 0, process.kind == Kind::Wow64);
    assert_eq!(word(layout.exit_time) != 0, process.kind == Kind::Exited);
    let status = kernel.u32(at + u64::from(layout.exit_status));
    assert_eq!(status == STILL_ACTIVE, process.is_alive());
    let words: Vec<u32> = (0..u64::from(layout.size / 4)).map(|n| kernel.u32(at + 4 * n)).collect();
    assert_eq!(words.iter().filter(|word| **word == STILL_ACTIVE).count(), usize::from(process.is_alive()), "{name}");
    // The tables: what the field says, unless it is garbage, and that they know themselves.
    let named = word(layout.directory_table_base) & 0x000f_ffff_ffff_f000;
    assert_eq!(named == process.space.root.get(), process.kind != Kind::GarbageTable, "{name}");
    let self_entry = |root: Gpa| windows.ram.load_u64(root.wrapping_add(8 * windows.truth.self_map)).unwrap();
    assert_eq!(self_entry(process.space.root) & 0x0000_ffff_ffff_f083, process.space.root.get() | 3);
    let entries: Vec<u64> =
        (0..512).map(|n| windows.ram.load_u64(process.space.root.wrapping_add(8 * n)).unwrap()).collect();
    assert!(entries[256..].iter().filter(|entry| **entry & 0x8000_0000_0000_0087 == 3).count() >= 10, "{name}");
    assert!(
        [&entries[..256], &entries[256..]].iter().all(|half| half.iter().filter(|entry| **entry == 0).count() > 64)
    );
    let user = process.user_table_field & !0xfff;
    if user != 0 {
        assert!(kpti);
        assert_eq!(self_entry(Gpa::new(user)) & 0x0000_ffff_ffff_f083, user | 3);
        assert!(naive::translate(&windows.ram, naive_at(windows, user), windows.truth.nt_base.get()).is_err());
        let offset = layout.user_root_at(kpti).unwrap();
        assert_eq!(word(offset), process.user_table_field);
    }
    if process.peb.get() != 0 {
        let peb = naive::translate(&windows.ram, process.space.naive(), process.peb.get()).unwrap();
        assert!(peb.user && peb.writable && process.peb.get().is_multiple_of(4096));
        assert_ne!(windows.ram.load_u32(Gpa::new(peb.gpa)).unwrap() & 0xffff, 0x5a4d);
        let image = naive::translate(&windows.ram, process.space.naive(), process.section_base.get()).unwrap();
        assert_eq!(windows.ram.load_u32(Gpa::new(image.gpa)).unwrap() & 0xffff, 0x5a4d);
        if user != 0 {
            let same = naive::translate(&windows.ram, naive_at(windows, user), process.peb.get()).unwrap();
            assert_eq!(same.gpa, peb.gpa);
        }
    }
    if process.peb.get() != 0 {
        for gva in [process.peb.get(), process.section_base.get() + 0x3000] {
            assert!(descriptor(&kernel, layout, process, gva).is_some(), "{name}");
        }
        assert_eq!(descriptor(&kernel, layout, process, process.section_base.get() + 0x4000), None, "{name}");
    }
    for (gva, state) in &process.trimmed {
        let entry = leaf_entry(&windows.ram, process.space, gva.get()).unwrap();
        match state {
            PrivateState::Transition(frame) => assert_eq!(transition(entry), Some(*frame)),
            PrivateState::DemandZero | PrivateState::PageFile => assert_eq!(entry & 0xc01, 0),
        }
    }
}

fn check_list(windows: &WindowsGuest) {
    let (kernel, truth) = (Kernel(windows), &windows.truth);
    let links = u64::from(truth.layout.links);
    let head = truth.active_process_head.get();
    for (direction, order) in [(0, Vec::from_iter(&truth.processes)), (8, truth.processes.iter().rev().collect())] {
        let mut at = kernel.u64(head + direction);
        for process in order {
            assert_eq!(at - links, process.eprocess.get(), "{}", process.name);
            at = kernel.u64(at + direction);
        }
        assert_eq!(at, head);
    }
}

/// The descriptor of `gva`, by the shape's own plain walk: its first page number, and its first prototype.
fn descriptor(kernel: &Kernel<'_>, layout: &Layout, process: &TruthProcess, gva: u64) -> Option<(u64, u64)> {
    let root_field = process.eprocess.get() + u64::from(layout.vad_root);
    let page = gva >> 12;
    let high = |at: u64, n: u64| kernel.u64(at + 0x20) >> (8 * n) & 0xff;
    let mut at = match layout.vad {
        VadShape::Win81 => kernel.u64(root_field),
        VadShape::Win2003 | VadShape::Win7 | VadShape::Win8 => kernel.u64(root_field + 0x10),
    };
    while at != 0 {
        let (left, right, first, last) = match layout.vad {
            VadShape::Win2003 | VadShape::Win7 => (8, 0x10, kernel.u64(at + 0x18), kernel.u64(at + 0x20)),
            VadShape::Win8 => (8, 0x10, kernel.u32(at + 0x18).into(), kernel.u32(at + 0x1c).into()),
            VadShape::Win81 => (
                0,
                8,
                u64::from(kernel.u32(at + 0x18)) | high(at, 0) << 32,
                u64::from(kernel.u32(at + 0x1c)) | high(at, 1) << 32,
            ),
        };
        if page < first {
            at = kernel.u64(at + left);
        } else if page > last {
            at = kernel.u64(at + right);
        } else {
            return Some((first, at));
        }
    }
    None
}

/// Where the prototype of `gva` lies by its descriptor: through the chain of subsections.
fn prototype_by_vad(kernel: &Kernel<'_>, layout: &Layout, process: &TruthProcess, gva: u64) -> Option<u64> {
    let (first, at) = descriptor(kernel, layout, process, gva)?;
    let mut left = (gva >> 12) - first;
    let old = layout.vad == VadShape::Win2003;
    let first = if old { 0x38 } else { 0x50 + layout.descriptor_growth() as u64 };
    let contiguous = (kernel.u64(at + first + 8) - kernel.u64(at + first)) / 8 + 1;
    if left < contiguous {
        return Some(kernel.u64(at + first) + 8 * left);
    }
    let (base, next) = if old { (0x18, 0x28) } else { (8, 0x10) };
    let mut subsection = kernel.u64(at + first - 8) + if old { 0x48 } else { 0 };
    while subsection != 0 {
        let count = u64::from(kernel.u32(subsection + u64::from(layout.subsection_ptes())));
        if left < count {
            return Some(kernel.u64(subsection + base) + 8 * left);
        }
        left -= count;
        subsection = kernel.u64(subsection + next);
    }
    None
}

fn check_region(windows: &WindowsGuest, producer: &TruthProcess, shared: &SharedRegion) {
    let (kernel, truth) = (Kernel(windows), &windows.truth);
    assert_eq!(shared.region.get(&windows.ram, Field::RUN_EPOCH), 1);
    for page in &shared.pages {
        let gva = shared.region.base.get() + page.index * 4096;
        let entry = leaf_entry(&windows.ram, producer.space, gva).unwrap_or(0);
        let by_vad = prototype_by_vad(&kernel, &truth.layout, producer, gva);
        assert!(by_vad.is_some());
        let prototype = match page.state.entry {
            EntryState::Dirty | EntryState::Clean => {
                assert_eq!(entry & 1, 1);
                assert_eq!(entry & 2 != 0, page.state.entry == EntryState::Dirty);
                assert_eq!(Some(Gpa::new(entry & 0x000f_ffff_ffff_f000)), page.frame);
                shared.section.prototype(page.index).get()
            }
            EntryState::Direct => {
                assert_eq!(entry & 0x401, 0x400);
                let swizzled = truth.layout.pte == PteFormat::New && truth.codec.l1tf && entry & 0x10 == 0;
                let entry = if swizzled { entry & !SWIZZLE_MASK } else { entry };
                0xffff << 48 | entry >> 16
            }
            EntryState::ConsultVad => {
                assert_eq!((entry >> 16, entry & 0x401), (0xffff_ffff_0000, 0x400));
                by_vad.unwrap()
            }
            EntryState::Untouched => {
                assert_eq!(entry, 0);
                by_vad.unwrap()
            }
        };
        assert_eq!(prototype, shared.section.prototype(page.index).get());
        if let Some(by_vad) = by_vad {
            assert_eq!(by_vad, shared.section.prototype(page.index).get());
        }
        let value = kernel.u64(shared.section.prototype(page.index).get());
        let frame = match page.state.prototype {
            PrototypeState::Valid => (value & 1 == 1).then(|| Gpa::new(value & 0x000f_ffff_ffff_f000)),
            PrototypeState::Transition => transition(value),
            PrototypeState::DemandZero | PrototypeState::PageFile => {
                assert_eq!(value & 0xc01, 0);
                None
            }
        };
        assert_eq!(frame, page.frame);
    }
}

fn check(layout: &Layout, shape: Shape, options: Options) {
    let windows = WindowsGuest::build(layout, shape, options);
    let (kernel, truth) = (Kernel(&windows), &windows.truth);
    check_start_block(&windows);
    let variable = export(&kernel, truth.nt_base.get(), "PsInitialSystemProcess").unwrap();
    assert_eq!(variable, truth.initial_system_process.get());
    assert_eq!(kernel.u64(variable), truth.processes[0].eprocess.get());
    assert_eq!(export(&kernel, truth.nt_base.get(), "NtBuildNumber"), Some(truth.build_number.get()));
    assert_eq!(kernel.u32(truth.build_number.get()) & 0xffff, layout.build);
    assert_eq!(export(&kernel, truth.nt_base.get(), "PsActiveProcessHead"), None);
    let shared = SHARED_DATA.get();
    assert_eq!((kernel.u32(shared + 0x26c), kernel.u32(shared + 0x270)), (layout.major, layout.minor));
    assert_eq!(kernel.u32(shared + 0x260), if layout.major >= 10 { layout.build } else { 0 });
    assert!(truth.processes.len() >= 12);
    let kpti = options.kpti && layout.user_root_at(true).is_some();
    for process in &truth.processes {
        check_process(&windows, process, kpti);
    }
    if options.list == ListShape::Honest {
        check_list(&windows);
    }
    check_region(&windows, &truth.processes[truth.producer], &truth.shared);
    check_region(&windows, windows.process("forger.exe"), &truth.forged);
}

#[test]
fn every_layout_in_every_shape() {
    for layout in LAYOUTS {
        for shape in Shape::ALL {
            check(layout, shape, Options::default());
        }
    }
}

#[test]
fn layouts_of_no_build() {
    for seed in 0..12 {
        check(&Layout::random(seed), Shape::FourLevel, Options { seed, ..Options::default() });
    }
}

#[test]
fn every_option() {
    let layout = Layout::named("10 2004");
    let base = Options::default();
    let chain = Options { per_subsection: 8705, trim_table: true, trim_pool: true, ..base };
    for options in [
        chain,
        Options { kpti: false, l1tf: false, holes: false, ..base },
        Options { start_block: StartBlock::Missing, root: RootPlace::High, ..base },
        Options { start_block: StartBlock::Loader, root: RootPlace::Middle, ..base },
        Options { start_block: StartBlock::StaleLoader, list: ListShape::Loop, ..base },
        Options { list: ListShape::Broken, trim: Trim::Nothing, ..base },
        Options { trim: Trim::With(|_| PageState::NEVER), ..base },
        Options {
            trim: Trim::With(|_| PageState { entry: EntryState::Direct, prototype: PrototypeState::PageFile }),
            ..base
        },
    ] {
        let shape = if options.trim_pool { Shape::FiveLevel } else { Shape::FourLevel };
        let no_pages = matches!(options.trim, Trim::With(_));
        if no_pages {
            let windows = WindowsGuest::build(&layout, shape, options);
            assert!(windows.truth.shared.region.pages.is_empty());
            assert!(windows.truth.shared.pages.iter().all(|page| page.frame.is_none()));
        } else {
            check(&layout, shape, options);
        }
    }
    check(&Layout::named("7 SP1"), Shape::FourLevel, chain);
    check(&Layout::named("8"), Shape::FourLevel, chain);
}

#[test]
fn a_loop_never_meets_the_head_and_fields_can_be_set() {
    let options = Options { list: ListShape::Loop, ..Options::default() };
    let windows = WindowsGuest::build(&Layout::named("11 24H2"), Shape::FourLevel, options);
    let kernel = Kernel(&windows);
    let mut at = kernel.u64(windows.truth.active_process_head.get());
    for _ in 0..1000 {
        at = kernel.u64(at);
        assert_ne!(at, windows.truth.active_process_head.get());
    }
    let process = windows.process("explorer.exe");
    windows.set(process, windows.truth.layout.peb, 8, 0x1234_5000);
    assert_eq!(windows.get(process, windows.truth.layout.peb), 0x1234_5000);
    windows.write_kernel(process.eprocess, &[9]);
    assert_eq!(kernel.u64(process.eprocess.get()) & 0xff, 9);
    assert_eq!(windows.truth.forged.region.get(&windows.ram, Field::HEARTBEAT), 77);
    assert_eq!(gpa(&windows.ram, process.space, Gva::new(0).get()), None);
}
