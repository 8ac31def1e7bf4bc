//! What one call reads at most, counted in words by a C program's callbacks.

mod common;

use common::{Dir, command, program, run, seg_args, shared_library};
use vgpu_perception::Gpa;
use vgpu_perception::paging::Level;
use vgpu_perception_testkit::flags;
use vgpu_perception_testkit::windows::{LOADER_TABLE, Layout, Options, Shape, StartBlock, WindowsGuest};

#[test]
fn a_search_in_one_call_ends_at_its_bound() {
    let dir = Dir::new("budget");
    shared_library(&dir);
    let program = program(&dir, "tests/c/budget.c");
    let output = run(&mut command(&program, [""; 0]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with("bounded\n"), "{text}");
    print!("{text}");
}

/// The range where Windows' kernel is looked for is full of tables that are the same, and holds no image.
fn endless() -> WindowsGuest {
    let options = Options { start_block: StartBlock::Missing, ..Options::default() };
    let windows = WindowsGuest::build(&Layout::named("10 2004"), Shape::FourLevel, options);
    let mut guest = windows.guest.clone();
    let [table, below, lowest, page] = [(); 4].map(|()| guest.new_table());
    for index in 0..512 {
        // Entries that differ in bits that mean nothing: none is passed over as the one before it.
        for (from, to) in [(table, below), (below, lowest), (lowest, page)] {
            guest.ram.write_u64(from.wrapping_add(index * 8), to.get() | flags::KERNEL_TABLE | index << 52);
        }
    }
    let slot = Level::Pml4.index(windows.truth.nt_base) * 8;
    let lead = |root: Gpa, entry: u64| guest.ram.write_u64(root.wrapping_add(slot), entry);
    for process in &windows.truth.processes {
        lead(process.space.root, table.get() | flags::KERNEL_TABLE);
    }
    lead(LOADER_TABLE, 0);
    windows
}

#[test]
fn the_way_from_a_root_to_a_kernel_is_bounded_too() {
    let dir = Dir::new("budget-attach");
    shared_library(&dir);
    let program = program(&dir, "tests/c/budget.c");
    let guest = endless();
    let path = dir.join("ram");
    let segments = guest.ram.to_file(&path).unwrap();
    let mut args = vec![path.to_str().unwrap().to_owned(), format!("{:#x}", guest.truth.kcr3.get())];
    args.extend(seg_args(&segments).into_iter().filter(|arg| arg != "--seg"));
    let output = run(&mut command(&program, args));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with("bounded\n"), "{text}");
    print!("{text}");
}
