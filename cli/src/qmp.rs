//! QEMU itself says where its guest's RAM is: three questions over its monitor protocol (QMP, JSON lines on a socket).

use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vgpu_perception::{Cr3, Gpa, PagingMode};
use vgpu_perception_mapped::Segment;

use crate::failure::Failure;

/// What QEMU says of its guest.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) ram: PathBuf,
    pub(crate) segments: Vec<Segment>,
    /// Of the first processor, if it pages.
    pub(crate) root: Option<(Cr3, PagingMode)>,
}

/// Asks QEMU on `socket`. Its guest is interrupted for the moment that reading registers takes.
pub(crate) fn ask(socket: &Path) -> Result<Answer, Failure> {
    let mut monitor = Monitor::connect(socket)?;
    let backend = monitor.backend()?;
    let tree = monitor.human("info mtree -f")?;
    let segments = ram_segments(&tree, &backend.names).ok_or_else(|| {
        Failure::Guest(format!(
            "QEMU's memory tree has no RAM of {}; give the file and its layout with --map instead",
            backend.names.join(" or ")
        ))
    })?;
    let registers = monitor.human("info registers")?;
    Ok(Answer { ram: backend.path, segments, root: paging_root(&registers) })
}

struct Backend {
    path: PathBuf,
    /// What the memory tree may call it.
    names: Vec<String>,
}

struct Monitor {
    socket: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self, Failure> {
        let fail = |what: std::io::Error| {
            Failure::Guest(format!(
                "{}: {what}; start QEMU with -qmp unix:{},server=on,wait=off",
                socket.display(),
                socket.display()
            ))
        };
        let stream = UnixStream::connect(socket).map_err(fail)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(fail)?;
        stream.set_write_timeout(Some(Duration::from_secs(10))).map_err(fail)?;
        let mut monitor = Self { socket: socket.into(), reader: BufReader::new(stream) };
        let greeting = monitor.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(Failure::Guest(format!("{}: no QMP monitor answers there", socket.display())));
        }
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn receive(&mut self) -> Result<Value, Failure> {
        let fail = |what: String| Failure::Guest(format!("{}: {what}", self.socket.display()));
        let mut line = String::new();
        let got = self.reader.read_line(&mut line);
        match got {
            Ok(0) => Err(fail("QEMU closed the connection; is another client using this monitor?".into())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| fail(format!("QEMU's answer is no JSON: {error}"))),
            Err(error) => Err(fail(format!("no answer from QEMU: {error}; is another client using this monitor?"))),
        }
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Failure> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.reader
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::Guest(format!("{}: {error}", self.socket.display())))?;
        // Events come in between; a monitor that only ever sends events is given up.
        for _ in 0..1000 {
            let mut answer = self.receive()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given");
                return Err(Failure::Guest(format!("QEMU refused {command}: {why}")));
            }
        }
        Err(Failure::Guest(format!("QEMU does not answer {command}")))
    }

    fn human(&mut self, line: &str) -> Result<String, Failure> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// The backend of the machine's RAM.
    fn backend(&mut self) -> Result<Backend, Failure> {
        let objects = self.execute("qom-list", &json!({ "path": "/objects" }))?;
        let mut found = Vec::new();
        for object in objects.as_array().into_iter().flatten() {
            let (Some(name), Some(kind)) = (object["name"].as_str(), object["type"].as_str()) else { continue };
            if kind.starts_with("child<memory-backend-") {
                found.push((name.to_owned(), kind.trim_start_matches("child<").trim_end_matches('>').to_owned()));
            }
        }
        let (name, kind) = match found.as_slice() {
            [one] => one.clone(),
            [] => {
                return Err(Failure::Guest(
                    "this guest's RAM is in no file: start QEMU with -object memory-backend-file,id=ram,share=on,... \
                     -machine memory-backend=ram"
                        .into(),
                ));
            }
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                return Err(Failure::Guest(format!(
                    "this guest has {} memory backends ({}): give the file and its layout with --map",
                    several.len(),
                    names.join(", ")
                )));
            }
        };
        if kind != "memory-backend-file" {
            return Err(Failure::Guest(format!(
                "the guest's RAM is a {kind}, which has no path: give /proc/PID/fd/N of QEMU, with --machine or --map"
            )));
        }
        let path = format!("/objects/{name}");
        let get = |monitor: &mut Self, property: &str| {
            monitor.execute("qom-get", &json!({ "path": path, "property": property }))
        };
        if get(self, "share")? == json!(false) {
            return Err(Failure::Guest(format!(
                "memory backend {name} has share=off: its file never shows what the guest writes; start QEMU with share=on"
            )));
        }
        let file = get(self, "mem-path")?;
        let file =
            file.as_str().ok_or_else(|| Failure::Guest(format!("QEMU names no file for memory backend {name}")))?;
        // The machine's own name for its RAM is what the memory tree shows where the machine made the backend.
        Ok(Backend { path: file.into(), names: vec![name, "pc.ram".into(), "microvm.ram".into()] })
    }
}

