//! The processes of a Windows guest: who lives, under which tables, whatever the list and the fields are like.

use std::collections::BTreeMap;

use vgpu_perception::process::nt::{NtKernel, NtProcess, ProcessList, ProcessState, RootBy};
use vgpu_perception::{Budget, Cr3, Gva, PhysRead, Process, ProcessSource, Step};
use vgpu_perception_testkit::windows::{
    Kind, LAYOUTS, Layout, ListShape, Options, Shape, StartBlock, TruthProcess, WindowsGuest,
};

fn build(layout: &Layout, shape: Shape, options: Options) -> (WindowsGuest, NtKernel) {
    let windows = WindowsGuest::build(layout, shape, options);
    let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
    (windows, kernel)
}

/// All that the list gives, in small steps; each process once.
fn list<M: PhysRead>(ram: &M, kernel: &NtKernel) -> (BTreeMap<Gva, NtProcess>, ProcessList) {
    let mut source = kernel.processes();
    let mut all = BTreeMap::new();
    loop {
        match source.step(ram, &mut Budget::new(3000)).unwrap() {
            Step::Found(found) => {
                let before = all.insert(found.process.eprocess.unwrap(), found);
                assert!(before.is_none(), "{found:?} came twice");
            }
            Step::Pending => {}
            Step::Done => break,
        }
    }
    (all, source)
}

/// What a process of the truth should come out as.
fn assert_process(windows: &WindowsGuest, truth: &TruthProcess, found: &NtProcess) {
    let process = &found.process;
    assert_eq!(process.pid, Some(truth.pid));
    assert_eq!(process.ppid, Some(truth.ppid), "{}", truth.name);
    let name: String = truth.name.chars().take(15).collect();
    assert_eq!(process.name.unwrap().to_string(), name);
    assert_eq!(process.peb, Some(truth.peb).filter(|peb| peb.get() != 0), "{}", truth.name);
    assert_eq!(found.state == ProcessState::Alive, truth.is_alive(), "{}", truth.name);
    assert_eq!(found.table_field, truth.table_field);
    let user_root = Some(truth.user_table_field).filter(|field| *field > 1 && windows.truth.kpti);
    assert_eq!(process.user_root.map(Cr3::table), user_root.map(|field| Cr3::new(field).table()), "{}", truth.name);
    if found.root == RootBy::UserField {
        assert_eq!(Some(process.space.root.table()), user_root.map(|field| Cr3::new(field).table()));
    } else {
        assert_eq!(process.space.root.table(), truth.space.root, "{} {:?}", truth.name, found.root);
    }
    let expected = match (truth.kind, windows.truth.kpti) {
        (Kind::GarbageTable, true) => RootBy::UserField,
        (Kind::GarbageTable, false) => RootBy::Search,
        _ => RootBy::Field,
    };
    assert_eq!(found.root, expected, "{}", truth.name);
}

#[test]
fn every_process_of_every_layout_is_listed_as_it_is() {
    for (n, layout) in LAYOUTS.iter().enumerate() {
        for shape in Shape::ALL {
            let kpti = n % 2 == 0;
            let (windows, kernel) = build(layout, shape, Options { kpti, ..Options::default() });
            let (all, source) = list(&windows.ram, &kernel);
            assert_eq!(all.len(), windows.truth.processes.len(), "{}", layout.name);
            for truth in &windows.truth.processes {
                assert_process(&windows, truth, &all[&truth.eprocess]);
            }
            let stats = source.stats();
            assert_eq!((stats.exited, stats.lost, stats.strange, stats.broken), (1, 0, 0, false));
            assert_eq!(stats.alive as usize, all.len() - 1);
        }
    }
}

