//! C programs against the library, and guests to run them on.
#![allow(dead_code, reason = "each test uses a part")]

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use vgpu_perception_producer::pattern;
use vgpu_perception_testkit::linux::{LinuxOptions, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Field, FileSegment, Ram, Region};

/// Where this package lies.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory that is removed afterwards.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vgpu-capi-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Builds the library as `cargo build` does; where its files are. Cargo itself builds no C library for a test.
pub(crate) fn built(file: &str) -> PathBuf {
    static DEBUG: OnceLock<PathBuf> = OnceLock::new();
    let debug = DEBUG.get_or_init(|| {
        // target/debug/deps/this-test
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--offline", "-p", env!("CARGO_PKG_NAME"), "--target-dir"]).arg(target);
        run(cargo.current_dir(root()));
        target.join("debug")
    });
    debug.join(file)
}

/// Builds the shared library that is installed: optimised as a whole.
pub(crate) fn optimised() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["rustc", "--offline", "--release", "-p", env!("CARGO_PKG_NAME"), "--lib", "--target-dir"]).arg(target);
    run(cargo.args(["--crate-type", "staticlib,cdylib"]).current_dir(root()));
    target.join("release/libvgpu_perception_c.so")
}

/// The shared library under the names that it is installed with.
pub(crate) fn shared_library(dir: &Dir) -> PathBuf {
    link_library(dir, built("libvgpu_perception_c.so"))
}

/// `library` under the names that it is installed with.
pub(crate) fn link_library(dir: &Dir, library: PathBuf) -> PathBuf {
    for name in ["libvgpu_perception.so", "libvgpu_perception.so.0"] {
        std::os::unix::fs::symlink(&library, dir.join(name)).unwrap();
    }
    library
}

/// The C compiler: `CC`, or `cc`.
pub(crate) fn compiler() -> String {
    std::env::var("CC").unwrap_or_else(|_| "cc".into())
}

pub(crate) const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-std=c11"];

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// Compiles `source` of this package against the headers and the shared library.
pub(crate) fn program(dir: &Dir, source: &str) -> PathBuf {
    compile(dir, &root().join(source))
}

/// Compiles `source` against the headers and the shared library in `dir`.
pub(crate) fn compile(dir: &Dir, source: &Path) -> PathBuf {
    compile_as(dir, source, &["-O0"])
}

/// The same, with more options.
pub(crate) fn compile_as(dir: &Dir, source: &Path, options: &[&str]) -> PathBuf {
    let to = dir.0.join(source.file_stem().unwrap());
    run(Command::new(compiler())
        .args(WARNINGS)
        .args(options)
        .args(words("VGPU_TEST_CFLAGS"))
        .arg("-g")
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(&to)
        .arg("-L")
        .arg(&dir.0)
        .arg(format!("-Wl,-rpath,{}", dir.0.display()))
        .args(["-lvgpu_perception", "-pthread"]));
    to
}

/// A synthetic guest in a RAM file, whose producer's heart beats.
pub(crate) struct LiveGuest {
    pub(crate) linux: StandardLinux,
    pub(crate) path: PathBuf,
    pub(crate) segments: Vec<FileSegment>,
    _heart: Heart,
}

impl LiveGuest {
    pub(crate) fn new(dir: &Dir, options: LinuxOptions) -> Self {
        Self::of(dir, standard_linux(options))
    }

    pub(crate) fn of(dir: &Dir, linux: StandardLinux) -> Self {
        let path = dir.join("ram");
        let segments = linux.guest.ram.to_file(&path).unwrap();
        let heart = Heart::start(&path, &segments, &linux.region, &linux.guest.ram);
        Self { linux, path, segments, _heart: heart }
    }

    /// `--seg` options of the programs.
    pub(crate) fn seg_args(&self) -> Vec<String> {
        seg_args(&self.segments)
    }

    /// The arguments of `guest.c`.
    pub(crate) fn test_args(&self) -> Vec<String> {
        let number = |number: u64| format!("{number:#x}");
        let linux = &self.linux;
        let mut args = vec![
            self.path.to_str().unwrap().to_owned(),
            number(linux.kernel.init.root.get()),
            number(linux.region.space.root.get()),
            number(linux.region.base.get()),
            number(linux.forged.space.root.get()),
        ];
        args.extend(self.seg_args().into_iter().filter(|arg| arg != "--seg"));
        args
    }

    /// The checksum of the frame that the region shows.
    pub(crate) fn checksum(&self) -> u64 {
        let image = self.linux.region.image;
        pattern::checksum(&image.pixels(image.frames))
    }
}

/// `--seg` options of the programs.
pub(crate) fn seg_args(segments: &[FileSegment]) -> Vec<String> {
    let seg = |seg: &FileSegment| format!("{:#x}:{:#x}:{:#x}", seg.gpa.get(), seg.len, seg.offset);
    segments.iter().flat_map(|segment| ["--seg".to_owned(), seg(segment)]).collect()
}

/// A heartbeat that goes on in a RAM file until this is dropped.
pub(crate) struct Heart {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    pub(crate) fn start(path: &Path, segments: &[FileSegment], region: &Region, ram: &Ram) -> Self {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let gpa = region.gpa(Field::HEARTBEAT.offset).unwrap().get();
        let inside = |segment: &&FileSegment| gpa.wrapping_sub(segment.gpa.get()) < segment.len;
        let segment = segments.iter().find(inside).unwrap();
        let at = segment.offset + (gpa - segment.gpa.get());
        let first = region.get(ram, Field::HEARTBEAT);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || beat(&file, at, first, &stop)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn beat(file: &File, at: u64, first: u64, stop: &AtomicBool) {
    let mut count = first;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        file.write_all_at(&count.to_le_bytes(), at).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Further arguments from the environment: a sanitizer for the compiler, a program that runs the others.
fn words(variable: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// A command that runs `program` with `args`, under what `VGPU_TEST_RUNNER` says.
pub(crate) fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = match words("VGPU_TEST_RUNNER").split_first() {
        Some((runner, first)) => {
            let mut command = Command::new(runner);
            command.args(first).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(args);
    command
}