/// The RAM runs of the flat view of `system`: where they lie, and at which offset of the backend.
///
/// Firmware, overlays and device pages cut low RAM into many runs; each is `gpa - offset` apart from the file as a whole, so
/// runs with the same distance are one segment. A hole that only the view has (a ROM over RAM) stays RAM in the file, which
/// is what the guest's page tables can never reach.
fn ram_segments(tree: &str, names: &[String]) -> Option<Vec<Segment>> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut in_system = false;
    for line in tree.lines() {
        if line.starts_with("FlatView") {
            in_system = false;
            if !segments.is_empty() {
                break;
            }
        }
        // ` AS "memory", root: system` names the view that the processors see.
        if line.contains("AS \"memory\"") || line.contains("Root memory region: system") {
            in_system = true;
        }
        if !in_system {
            continue;
        }
        let Some(run) = ram_run(line, names) else { continue };
        match segments.last_mut() {
            Some(last) if last.gpa.get().wrapping_sub(last.offset) == run.gpa.get().wrapping_sub(run.offset) => {
                last.len = run.gpa.get() + run.len - last.gpa.get();
            }
            _ => segments.push(run),
        }
    }
    if let Some(first) = segments.first_mut()
        && first.gpa.get() == first.offset
    {
        // Low RAM starts at 0 even where its first page shows something else.
        first.len += first.offset;
        first.gpa = Gpa::new(0);
        first.offset = 0;
    }
    (!segments.is_empty()).then_some(segments)
}

/// `  0000000100000000-000000013fffffff (prio 0, ram): ram @0000000080000000 KVM`
fn ram_run(line: &str, names: &[String]) -> Option<Segment> {
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let (kind, rest) = rest.split_once("): ")?;
    if !kind.ends_with(", ram") {
        return None;
    }
    let name = rest.split_whitespace().next()?;
    if !names.iter().any(|known| known == name) {
        return None;
    }
    let offset = rest.split_once('@').and_then(|(_, hex)| u64::from_str_radix(hex.split_whitespace().next()?, 16).ok());
    Some(Segment { gpa: Gpa::new(start), len: end - start + 1, offset: offset.unwrap_or(0), file: 0 })
}

/// `CR0=80050033 CR2=... CR3=0000000001a0a000 CR4=000006f0`, if paging is on.
fn paging_root(registers: &str) -> Option<(Cr3, PagingMode)> {
    let value = |name: &str| {
        let (_, rest) = registers.split_once(&format!("{name}="))?;
        let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let paging = value("CR0")? & (1 << 31) != 0;
    paging.then_some((Cr3::new(value("CR3")?), PagingMode::from_cr4(value("CR4")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
FlatView #0
 AS \"I/O\", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS \"memory\", root: system
 AS \"cpu-memory-0\", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000cafff (prio 0, rom): ram @00000000000c0000
  00000000000cb000-00000000000cdfff (prio 0, ram): ram @00000000000cb000
  0000000000100000-000000007fffffff (prio 0, ram): ram @0000000000100000
  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet
  0000000100000000-000000013fffffff (prio 0, ram): ram @0000000080000000
";

    fn segment(gpa: u64, len: u64, offset: u64) -> Segment {
        Segment { gpa: Gpa::new(gpa), len, offset, file: 0 }
    }

    #[test]
    fn the_split_is_taken_from_the_high_run() {
        let segments = ram_segments(TREE, &["ram".into()]).unwrap();
        assert_eq!(segments, [segment(0, 2 << 30, 0), segment(4 << 30, 1 << 30, 2 << 30)]);
        assert_eq!(ram_segments(TREE, &["other".into()]), None);
    }

    #[test]
    fn registers_give_a_root_only_with_paging() {
        let text = "CR0=80050033 CR2=00007f CR3=8000000001a0a002 CR4=00001ef0\n";
        assert_eq!(paging_root(text), Some((Cr3::new(0x8000_0000_01a0_a002), PagingMode::FiveLevel)));
        assert_eq!(paging_root("CR0=00000010 CR2=0 CR3=0 CR4=0"), None);
    }
}
