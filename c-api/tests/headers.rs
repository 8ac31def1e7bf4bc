//! The headers: they compile everywhere without a warning, declare what they should, and name every exported symbol.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{Dir, WARNINGS, built, compiler, program, root, run, shared_library};

const HEADERS: [&str; 5] = ["vgpu_stream.h", "memmodel.h", "win32.h", "vgpu_perception.h", "vgpu_perception_ext.h"];

/// The functions that `header` declares, those of the heap section apart.
fn declared(header: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("include").join(header)).unwrap();
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        code.push_str(before);
        rest = after.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let code: String = code.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    code.split(';')
        .filter(|statement| !statement.contains("typedef") && !statement.contains("VGPU_LAYOUT"))
        .filter_map(|statement| statement.split_once('(').map(|(head, _)| head))
        .filter_map(|head| head.rsplit(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn all_declared() -> BTreeSet<String> {
    HEADERS.iter().flat_map(|header| declared(header)).collect()
}

#[test]
fn each_header_compiles_alone_and_twice() {
    let dir = Dir::new("headers");
    for header in HEADERS {
        let source = dir.join("t.c");
        std::fs::write(&source, format!("#include \"{header}\"\n#include \"{header}\"\nint x;\n")).unwrap();
        run(Command::new(compiler())
            .args(WARNINGS)
            .args(["-pedantic", "-c", "-I"])
            .arg(root().join("include"))
            .arg(&source)
            .arg("-o")
            .arg(dir.join("t.o")));
    }
}

#[test]
fn the_declarations_are_those_of_the_table() {
    let dir = Dir::new("declarations");
    shared_library(&dir);
    // Linking it proves that every function that it names is there.
    run(&mut Command::new(program(&dir, "tests/c/declarations.c")));
    let table = std::fs::read_to_string(root().join("tests/c/declarations.c")).unwrap();
    for header in ["memmodel.h", "win32.h", "vgpu_perception.h"] {
        for function in declared(header) {
            let named = table.contains(&format!("SAME(&{function},")) || table.contains(&format!("P({function})"));
            assert!(named, "{header}: {function} is not in the table");
        }
    }
}

#[test]
fn the_shared_library_exports_what_the_headers_declare() {
    let library = built("libvgpu_perception_c.so");
    let output = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let text = String::from_utf8(output.stdout).unwrap();
    let exported: BTreeSet<String> = text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(exported, all_declared());
    assert!(exported.len() > 35, "{exported:?}");
}

#[test]
fn the_shared_library_has_its_soname() {
    let output = run(Command::new("readelf").arg("-d").arg(built("libvgpu_perception_c.so")));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Library soname: [libvgpu_perception.so.0]"), "{text}");
}
