//! Tells `vgpu --version` the commit: from the package where crates.io delivered it, from git in a checkout, or from
//! `VGPU_COMMIT`, for who builds out of an archive.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=VGPU_COMMIT");
    let commit = env::var("VGPU_COMMIT").ok().or_else(packaged).or_else(checked_out);
    let version = env!("CARGO_PKG_VERSION");
    let text = match commit {
        Some(commit) => format!("{version} ({})", commit.trim().chars().take(12).collect::<String>()),
        None => format!("{version} (unknown commit)"),
    };
    println!("cargo::rustc-env=VGPU_VERSION={text}");
}

fn manifest_dir() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default()
}

/// What `cargo package` wrote into the package: `{"git": {"sha1": "…"}}`.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(manifest_dir().join(".cargo_vcs_info.json")).ok()?;
    let after = text.split("\"sha1\"").nth(1)?;
    after.split('"').nth(1).map(str::to_owned)
}

/// HEAD of the checkout that this package is a part of.
fn checked_out() -> Option<String> {
    // A package that somebody unpacked inside of another repository is not a part of that one.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // Built anew when HEAD moves: both what HEAD names, and where that is.
    let mut watched = vec!["HEAD".to_owned(), "packed-refs".to_owned()];
    watched.extend(git(&["symbolic-ref", "-q", "HEAD"]));
    for name in watched {
        if let Some(path) = git(&["rev-parse", "--git-path", &name]) {
            let path = manifest_dir().join(path);
            // A file that does not exist would make every build a new one.
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    git(&["rev-parse", "HEAD"])
}

/// The first line that git prints, where it is there and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(manifest_dir()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