#[test]
fn a_source_gives_those_that_live() {
    let (windows, kernel) = build(&Layout::named("11 24H2"), Shape::FourLevel, Options::default());
    let mut source = kernel.processes();
    let mut live: Vec<Process<_>> = Vec::new();
    while let Step::Found(process) = source.next_process(&windows.ram, &mut Budget::unlimited()).unwrap() {
        live.push(process);
    }
    let expected: Vec<_> =
        windows.truth.processes.iter().filter(|truth| truth.is_alive()).map(|truth| truth.pid).collect();
    assert_eq!(live.iter().map(|process| process.pid.unwrap()).collect::<Vec<_>>(), expected);
    // One without a number of its own is no process either.
    let agent = &windows.truth.processes[windows.truth.producer];
    for number in [0, 6013, 1 << 32] {
        windows.set(agent, windows.truth.layout.pid, 8, number);
        let (all, source) = list(&windows.ram, &kernel);
        assert!(!all.contains_key(&agent.eprocess));
        assert_eq!(source.stats().strange, 1);
    }
}

#[test]
fn broken_lists_are_walked_from_both_ends() {
    for name in ["2003 SP1", "7 SP1", "10 1607", "Server 2022", "11 24H2"] {
        for list_shape in [ListShape::Loop, ListShape::Broken] {
            let options = Options { list: list_shape, start_block: StartBlock::Missing, ..Options::default() };
            let (windows, kernel) = build(&Layout::named(name), Shape::FourLevel, options);
            windows.assert_kernel(&kernel);
            let (all, source) = list(&windows.ram, &kernel);
            assert_eq!(all.len(), windows.truth.processes.len(), "{name} {list_shape:?}");
            assert!(source.stats().broken, "{name} {list_shape:?}");
        }
    }
}

/// A process is taken off the list while the walk stands on it: the rest is found from the other end.
#[test]
fn a_process_that_leaves_the_list_does_not_end_it() {
    let (windows, kernel) = build(&Layout::named("10 2004"), Shape::FourLevel, Options::default());
    let links = u64::from(windows.truth.layout.links);
    let mut source = kernel.processes();
    let mut seen = Vec::new();
    loop {
        match source.step(&windows.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(found) => {
                seen.push(found.process.eprocess.unwrap());
                if seen.len() == 6 {
                    // Unlinked, and its memory given to somebody else.
                    let gone = windows.owner(seen[5]).unwrap();
                    let node = |n: usize| windows.truth.processes[n].eprocess.wrapping_add(links);
                    let at = windows.truth.processes.iter().position(|one| one.eprocess == gone.eprocess).unwrap();
                    windows.write_kernel(node(at - 1), &node(at + 1).get().to_le_bytes());
                    windows.write_kernel(node(at + 1).wrapping_add(8), &node(at - 1).get().to_le_bytes());
                    windows.write_kernel(gone.eprocess, &[0xcc; 0x600]);
                }
            }
            Step::Pending => {}
            Step::Done => break,
        }
    }
    let mut expected: Vec<_> = windows.truth.processes.iter().map(|one| one.eprocess).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

/// The tables of a process whose field holds garbage are found in RAM, unless another process could have them.
#[test]
fn lost_tables_are_found_or_left_out() {
    let (windows, kernel) = build(&Layout::named("8"), Shape::FourLevel, Options { kpti: false, ..Options::default() });
    let game = windows.process("game.exe");
    let (all, _) = list(&windows.ram, &kernel);
    assert_eq!(all[&game.eprocess].root, RootBy::Search);

    // Another process says that the same tables are its own.
    let notepad = windows.process("notepad.exe");
    windows.set(notepad, windows.truth.layout.directory_table_base, 8, game.space.root.get());
    let (all, source) = list(&windows.ram, &kernel);
    assert_eq!(all[&game.eprocess].root, RootBy::Nothing);
    assert_eq!(source.stats().lost, 1);
    windows.set(notepad, windows.truth.layout.directory_table_base, 8, notepad.table_field);

    // Nothing maps its environment block.
    windows.set(game, windows.truth.layout.peb, 8, 0x7fff_0000);
    let (all, source) = list(&windows.ram, &kernel);
    assert_eq!(all[&game.eprocess].root, RootBy::Nothing);
    assert_eq!(source.stats().lost, 1);
}
