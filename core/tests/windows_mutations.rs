//! What cannot be proven is absent, never wrong: process objects in which a field was spoilt, doubled, or anything was
//! changed.

use vgpu_perception::process::nt::{FieldName, NtError, NtKernel};
use vgpu_perception::{Gpa, PhysRead};
use vgpu_perception_testkit::Rng;
use vgpu_perception_testkit::windows::{LAYOUTS, Layout, Options, STILL_ACTIVE, Shape, TruthProcess, WindowsGuest};

const NAMES: [&str; 8] = ["2003 SP1", "7 SP1", "8", "8.1", "10 1507 LTSB", "10 1809", "10 2004", "11 24H2"];

/// A guest whose objects can be changed and put back.
struct Bench {
    windows: WindowsGuest,
    undo: Vec<(Gpa, u64)>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let windows = WindowsGuest::build(&Layout::named(name), Shape::FourLevel, Options::default());
        Self { windows, undo: Vec::new() }
    }

    fn layout(&self) -> Layout {
        self.windows.truth.layout
    }

    fn attach(&self) -> Result<NtKernel, NtError> {
        NtKernel::attach(&self.windows.ram, self.windows.truth.kcr3, None)
    }

    /// Sets 8 bytes at `offset`, a multiple of 8.
    fn set(&mut self, process: usize, offset: u32, value: u64) {
        let at = self.windows.field(&self.windows.truth.processes[process], offset);
        self.undo.push((at, self.windows.ram.load_u64(at).unwrap()));
        self.windows.ram.write_u64(at, value);
    }

    fn set_half(&mut self, process: usize, offset: u32, value: u32) {
        let before = self.get(process, offset & !7);
        let shift = (offset & 4) * 8;
        self.set(process, offset & !7, before & !(0xffff_ffff << shift) | u64::from(value) << shift);
    }

    fn get(&self, process: usize, offset: u32) -> u64 {
        self.windows.get(&self.windows.truth.processes[process], offset)
    }

    fn set_all(&mut self, offset: u32, mut value: impl FnMut(&TruthProcess) -> u64) {
        for process in 0..self.windows.truth.processes.len() {
            let value = value(&self.windows.truth.processes[process]);
            self.set(process, offset, value);
        }
    }

    fn restore(&mut self) {
        while let Some((at, value)) = self.undo.pop() {
            self.windows.ram.write_u64(at, value);
        }
    }

    fn index(&self, name: &str) -> usize {
        self.windows.truth.processes.iter().position(|process| process.name == name).unwrap()
    }

    /// Attaches, and asserts that exactly `gone` is absent and nothing is wrong; then puts everything back.
    fn assert_gone(&mut self, what: &str, gone: &[FieldName]) {
        let name = self.layout().name;
        let kernel = self.attach().unwrap_or_else(|error| panic!("{name}, {what}: {error}"));
        let (wrong, absent) = self.windows.compare(&kernel.layout);
        assert!(wrong.is_empty(), "{name}, {what}: wrong {wrong:?}");
        let whole = |field: &&FieldName| self.windows.truth.kpti || **field != UserDirectoryTableBase;
        let absent: Vec<_> = absent.iter().filter(whole).copied().collect();
        let gone: Vec<_> = gone.iter().filter(whole).copied().collect();
        assert_eq!(absent, gone, "{name}, {what}");
        self.restore();
    }

    fn assert_error(&mut self, what: &str, error: NtError) {
        assert_eq!(self.attach(), Err(error), "{}, {what}", self.layout().name);
        self.restore();
    }

    /// A slot of 8 bytes that is no field, below `end`.
    fn free_slot(&self, from: u32, end: u32) -> Option<u32> {
        let layout = self.layout();
        let fields = layout.fields();
        (from..end.min(layout.size - 8))
            .step_by(8)
            .find(|at| fields.iter().all(|(field, bytes)| at + 8 <= *field || field + bytes <= *at))
    }
}

