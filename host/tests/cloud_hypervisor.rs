//! A guest of cloud-hypervisor, whose API and memory this test plays: the answer to `vm.info` as its public description
//! says, the RAM in memfds.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{MemfdFlags, memfd_create};
use vgpu_perception::process::roots::{RootCandidate, RootElection};
use vgpu_perception_host::Ram;
use vgpu_perception_host::attach::{AttachErrorKind, GuestSource, GuestSpec, attach};

use vgpu_perception_testkit::{LinuxOptions, StandardLinux, candidates, standard_linux};

/// A memfd of `len` bytes with what `guest` has at `from`, mapped as a VMM maps it.
fn zone(guest: &StandardLinux, from: u64, len: u64, shared: bool) -> (File, MmapMut) {
    let file = File::from(memfd_create("ch_ram", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    for gpa in guest.guest.ram.present_pages() {
        if let Some(skip) = gpa.get().checked_sub(from).filter(|skip| *skip < len) {
            file.write_all_at(&guest.guest.ram.bytes(gpa, 4096), skip).unwrap();
        }
    }
    let map = if shared {
        // SAFETY: the file is this test's own, and nobody shrinks it.
        unsafe { MmapMut::map_mut(&file) }
    } else {
        // SAFETY: as above.
        unsafe { MmapOptions::new().map_copy(&file) }
    };
    (file, map.unwrap())
}

/// Answers one client with each of these bodies.
fn api(name: &str, bodies: impl IntoIterator<Item = String>) -> (GuestSpec, thread::JoinHandle<()>) {
    let bodies: Vec<String> = bodies.into_iter().collect();
    let path: PathBuf = std::env::temp_dir().join(format!("vgpu-ch-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let socket = path.clone();
    let server = thread::spawn(move || {
        for body in bodies {
            let mut stream = listener.accept().unwrap().0;
            let mut request = [0; 1024];
            let len = stream.read(&mut request).unwrap();
            assert!(request[..len].starts_with(b"GET /api/v1/vm.info HTTP/1.1\r\n"));
            let head = format!(
                "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            // In two pieces, as a stream may come.
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
            let _ = stream.read(&mut request);
        }
        let _ = std::fs::remove_file(socket);
    });
    (GuestSpec::new(GuestSource::CloudHypervisor(path)), server)
}

fn places(ram: &Ram) -> Vec<u64> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut found: Vec<u64> =
        candidates(ram, RootElection::new(None, &mut scratch)).iter().map(|one| one.found.page.get()).collect();
    found.sort_unstable();
    found
}

#[test]
fn zones_of_one_size_in_the_order_that_makes_sense() {
    let options = LinuxOptions { ram: 2 << 30, ..LinuxOptions::default() };
    let guest = standard_linux(options);
    let half = options.ram / 2;
    let mut truth = [guest.region.gpa(0).unwrap().get(), guest.forged.gpa(0).unwrap().get()];
    truth.sort_unstable();
    for (shared, lower_first) in [(true, false), (true, true), (false, false)] {
        // Made in either order: in one of them addresses suggest what is wrong.
        let starts = if lower_first { [0, half] } else { [half, 0] };
        let _zones = starts.map(|from| zone(&guest, from, half, shared));
        let zones = format!(r#"[{{"id":"a","size":{half},"shared":true}},{{"id":"b","size":{half},"shared":true}}]"#);
        let body = format!(
            r#"{{"config":{{"memory":{{"size":0,"zones":{zones}}}}},"state":"Running","memory_actual_size":1}}"#
        );
        let (spec, server) = api(if shared { "shared" } else { "private" }, [body]);
        if shared {
            let attachment = attach(&spec).unwrap();
            assert!(matches!(*attachment.ram, Ram::Mapped(_)), "shared memfds are mapped");
            assert_eq!(attachment.ram.bytes(), options.ram);
            assert_eq!(places(&attachment.ram), truth, "{:?}", attachment.notes);
            assert!(attachment.notes.iter().any(|note| note.contains("layouts")), "{:?}", attachment.notes);
        } else {
            // Private copies of a file are no RAM of cloud-hypervisor.
            assert_eq!(attach(&spec).unwrap_err().kind(), AttachErrorKind::Layout);
        }
        server.join().unwrap();
    }
}

#[test]
fn a_machine_that_does_not_run() {
    let body = r#"{"config":{"memory":{"size":536870912}},"state":"Created"}"#;
    let (spec, server) = api("created", [body.to_owned()]);
    let error = attach(&spec).unwrap_err();
    assert!(error.to_string().contains("boot it"), "{error}");
    server.join().unwrap();
}

/// What was plugged in after attaching is seen by the next look: the API is asked again.
#[test]
fn memory_that_is_plugged_in_later() {
    let options = LinuxOptions { ram: 2 << 30, ..LinuxOptions::default() };
    let guest = standard_linux(options);
    let (boot, more) = (options.ram, 384_u64 << 20);
    let _boot = zone(&guest, 0, boot, true);
    let first = format!(r#"{{"config":{{"memory":{{"size":{boot},"hotplug_method":"Acpi"}}}},"state":"Running"}}"#);
    let zones = |hotplug: &str| {
        format!(
            r#"{{"config":{{"memory":{{"size":0,"hotplug_method":"VirtioMem","zones":[{{"id":"a","size":{boot}{hotplug}}}]}}}},"state":"Running"}}"#
        )
    };
    let by_virtio = zones(&format!(r#","hotplug_size":{more},"hotplugged_size":{}"#, 128 << 20));
    let (spec, server) = api("plugged", [first, by_virtio, zones(""), zones("")]);
    let mut attachment = attach(&spec).unwrap();
    assert_eq!(attachment.ram.bytes(), boot);
    let alone = attachment.ram.clone();
    // Nothing of the guest is in it yet.
    let plugged = zone(&guest, 8 << 30, more, true);
    attachment.refresh().unwrap();
    assert_eq!(attachment.ram.bytes(), boot + more, "the new zone is there");
    assert_eq!(attachment.ram.end().get(), (4 << 30) + more, "behind all RAM, and not below 4 GiB");
    assert!(!attachment.ram.is(&alone));
    assert_eq!(places(&attachment.ram).len(), places(&alone).len(), "and the guest is what it was");
    // What was unplugged is gone.
    drop(plugged);
    attachment.refresh().unwrap();
    assert_eq!(attachment.ram.bytes(), boot);
    let alone = attachment.ram.clone();
    attachment.refresh().unwrap();
    assert!(attachment.ram.is(&alone), "nothing has changed");
    server.join().unwrap();
}
