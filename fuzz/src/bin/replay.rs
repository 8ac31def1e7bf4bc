//! The targets without libFuzzer: replays a corpus, then mutates it for a while with a seeded generator.
//!
//! `replay TARGET|all [--seconds N] [--seed N] [FILE|DIRECTORY…]`; without paths, `corpus/TARGET`. Guided by nothing:
//! what it finds is found by number. An input that breaks a property is written to `artifacts/` and named.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vgpu_perception_fuzz::{TARGETS, Target};
use vgpu_perception_testkit::Rng;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        eprintln!("replay TARGET|all [--seconds N] [--seed N] [FILE|DIRECTORY...]; targets: {}", names());
        return ExitCode::from(2);
    };
    let (mut seconds, mut seed, mut paths) = (0, 1, Vec::new());
    while let Some(arg) = args.next() {
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        match arg.as_str() {
            "--seconds" | "--seed" => {
                let Some(value) = number(args.next()) else {
                    eprintln!("{arg} takes a number");
                    return ExitCode::from(2);
                };
                *(if arg == "--seconds" { &mut seconds } else { &mut seed }) = value;
            }
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let chosen: Vec<_> = TARGETS.iter().filter(|(known, _)| name == "all" || name == *known).collect();
    if chosen.is_empty() {
        eprintln!("there is no target `{name}`; there are {}", names());
        return ExitCode::from(2);
    }
    for (known, target) in chosen {
        let paths = if paths.is_empty() { vec![Path::new("corpus").join(known)] } else { paths.clone() };
        if let Err(input) = fuzz(known, *target, &paths, Duration::from_secs(seconds), seed) {
            eprintln!("{known}: a property is broken by {}", input.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn names() -> String {
    TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn fuzz(name: &str, target: Target, paths: &[PathBuf], time: Duration, seed: u64) -> Result<(), PathBuf> {
    let mut corpus: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for path in paths {
        let files: Vec<_> = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![path.clone()],
        };
        corpus.extend(files.into_iter().filter_map(|file| fs::read(&file).ok().map(|bytes| (file, bytes))));
    }
    corpus.sort();
    for (file, bytes) in &corpus {
        if !holds(target, bytes) {
            return Err(file.clone());
        }
    }
    let begun = Instant::now();
    let mut rng = Rng::new(seed);
    let mut executions = corpus.len();
    while begun.elapsed() < time {
        let input = mutate(&corpus, &mut rng);
        executions += 1;
        if !holds(target, &input) {
            let path = Path::new("artifacts").join(format!("{name}-{seed}-{executions}"));
            let _ = fs::create_dir_all("artifacts");
            let _ = fs::write(&path, &input);
            return Err(path);
        }
    }
    println!(
        "figure: {name}: {} inputs replayed, {executions} executions in {:.0} s, stable harness, seed {seed}",
        corpus.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn holds(target: Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(input))).is_ok()
}

/// One of the corpus, cut, spliced, and with some bytes changed; or new bytes.
fn mutate(corpus: &[(PathBuf, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let mut input = if corpus.is_empty() || rng.below(4) == 0 {
        let len = rng.below(3000);
        (0..len).map(|_| rng.below(256).to_le_bytes()[0]).collect()
    } else {
        rng.pick(corpus).1.clone()
    };
    for _ in 0..=rng.below(16) {
        let len = input.len() as u64;
        let at = usize::try_from(rng.below(len.max(1))).unwrap_or(0);
        match rng.below(5) {
            0 if !input.is_empty() => input[at] = rng.below(256).to_le_bytes()[0],
            1 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
            2 => input.truncate(at.max(8)),
            3 => input.extend((0..rng.below(64)).map(|n| n.to_le_bytes()[0])),
            _ if !corpus.is_empty() => input.extend_from_slice(&rng.pick(corpus).1),
            _ => {}
        }
        input.truncate(8192);
    }
    input
}
