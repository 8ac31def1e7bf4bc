//! The library without a heap: no undefined symbol but mem*, and a program without a C library that uses it.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Dir, LiveGuest, WARNINGS, command, compiler, root, run};
use vgpu_perception_testkit::Placement;
use vgpu_perception_testkit::linux::LinuxOptions;

/// Builds it as an embedder does.
fn installed(dir: &Dir) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    run(Command::new(root().join("build.sh"))
        .env("CARGO", env!("CARGO"))
        .env("CARGO_TARGET_DIR", target)
        .args(["--form", "noheap", "--prefix"])
        .arg(&dir.0));
    dir.join("lib/libvgpu_perception_noheap.a")
}

fn symbols(archive: &PathBuf, kind: &str) -> BTreeSet<String> {
    let output = run(Command::new("nm").args(["--format=posix", kind]).arg(archive));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter(|line| !line.ends_with(':')).map(|line| line.split(' ').next().unwrap().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn it_needs_mem_functions_alone_and_runs_without_a_c_library() {
    let dir = Dir::new("no-heap");
    let archive = installed(&dir);
    let wanted = symbols(&archive, "--undefined-only");
    let allowed = ["memcpy", "memmove", "memset", "memcmp", "bcmp"].map(str::to_owned);
    assert!(wanted.is_subset(&allowed.into()), "{wanted:?}");
    let given = symbols(&archive, "--extern-only");
    let given: Vec<_> = given.difference(&wanted).collect();
    assert!(
        given
            .iter()
            .all(|name| ["vgpup_", "vgpux_", "vmie_", "gva_", "proc_list"].iter().any(|own| name.starts_with(own))),
        "{given:?}"
    );
    // Not even machinery for a panic is left: nothing in it can panic.
    let all = symbols(&archive, "--defined-only");
    assert!(!all.iter().any(|name| name.contains("panick")), "{all:?}");
    assert!(!given.iter().any(|name| *name == "vgpup_open" || *name == "vmie_mem_open"), "{given:?}");

    let program = dir.join("no_heap");
    compile(&dir, &archive, &program);
    take_a_frame(&dir, &program);
}

/// A program that was built for another form of the library: `.ci/c-api` makes one without SSE and without a red zone.
#[test]
fn the_program_of_another_form_runs_too() {
    if let Some(program) = std::env::var_os("VGPU_NO_HEAP_PROGRAM") {
        take_a_frame(&Dir::new("no-heap-other"), program.as_ref());
    }
}

fn compile(dir: &Dir, archive: &Path, program: &Path) {
    run(Command::new(compiler())
        .args(WARNINGS)
        .args(["-O1", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-tree-loop-distribute-patterns"])
        .args(["-nostdlib", "-static", "-I"])
        .arg(dir.join("include/vgpu-perception"))
        .arg(root().join("tests/c/no_heap.c"))
        .arg(archive)
        .arg("-o")
        .arg(program));
}

fn take_a_frame(dir: &Dir, program: &Path) {
    let guest = LiveGuest::new(
        dir,
        LinuxOptions { ram: 1280 << 20, processes: 4, placement: Placement::Fragments64K, ..LinuxOptions::default() },
    );
    let output = run(&mut command(program, guest.test_args()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("without a heap, on "), "{text}");
    print!("figure: {text}");
}
