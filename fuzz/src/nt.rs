//! The Windows chain: start block, self map, image, exports, objects, list, descriptors, prototypes; over guests that
//! are whole but for some lies, each told where it matters.
//!
//! The guests, their kernels and the producers' spaces are made once. An input goes one part of the way: most ask the
//! resolver or walk some of the list, few attach anew, fewer search for a kernel. Which part is drawn from all of its
//! bytes: what a fuzzer makes of an input that searched then seldom searches too, and the costly parts stay few however
//! many inputs of theirs it keeps.

use std::cell::RefCell;
use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Result, Unstructured};
use vgpu_perception::paging::{Level, NotPresentResolver};
use vgpu_perception::process::nt::{KernelSearch, NtKernel, NtPaging, ProcessList, RootBy};
use vgpu_perception::process::roots::RootCandidate;
use vgpu_perception::{AddressSpace, Budget, Gpa, Gva, PAGE_BYTES, PageWalker, PhysRead, Step, abi};
use vgpu_perception_testkit::windows::{Layout, Options, Shape, StartBlock, WindowsGuest};
use vgpu_perception_testkit::{Counting, Ram, naive};

use crate::guest::rest;

/// See [`crate`].
pub fn nt(data: &[u8]) {
    among_lies(data, |u, guest, lies| run(u, guest, lies, drawn(data)));
}