use FieldName::{
    ActiveProcessLinks, CreateTime, DirectoryTableBase, ExitStatus, ExitTime, ImageFileName,
    InheritedFromUniqueProcessId, Peb, SectionBaseAddress, UserDirectoryTableBase, VadRoot,
};

#[test]
fn a_field_that_was_spoilt_is_absent() {
    for name in NAMES {
        let mut bench = Bench::new(name);
        let layout = bench.layout();
        let (live, gone) = (bench.index("vgpu-agent.exe"), bench.index("gone.exe"));
        bench.assert_gone("nothing", &[]);

        bench.set_all(layout.directory_table_base, |process| process.table_field ^ 0x1234_5000);
        bench.assert_error("tables", NtError::Unproven { field: DirectoryTableBase });
        if let Some(at) = layout.user_root_at(bench.windows.truth.kpti) {
            bench.set(live, at, 0x1234_5678);
            bench.assert_gone("user table", &[UserDirectoryTableBase]);
        }
        bench.set(0, layout.pid, 8);
        bench.assert_error("number", NtError::Unproven { field: ActiveProcessLinks });
        bench.set(0, layout.links, 0xffff_ad00_1234_5678);
        bench.assert_error("links", NtError::Unproven { field: ActiveProcessLinks });
        let name = u64::from_le_bytes(*b"Sistem\0\0");
        bench.set(0, layout.image_name, name);
        bench.assert_gone("name", &[ImageFileName]);
        bench.set(live, layout.create_time, 0);
        bench.assert_gone("creation", &[CreateTime, ExitTime]);
        bench.set(gone, layout.exit_time, 0);
        bench.assert_gone("no end", &[ExitTime]);
        bench.set(live, layout.exit_time, 0x01d7_0000_0000_0000);
        bench.assert_gone("an end in life", &[ExitTime]);
        // One that is ending has a status before it has ended; many that have one are something else.
        bench.set_half(live, layout.exit_status, 0);
        bench.assert_gone("one status in life", &[]);
        for process in 3..8 {
            bench.set_half(process, layout.exit_status, 0);
        }
        bench.assert_gone("statuses in life", &[CreateTime, ExitTime, ExitStatus, VadRoot]);
        bench.set_half(gone, layout.exit_status, STILL_ACTIVE);
        bench.assert_gone("no status", &[CreateTime, ExitTime, ExitStatus, VadRoot]);
        bench.set_all(layout.section_base, |_| 0x1234_0000);
        bench.assert_gone("program", &[Peb, SectionBaseAddress, InheritedFromUniqueProcessId, VadRoot]);
        bench.set_all(layout.peb, |process| process.peb.get() + 8);
        bench.assert_gone("environment", &[Peb, SectionBaseAddress, InheritedFromUniqueProcessId, VadRoot]);
        bench.set(0, layout.ppid, 8);
        bench.assert_gone("parent of the first", &[InheritedFromUniqueProcessId]);
        bench.set(live, layout.ppid, 703);
        bench.assert_gone("one odd parent", &[]);
        for process in 3..8 {
            bench.set(process, layout.ppid, 703);
        }
        bench.assert_gone("odd parents", &[InheritedFromUniqueProcessId]);
        bench.set_all(layout.vad_root, |_| 0);
        bench.assert_gone("descriptors", &[VadRoot]);
        bench.set_all(layout.vad_root, |process| process.eprocess.get());
        bench.assert_gone("descriptors that are none", &[VadRoot]);
    }
}

