//! A guest of cloud-hypervisor by its API: one question over HTTP, `vm.info`.
//!
//! Written from the public description of the API (its OpenAPI file, version 0.3.0), and tried against a server that
//! plays it; no release of cloud-hypervisor itself was run.

use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use vgpu_perception::Gpa;
use vgpu_perception_mapped::{Machine, MachineOptions, Segment, SegmentMap};

use super::cmdline::{Fields, size};
use super::error::{AttachError, AttachErrorKind};
use super::layout::{self, Layout};
use super::peer;
use super::procfs::ProcDir;
use super::vmm::{Vm, Vmm, name_in, option};

/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is taken.
pub const MAX_ANSWER: usize = 1 << 20;

/// The process behind the API at `socket`, and the layouts that fit what it says.
pub(super) fn ask(socket: &Path) -> Result<(Vm, Vec<Layout>), AttachError> {
    let refuse = |kind, what: String| AttachError::new(kind, format!("{}: {what}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            refuse(AttachErrorKind::NotFound, "no such socket; give cloud-hypervisor's --api-socket".into())
        }
        io::ErrorKind::PermissionDenied => refuse(
            AttachErrorKind::Permission,
            "this user may not connect to it: run as the user of the virtual machine, or as root".into(),
        ),
        io::ErrorKind::ConnectionRefused => refuse(
            AttachErrorKind::Ended,
            "nobody listens there any more: cloud-hypervisor has ended; `vgpu list` shows what runs".into(),
        ),
        _ => refuse(AttachErrorKind::Monitor, format!("cannot be connected to: {error}")),
    })?;
    let pid = peer::pid_of(stream.as_fd()).ok_or_else(|| {
        refuse(
            AttachErrorKind::Monitor,
            "who answers there cannot be seen from here (another pid namespace): give pid:N of cloud-hypervisor".into(),
        )
    })?;
    // Taken hold of before anything is asked.
    let proc = ProcDir::open(pid)?;
    let words = proc.words().unwrap_or_default();
    let name = name_in(Vmm::CloudHypervisor, &words);
    let vm = Vm { proc, vmm: Vmm::CloudHypervisor, words, name };
    let body = get(&mut stream).map_err(|what| refuse(AttachErrorKind::Monitor, what))?;
    let info: Value = serde_json::from_slice(&body)
        .map_err(|error| refuse(AttachErrorKind::Monitor, format!("its answer is no JSON: {error}")))?;
    let here = |error: AttachError| AttachError::new(error.kind(), format!("{}: {error}", socket.display()));
    let zones = zones(&info).map_err(here)?;
    let areas = vm.proc.maps()?;
    let mut why = None;
    for map in maps(&zones, &plugged(&info), boot_size(&vm.words))? {
        match layout::mapped_apart(&map, &areas) {
            Ok(layouts) => return Ok((vm, layouts)),
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(here(why.unwrap_or_else(|| AttachError::new(AttachErrorKind::Layout, "it names no size of RAM"))))
}

/// The size that the machine was started with, where its command line has it.
fn boot_size(words: &[String]) -> Option<u64> {
    let memory = option(words, "--memory")?;
    Fields::parse(&memory, "size").get("size").and_then(|text| size(text, 0)).filter(|size| *size > 0)
}

/// The maps that sizes allow, the likeliest first: all RAM from the start, or some of it plugged in later.
fn maps(zones: &[u64], plugged: &[u64], boot: Option<u64>) -> Result<Vec<SegmentMap>, AttachError> {
    let whole = with_plugged(zones, plugged)?;
    let mut maps = vec![whole];
    // By ACPI, what was plugged in counts as the machine's size from then on.
    if let ([total], Some(boot)) = (zones, boot)
        && *total > boot
    {
        maps.push(with_plugged(&[boot], &[total - boot])?);
    }
    Ok(maps)
}

/// RAM of these zones, and of what was plugged in: each at the next 128 MiB behind all RAM, and not below 4 GiB.
fn with_plugged(zones: &[u64], plugged: &[u64]) -> Result<SegmentMap, AttachError> {
    const ALIGN: u64 = 128 << 20;
    let map = Machine::CloudHypervisor.map(zones, MachineOptions::default())?;
    let mut segments = map.segments().to_vec();
    let ends = segments.iter().map(|segment| segment.gpa.get().saturating_add(segment.len));
    let end = ends.max().unwrap_or(0);
    let mut at = if end <= 3 << 30 { 4 << 30 } else { end };
    for (index, len) in plugged.iter().enumerate() {
        at = at.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
        segments.push(Segment { gpa: Gpa::new(at), len: *len, file: zones.len() + index, offset: 0 });
        at = at.saturating_add(*len);
    }
    Ok(SegmentMap::new(segments)?)
}

/// Asks for `vm.info` and gives the body of the answer.
fn get(stream: &mut UnixStream) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + PATIENCE;
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(format!("did not answer within {} s; give pid:N instead", PATIENCE.as_secs())),
        left => Ok(left.max(Duration::from_millis(1))),
    };
    let request = b"GET /api/v1/vm.info HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n";
    stream
        .set_write_timeout(Some(left()?))
        .and_then(|()| stream.write_all(request))
        .map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut some = [0; 16 << 10];
    loop {
        if let Some(answer) = answer(&bytes)? {
            return Ok(answer);
        }
        let left = left()?;
        match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut some)) {
            Ok(0) => return Err("closed the connection in the middle of its answer".into()),
            Ok(len) => bytes.extend_from_slice(some.get(..len).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(format!("reading from it failed: {error}")),
        }
    }
}

