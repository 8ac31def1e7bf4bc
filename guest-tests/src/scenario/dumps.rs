//! Dumps that QEMU writes of a guest, read by the command as its users run it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use vgpu_perception::region::Sample;
use vgpu_perception_guest_tests::{Guest, Machine, Memory, Options, Ready, Result};
use vgpu_perception_host::Guest as Host;
use vgpu_perception_producer::pattern;

use super::ensure;
use super::ways::{SIZE, SMALL, SPLIT};

/// A core of a machine with RAM on both sides of the hole, and one that is refused.
pub(crate) fn run() -> Result<()> {
    let options = Options { memory: Memory::Private, machine: Machine::Q35, more: SPLIT, ..SMALL };
    let mut guest = Guest::boot(options)?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let file = guest.dir().join("core");
    dump(&mut guest, &file, &json!({ "paging": false, "protocol": format!("file:{}", file.display()) }))?;
    read(&file, ready)?;
    fs::remove_file(&file)?;
    let protocol = format!("file:{}", file.display());
    dump(&mut guest, &file, &json!({ "paging": false, "protocol": protocol, "format": "kdump-zlib" }))?;
    let (code, _, errors) = vgpu(&["find", &format!("core:{}", file.display())])?;
    ensure!(code == 3 && errors.contains("make an ELF core instead"), "of kdump: {code}: {errors}");
    println!("  kdump-compressed: refused, with what to do");
    Ok(())
}

fn dump(guest: &mut Guest, file: &Path, how: &Value) -> Result<()> {
    guest.qmp().execute("dump-guest-memory", how)?;
    println!("  {}: {} MiB", how["format"].as_str().unwrap_or("elf"), fs::metadata(file)?.len() >> 20);
    Ok(())
}

/// Exit code, standard output and errors of the command beside this program.
pub(super) fn vgpu(args: &[&str]) -> Result<(i32, String, String)> {
    let program = std::env::current_exe()?.with_file_name("vgpu");
    let output = Command::new(&program).args(args).output();
    let output = output.map_err(|error| format!("{}: {error}. Run .ci/attach, which builds it", program.display()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
}

/// What the command says of the dump in `file`: the region is found, nothing of it lives, and its frame is right.
pub(super) fn read(file: &Path, ready: Ready) -> Result<()> {
    let core = format!("core:{}", file.display());
    let json = |args: &[&str]| -> Result<Value> {
        let (code, text, errors) = vgpu(args)?;
        ensure!(code == 0, "vgpu {}: exit {code}: {errors}", args.join(" "));
        Ok(serde_json::from_str(&text)?)
    };
    let found = json(&["find", &core, "--json"])?;
    let base = format!("{:#x}", ready.base);
    let candidates = found["candidates"].as_array().cloned().unwrap_or_default();
    let here = candidates.iter().any(|one| one["base"] == base && one["alive"] == false);
    ensure!(here, "the producer says {base}, and find: {found:#}");
    let processes = json(&["ps", &core, "--json"])?;
    let count = processes["processes"].as_array().map_or(0, Vec::len);
    ensure!(count > 3, "ps of a guest with a dozen processes: {processes:#}");
    let status = json(&["status", &core, "--base", &base, "--json"])?;
    ensure!(status["live"] == false || status["alive"] == false, "status of a dump: {status:#}");
    let picture = file.with_extension("png");
    let sample = json(&["sample", &core, "--base", &base, "-o", &picture.display().to_string(), "--json"])?;
    ensure!(sample["live"] == false, "sample of a dump: {sample:#}");
    ensure!(fs::read(&picture)?.starts_with(b"\x89PNG"), "no picture in {}", picture.display());
    fs::remove_file(&picture)?;

    let host = Host::attach(&core)?;
    let survey = host.survey()?;
    ensure!(survey.wait().is_zero(), "a dump is waited for");
    let ours = survey.stale().find(|one| one.candidate.base.get() == ready.base);
    let mut live = survey.open(ours.ok_or("the region is not in the survey")?);
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 4) as usize];
    let Sample::Fresh(frame) = live.frame(&mut pixels)? else { return Err("the dump has no frame".into()) };
    pattern::check(frame.desc.frame_id, SIZE.0, SIZE.1, &pixels)?;
    println!("  found, {count} processes, status, sample: \"live\": false, exit 0; every pixel right");
    Ok(())
}