/// Two places that obey a rule: neither is the field.
#[test]
fn a_field_that_is_there_twice_is_absent() {
    for name in NAMES {
        let mut bench = Bench::new(name);
        let layout = bench.layout();
        let (low, high) = (bench.free_slot(0x30, 0x100), bench.free_slot(0x100, 0x1000).unwrap());
        let double = |bench: &mut Bench, to: u32, from: u32, gone: &[FieldName]| {
            for process in 0..bench.windows.truth.processes.len() {
                let value = bench.get(process, from);
                bench.set(process, to, value);
            }
            bench.assert_gone("doubled", gone);
        };
        double(&mut bench, high, layout.create_time, &[CreateTime, ExitTime]);
        double(&mut bench, high, layout.exit_time, &[ExitTime]);
        double(
            &mut bench,
            high,
            layout.section_base,
            &[Peb, SectionBaseAddress, InheritedFromUniqueProcessId, VadRoot],
        );
        double(&mut bench, high, layout.peb, &[Peb, SectionBaseAddress, InheritedFromUniqueProcessId, VadRoot]);
        if layout.vad_root_bytes() == 8 {
            double(&mut bench, high, layout.vad_root, &[VadRoot]);
        }
        if let Some((at, to)) = layout.user_root_at(bench.windows.truth.kpti).zip(low) {
            double(&mut bench, to, at, &[UserDirectoryTableBase]);
        }
        for process in 0..bench.windows.truth.processes.len() {
            let value = bench.get(process, layout.exit_status & !7) >> ((layout.exit_status & 4) * 8) & 0xffff_ffff;
            bench.set(process, high, value);
        }
        bench.assert_gone("doubled", &[CreateTime, ExitTime, ExitStatus, VadRoot]);
        if let Some(to) = low {
            bench.set_all(to, |process| process.table_field);
            bench.assert_error("doubled", NtError::Unproven { field: DirectoryTableBase });
        }
    }
}

fn rounds() -> u32 {
    std::env::var("VGPU_ROUNDS").map_or(60, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Anything, anywhere in the objects: a field that is given is the right one.
#[test]
fn whatever_is_changed_no_field_is_wrong() {
    let mut outcomes = [0_u32; 2];
    for (n, layout) in LAYOUTS.iter().enumerate() {
        let mut bench = Bench::new(layout.name);
        let mut rng = Rng::new(77 + n as u64);
        let count = bench.windows.truth.processes.len();
        let offsets: Vec<u32> = layout.fields().iter().map(|(at, _)| at & !7).collect();
        for _ in 0..rounds() {
            for _ in 0..rng.between(1, 12) {
                let below = |rng: &mut Rng, n: usize| usize::try_from(rng.below(n as u64)).unwrap();
                let process = below(&mut rng, count);
                let any = 8 * u32::try_from(rng.below(u64::from(layout.size) / 8)).unwrap();
                let to = if rng.below(2) == 0 { offsets[below(&mut rng, offsets.len())] } else { any };
                let value = match rng.below(6) {
                    0 => 0,
                    1 => bench.get(below(&mut rng, count), offsets[below(&mut rng, offsets.len())]),
                    2 => bench.get(process, offsets[below(&mut rng, offsets.len())]),
                    3 => bench.windows.truth.processes[below(&mut rng, count)].eprocess.get() + u64::from(any),
                    4 => rng.below(1 << 16) * 4,
                    _ => rng.next_u64(),
                };
                // A change in every process now and then: one alone is mostly outvoted. Not by the exit status of the
                // living, which is one number in all of them: where it is written to another place, that place is one
                // as good.
                let status = [value & 0xffff_ffff, value >> 32].contains(&STILL_ACTIVE.into());
                if rng.below(4) == 0 && !status {
                    bench.set_all(to, |_| value);
                } else {
                    bench.set(process, to, value);
                }
            }
            if let Ok(kernel) = bench.attach() {
                let (wrong, absent) = bench.windows.compare(&kernel.layout);
                assert!(wrong.is_empty(), "{}: {wrong:?}, {:x?} after {:x?}", layout.name, kernel.layout, bench.undo);
                outcomes[usize::from(absent.is_empty())] += 1;
            }
            bench.restore();
        }
    }
    // Enough was changed to matter, and not so much that nothing was left.
    assert!(outcomes.iter().all(|count| *count > 50), "{outcomes:?}");
}
