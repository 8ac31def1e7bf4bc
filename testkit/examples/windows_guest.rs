//! Writes a synthetic Windows guest to a file, and says in JSON what this project reads of it: for an independent
//! reader that is held against it, see `.ci/witness`.
//!
//! `windows_guest RAM-FILE LAYOUT [SEED]`; LAYOUT is the name of a field list or a row of the table, `list` names them.

use std::path::Path;
use std::process::ExitCode;

use vgpu_perception::process::nt::{NtKernel, NtProcess, ProcessState, RootBy};
use vgpu_perception::{Budget, PAGE_BYTES, PageWalker, Step};
use vgpu_perception_testkit::RegionImage;
use vgpu_perception_testkit::windows::{LAYOUTS, Layout, Options, Shape, StartBlock, WindowsGuest};

/// Pages of a section that the other reader looks up by its prototypes: those of 32 MiB, in one subsection. Beyond, it
/// does not ask.
const ASKED: u64 = 1 << 13;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (file, name) = match args.as_slice() {
        [list] if list == "list" => {
            Layout::listed().iter().for_each(|layout| println!("{}", layout.name));
            return ExitCode::SUCCESS;
        }
        [file, name, ..] => (file, name),
        _ => {
            eprintln!("windows_guest RAM-FILE LAYOUT [SEED], or windows_guest list");
            return ExitCode::from(2);
        }
    };
    let Some(layout) = Layout::listed().iter().chain(LAYOUTS).find(|layout| layout.name == name) else {
        eprintln!("there is no layout `{name}`; `windows_guest list` names them");
        return ExitCode::from(2);
    };
    let seed = args.get(2).map_or(1, |seed| seed.parse().expect("a seed is a number"));
    // No hole below 4 GiB, so that the file is the RAM; no swizzling, which the other reader does not undo.
    let image = RegionImage { width: 1280, height: 720, ..RegionImage::default() };
    let start_block = StartBlock::Only;
    let per_subsection = usize::try_from(ASKED).expect("a count fits");
    let options = Options { seed, ram: 1 << 30, l1tf: false, start_block, image, per_subsection, ..Options::default() };
    let windows = WindowsGuest::build(layout, Shape::FourLevel, options);
    windows.ram.to_file(Path::new(file)).expect("the file can be written");
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).expect("the guest has a kernel");
    let version = kernel.version.expect("the guest has a version");
    println!("{{\"major\": {}, \"minor\": {}, \"build\": {},", version.major, version.minor, layout.build);
    let (mut rows, mut pages) = (Vec::new(), Vec::new());
    let mut list = kernel.processes();
    loop {
        match list.step(&windows.ram, &mut Budget::unlimited()).expect("the guest can be read") {
            Step::Found(one) if one.state == ProcessState::Alive && one.root != RootBy::Nothing => {
                rows.extend(process(&one));
                pages.extend(section(&windows, &one));
            }
            Step::Found(_) | Step::Pending => {}
            Step::Done => break,
        }
    }
    println!(" \"processes\": [\n{}\n ], \"pages\": [\n{}\n ]}}", rows.join(",\n"), pages.join(",\n"));
    ExitCode::SUCCESS
}

fn process(one: &NtProcess) -> Option<String> {
    let (pid, name, cr3) = (one.process.pid?, one.process.name?, one.process.space.root.table().get());
    let by_field = one.root == RootBy::Field;
    Some(format!("  {{\"pid\": {pid}, \"name\": \"{name}\", \"cr3\": {cr3}, \"by_field\": {by_field}}}"))
}

/// The first pages of the region's section that can be read, by a sum of their bytes (FNV-1a), where the process is its
/// producer.
fn section(windows: &WindowsGuest, one: &NtProcess) -> Vec<String> {
    let (truth, process) = (&windows.truth, &one.process);
    if process.eprocess != Some(truth.processes[truth.producer].eprocess) {
        return Vec::new();
    }
    let walker = PageWalker::new(&windows.ram, process.space);
    let read = |index: u64| {
        let gva = truth.shared.region.base.wrapping_add(index * PAGE_BYTES);
        let mut bytes = [0; 4096];
        walker.read(gva, &mut bytes).ok()?;
        let sum = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        Some(format!("  {{\"pid\": {}, \"gva\": {}, \"fnv\": {sum}}}", process.pid?, gva.get()))
    };
    truth.shared.pages.iter().filter(|page| page.index < ASKED).filter_map(|page| read(page.index)).collect()
}