/// Calls `run` with a guest, the lies told, and takes them back.
pub(crate) fn among_lies(data: &[u8], run: impl FnOnce(&mut Unstructured<'_>, &Guest, usize) -> Result<()>) {
    GUESTS.with_borrow_mut(|guests| {
        if guests.is_empty() {
            guests.extend(GUESTS_MADE.map(|(name, shape, start_block)| made(name, shape, start_block)));
        }
        let mut undo = Vec::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut u = Unstructured::new(data);
            let Ok(guest) = u.choose(guests) else { return };
            // What is done comes first in the input, so that more lies do not change it.
            let Ok(head) = u.bytes(16.min(u.len())) else { return };
            let Ok(lies) = lies(&mut u, &guest.windows, &mut undo) else { return };
            let _ = run(&mut Unstructured::new(head), guest, lies);
        }));
        // The guests are made once: what was written into them is taken back.
        for (ram, gpa, before) in undo.into_iter().rev() {
            let _: &Ram = &ram;
            ram.write_u64(gpa, before);
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

thread_local! {
    static GUESTS: RefCell<Vec<Guest>> = const { RefCell::new(Vec::new()) };
}

/// A guest, and what an honest look at it found.
pub(crate) struct Guest {
    pub(crate) windows: WindowsGuest,
    pub(crate) kernel: NtKernel,
    pub(crate) producer: AddressSpace<NtPaging>,
}

const GUESTS_MADE: [(&str, Shape, StartBlock); 4] = [
    ("7 SP1", Shape::FourLevel, StartBlock::System),
    ("8", Shape::SmallPages, StartBlock::StaleLoader),
    ("10 2004", Shape::FourLevel, StartBlock::Loader),
    ("11 24H2", Shape::FiveLevel, StartBlock::Missing),
];

fn made(name: &str, shape: Shape, start_block: StartBlock) -> Guest {
    let options = Options { ram: 1 << 30, start_block, trim_table: true, ..Options::default() };
    let windows = WindowsGuest::build(&Layout::named(name), shape, options);
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).expect("an honest guest has a kernel");
    windows.assert_kernel(&kernel);
    let agent = windows.truth.processes[windows.truth.producer].eprocess;
    let mut list = kernel.processes();
    let producer = loop {
        match list.step(&windows.ram, &mut Budget::unlimited()).expect("the map of RAM can be read") {
            Step::Found(one) if one.process.eprocess == Some(agent) => break one.process.space,
            Step::Found(_) | Step::Pending => {}
            Step::Done => panic!("the producer is on the list"),
        }
    };
    Guest { windows, kernel, producer }
}

/// Where a lie is told.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    /// A process object.
    Object { process: u8, word: u16 },
    /// A field of one: those that the chain reads.
    Field { process: u8, field: u8 },
    /// The first page of the kernel's image.
    Header { word: u16 },
    /// The export directory and what follows.
    Exports { word: u16 },
    /// Around the prototypes of the region.
    Prototypes { word: u16 },
    /// Around the section's control area and subsections.
    Section { word: u16 },
    /// Around the root of a tree of descriptors.
    Descriptors { process: u8, word: u16 },
    /// A top table.
    Root { process: u8, word: u16 },
    /// The entries that map the region.
    Entries { page: u16, level: u8 },
    /// Low memory.
    Low { page: u8, word: u16 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    Any(u64),
    Small(u8),
    /// Another process's object, and some bytes further.
    Object {
        process: u8,
        offset: u16,
    },
    /// What lies somewhere else.
    Copied(Place),
    /// What lay there, with a bit changed.
    Flipped(u8),
    /// A table entry that leads to a top table.
    Table {
        process: u8,
        bits: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Lie {
    place: Place,
    value: Value,
}

/// Tells lies; gives how many.
fn lies(u: &mut Unstructured<'_>, windows: &WindowsGuest, undo: &mut Vec<(Ram, Gpa, u64)>) -> Result<usize> {
    let lies = rest::<Lie>(u, 40)?;
    for lie in &lies {
        let Some(at) = place(windows, lie.place) else { continue };
        let Ok(before) = windows.ram.load_u64(at) else { continue };
        let value = match lie.value {
            Value::Any(value) => value,
            Value::Small(value) => value.into(),
            Value::Object { process, offset } => object(windows, process).get() + u64::from(offset % 0x1000),
            Value::Copied(from) => {
                place(windows, from).and_then(|from| windows.ram.load_u64(from).ok()).unwrap_or_default()
            }
            Value::Flipped(bit) => before ^ 1 << (bit % 64),
            Value::Table { process, bits } => root(windows, process).get() | u64::from(bits & 0xfff),
        };
        undo.push((windows.ram.clone(), at, before));
        windows.ram.write_u64(at, value);
    }
    Ok(lies.len())
}

/// A number below 2^16 that any change of the input changes.
fn drawn(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
        >> 48
}

fn run(u: &mut Unstructured<'_>, guest: &Guest, lies: usize, part: u64) -> Result<()> {
    let windows = &guest.windows;
    let budget = u.int_in_range(1..=1 << 16)?;
    let ram = Counting::new(&windows.ram);
    let kernel = match part {
        0..=63 => search(&ram, budget + 1000),
        64..=2047 => NtKernel::attach(&ram, windows.truth.kcr3, None).ok(),
        2048..=16_383 => {
            let _ = guest.kernel.revalidate(&ram);
            some_processes(&ram, windows, guest.kernel.processes(), budget, 2);
            return Ok(());
        }
        _ => {
            pages(&ram, windows, guest.producer, u.arbitrary::<u16>()?.into(), 12);
            return Ok(());
        }
    };
    let attached = ram.take().accesses();
    assert!(attached < 1 << 27, "{attached} loads to attach");
    if lies == 0 {
        windows.assert_kernel(&kernel.expect("a guest without lies has a kernel"));
    }
    if let Some(kernel) = kernel {
        let _ = kernel.revalidate(&ram);
        some_processes(&ram, windows, kernel.processes(), budget, usize::MAX);
    }
    Ok(())
}

/// The search, or its beginning: an honest guest takes 2^20 loads; one that leads on takes 2^27, of which every step is
/// like those before.
fn search<M: PhysRead>(ram: &Counting<M>, budget: u64) -> Option<NtKernel> {
    let begun = ram.counts().accesses();
    let mut scratch = vec![RootCandidate::default(); 64];
    let mut search = KernelSearch::new(None, &mut scratch);
    loop {
        let before = ram.counts().accesses();
        let step = search.step(ram, &mut Budget::new(budget)).expect("the map of RAM can be read");
        let loads = ram.counts().accesses() - before;
        assert!(loads <= budget + Budget::PIECE, "{loads} loads in a step of {budget}");
        match step {
            Step::Found(kernel) => return Some(kernel),
            Step::Pending if before - begun < 1 << 23 => {}
            Step::Pending | Step::Done => return None,
        }
    }
}

/// Each process once, in steps that end; then some pages of each.
fn some_processes<M: PhysRead>(
    ram: &Counting<M>,
    windows: &WindowsGuest,
    mut list: ProcessList,
    budget: u64,
    most: usize,
) {
    let mut seen = BTreeSet::new();
    while seen.len() < most {
        ram.take();
        let step = list.step(ram, &mut Budget::new(budget)).expect("the map of RAM can be read");
        let loads = ram.take().accesses();
        assert!(loads <= budget + Budget::PIECE, "{loads} loads in a step of {budget}");
        let one = match step {
            Step::Found(one) => one,
            Step::Pending => continue,
            Step::Done => break,
        };
        assert!(seen.insert(one.process.eprocess), "a process came twice");
        if one.root != RootBy::Nothing {
            pages(ram, windows, one.process.space, 0, 6);
        }
    }
    assert!(seen.len() <= ProcessList::NODES as usize);
}

/// Translates some pages of the region, each within the resolver's bound.
fn pages<M: PhysRead>(
    ram: &Counting<M>,
    windows: &WindowsGuest,
    space: AddressSpace<NtPaging>,
    from: u64,
    count: usize,
) {
    let walker = PageWalker::new(ram, space);
    let shared = &windows.truth.shared;
    let touched = shared.pages.iter().map(|page| page.index);
    for page in touched.take(count).chain((0..count as u64).map(|n| from + n * 97)) {
        let gva = shared.region.base.wrapping_add(page * PAGE_BYTES % abi::REGION_BYTES);
        ram.take();
        let found = walker.translate(gva);
        let loads = ram.take().accesses();
        assert!(loads <= NtPaging::LOADS + 5, "{loads} loads for {gva}: {found:?}");
    }
}

fn object(windows: &WindowsGuest, process: u8) -> Gva {
    let processes = &windows.truth.processes;
    processes[usize::from(process) % processes.len()].eprocess
}

fn root(windows: &WindowsGuest, process: u8) -> Gpa {
    let processes = &windows.truth.processes;
    processes[usize::from(process) % processes.len()].space.root
}

/// Where in RAM a lie goes: a multiple of 8.
fn place(windows: &WindowsGuest, place: Place) -> Option<Gpa> {
    let truth = &windows.truth;
    let layout = &truth.layout;
    let kernel = windows.kernel.space;
    let at = |gva: Gva, word: u16, words: u16| {
        let gva = Gva::new(gva.get() & !7).wrapping_add(8 * u64::from(word % words));
        naive::translate(&windows.ram, kernel.naive(), gva.get()).ok().map(|page| Gpa::new(page.gpa))
    };
    match place {
        Place::Object { process, word } => at(object(windows, process), word, 0x180),
        Place::Field { process, field } => {
            let fields = layout.fields();
            let (offset, _) = fields[usize::from(field) % fields.len()];
            at(object(windows, process), u16::try_from(offset / 8).ok()?, 0x200)
        }
        Place::Header { word } => at(truth.nt_base, word, 0x80),
        Place::Exports { word } => at(truth.nt_base.wrapping_add(0x13_4000), word, 0x600),
        Place::Prototypes { word } => at(truth.shared.section.first_prototype(), word, 0x400),
        Place::Section { word } => at(truth.shared.section.control_area, word, 0x40),
        Place::Descriptors { process, word } => {
            let processes = &truth.processes;
            let one = &processes[usize::from(process) % processes.len()];
            // Read through tables that a lie may have changed already.
            let root = if layout.vad_root_bytes() == 8 {
                one.vad_root
            } else {
                let field = at(one.eprocess.wrapping_add(u64::from(layout.vad_root) + 0x10), 0, 1)?;
                windows.ram.load_u64(field).ok()?
            };
            (root >> 63 == 1).then(|| at(Gva::new(root), word, 0x18)).flatten()
        }
        Place::Root { process, word } => Some(root(windows, process).wrapping_add(u64::from(word % 512) * 8)),
        Place::Entries { page, level } => {
            let gva = truth.shared.region.base.wrapping_add(u64::from(page) * PAGE_BYTES % abi::REGION_BYTES);
            let level = [Level::Pt, Level::Pd, Level::Pdpt][usize::from(level) % 3];
            windows.guest.entry_at(truth.shared.region.space, level, gva)
        }
        Place::Low { page, word } => Some(Gpa::new(u64::from(page) * PAGE_BYTES + u64::from(word % 512) * 8)),
    }
}