/// The body of the HTTP answer in `bytes`, once it is whole.
///
/// # Errors
/// What is wrong with it: no HTTP, another status than 200, no length, or more than [`MAX_ANSWER`] bytes.
pub fn answer(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let start = bytes.get(..5.min(bytes.len())).unwrap_or_default();
    if !b"HTTP/".starts_with(start) {
        return Err("what answers there is no HTTP API: is it the --api-socket of cloud-hypervisor?".into());
    }
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > MAX_ANSWER { Err("its answer is longer than 1 MiB".into()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().split_whitespace().nth(1).unwrap_or_default();
    let length = lines.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let length = match (status, length) {
        ("200", Some(length)) if length <= MAX_ANSWER => length,
        ("200", Some(length)) => return Err(format!("its answer has {length} bytes, more than 1 MiB")),
        ("200", None) => return Err("its answer does not say how long it is".into()),
        _ => {
            return Err(format!(
                "vm.info is answered with status {status:?}: is a virtual machine created and booted?"
            ));
        }
    };
    let body = bytes.get(end + 4..).unwrap_or_default();
    Ok(body.get(..length).map(<[u8]>::to_vec))
}

/// How much each zone may grow by virtio-mem: that much is mapped from the start, and the guest is given a part.
fn plugged(info: &Value) -> Vec<u64> {
    let memory = &info["config"]["memory"];
    let by_virtio = memory["hotplug_method"].as_str() == Some("VirtioMem");
    let zones = memory["zones"].as_array().into_iter().flatten().chain([memory]);
    zones.filter(|_| by_virtio).filter_map(|zone| zone["hotplug_size"].as_u64()).filter(|size| *size > 0).collect()
}

/// The sizes of the RAM's zones, in order; without zones, of all RAM.
///
/// # Errors
/// [`AttachError`]: a guest that has not started, one whose RAM is encrypted, or sizes that are none.
pub fn zones(info: &Value) -> Result<Vec<u64>, AttachError> {
    let refuse = |kind, what: &str| Err(AttachError::new(kind, what));
    if !matches!(info["state"].as_str(), Some("Running" | "Paused")) {
        return refuse(
            AttachErrorKind::Layout,
            &format!("its virtual machine is {}, and has no RAM until it runs: boot it", info["state"]),
        );
    }
    let config = &info["config"];
    if config["platform"]["tdx"].as_bool() == Some(true) || config["platform"]["sev_snp"].as_bool() == Some(true) {
        return refuse(
            AttachErrorKind::Encrypted,
            "the RAM of this guest is encrypted (TDX or SEV-SNP): nobody outside can read it",
        );
    }
    let memory = &config["memory"];
    let mut sizes = Vec::new();
    for zone in memory["zones"].as_array().into_iter().flatten() {
        sizes.push(zone["size"].as_u64().unwrap_or(0));
    }
    if sizes.is_empty() {
        sizes.push(memory["size"].as_u64().unwrap_or(0));
    }
    if sizes.contains(&0) || sizes.len() > 64 {
        return refuse(
            AttachErrorKind::Layout,
            "its answer names no size of RAM: this is no vm.info of cloud-hypervisor",
        );
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_whole_or_not_yet() {
        let text = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(answer(text), Ok(Some(b"{}".to_vec())));
        for end in 0..text.len() {
            assert_eq!(answer(&text[..end]), Ok(None), "{end}");
        }
        for (text, says) in [
            ("QEMU", "no HTTP"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            ("HTTP/1.1 200 OK\r\n\r\n", "how long"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", "9999999"),
        ] {
            let error = answer(text.as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn zones_are_summed_up_in_order() {
        let one = json!({ "state": "Running", "config": { "memory": { "size": 1024, "shared": true } } });
        assert_eq!(zones(&one), Ok(vec![1024]));
        let two = json!({ "state": "Running", "config": { "memory": { "size": 0, "zones": [{ "size": 4096 }, { "size": 8192 }] } } });
        assert_eq!(zones(&two), Ok(vec![4096, 8192]));
        let created = json!({ "state": "Created", "config": { "memory": { "size": 1024 } } });
        assert!(zones(&created).unwrap_err().to_string().contains("Created"));
        assert_eq!(zones(&json!({ "state": "Running" })).unwrap_err().kind(), AttachErrorKind::Layout);
    }

    #[test]
    fn what_is_plugged_in_lies_behind_all_ram() {
        const GIB: u64 = 1 << 30;
        let at = |map: &SegmentMap| map.segments().iter().map(|one| (one.gpa.get(), one.len)).collect::<Vec<_>>();
        let low = maps(&[GIB], &[GIB / 2], None).unwrap();
        assert_eq!(at(&low[0]), [(0, GIB), (4 * GIB, GIB / 2)]);
        let odd = with_plugged(&[4 * GIB + (1 << 20)], &[GIB]).unwrap();
        assert_eq!(at(&odd).last(), Some(&(5 * GIB + (128 << 20), GIB)), "at the next 128 MiB");
        // By ACPI the size has grown, and the command line has the one before.
        let grown = maps(&[3 * GIB], &[], Some(2 * GIB)).unwrap();
        assert_eq!((at(&grown[0]), at(&grown[1])), (vec![(0, 3 * GIB)], vec![(0, 2 * GIB), (4 * GIB, GIB)]));
        let words = ["cloud-hypervisor", "--memory", "size=2G,shared=on"].map(str::to_owned);
        assert_eq!(boot_size(&words), Some(2 * GIB));
        assert_eq!(boot_size(&words[..1]), None);
    }
}
