//! Monitors that misbehave: each ends in an error that says what is wrong, within a deadline and a megabyte.

use core::ops::Deref;
use core::time::Duration;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle, sleep};
use std::time::Instant;

use vgpu_perception_host::attach::{AttachError, AttachErrorKind, GuestSource, GuestSpec, MonitorAddress, attach};

/// The path of a socket; what is there is removed when this is dropped.
struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vgpu-monitor-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }
}

impl Deref for Socket {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Answers the first client as `answer` does.
fn served(name: &str, answer: impl FnOnce(UnixStream) + Send + 'static) -> (Socket, JoinHandle<()>) {
    let path = Socket::new(name);
    let listener = UnixListener::bind(&*path).unwrap();
    let server = thread::spawn(move || answer(listener.accept().unwrap().0));
    (path, server)
}

fn refused(path: &Path) -> AttachError {
    let spec = GuestSpec::new(GuestSource::Monitor(MonitorAddress::Unix(path.to_owned())));
    let error = attach(&spec).unwrap_err();
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    assert!(!error.to_string().contains("start QEMU with"), "it runs already: {error}");
    error
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}}}\r\n";

#[test]
fn a_flood_without_an_end() {
    let (path, server) = served("flood", |mut stream| {
        let some = vec![b'a'; 1 << 20];
        let _ = stream.write_all(b"{\"QMP\": \"");
        while stream.write_all(&some).is_ok() {}
    });
    let before = resident();
    let error = refused(&path);
    assert_eq!(error.kind(), AttachErrorKind::Monitor);
    assert!(error.to_string().contains("1 MiB"), "{error}");
    assert!(resident() < before + (64 << 20), "a megabyte is taken, not all that comes");
    server.join().unwrap();
}

#[test]
fn a_byte_now_and_then() {
    let (path, server) = served("drip", |mut stream| {
        let _ = stream.write_all(b"{\"QMP\":");
        while stream.write_all(b" ").is_ok() {
            sleep(Duration::from_millis(300));
        }
    });
    let error = refused(&path);
    assert!(error.to_string().contains("did not answer within 10 s"), "{error}");
    server.join().unwrap();
}

#[test]
fn events_and_never_an_answer() {
    let (path, server) = served("events", |mut stream| {
        let _ = stream.write_all(GREETING);
        while stream.write_all(b"{\"event\": \"X\", \"data\": {}}\n").is_ok() {
            sleep(Duration::from_millis(50));
        }
    });
    let error = refused(&path);
    assert!(error.to_string().contains("did not answer within 10 s"), "{error}");
    server.join().unwrap();
}

/// The monitor serves one client at a time: the second is not even accepted.
#[test]
fn a_monitor_that_another_client_holds() {
    let path = Socket::new("held");
    let listener = UnixListener::bind(&*path).unwrap();
    let holder = UnixStream::connect(&*path).unwrap();
    let (held, _) = listener.accept().unwrap();
    let error = refused(&path);
    assert_eq!(error.kind(), AttachErrorKind::MonitorBusy, "{error}");
    assert!(error.to_string().contains("another client (libvirt?) holds this monitor"), "{error}");
    drop((holder, held));
}

#[test]
fn one_that_closes_at_once() {
    let (path, server) = served("close", drop);
    assert_eq!(refused(&path).kind(), AttachErrorKind::Ended);
    server.join().unwrap();
}

#[test]
fn what_is_no_json() {
    for (name, bytes, says) in [
        ("nul", &b"\0\xff\xfe\n"[..], "no JSON"),
        ("http", b"HTTP/1.1 400 Bad Request\r\n\r\n", "no JSON"),
        ("human", b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", "-qmp"),
        ("other", b"{\"agent\": 1}\n", "no QMP monitor"),
    ] {
        let (path, server) = served(name, move |mut stream| {
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 16]);
        });
        let error = refused(&path);
        assert!(error.kind() == AttachErrorKind::Monitor && error.to_string().contains(says), "{name}: {error}");
        server.join().unwrap();
    }
}

/// Whoever answers is no virtual machine: whose RAM it speaks of cannot be proven.
#[test]
fn a_proxy_is_not_believed() {
    let (path, server) = served("proxy", |mut stream| {
        let _ = stream.write_all(GREETING);
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"{\r\n    \"return\": {\r\n    }\r\n}\r\n");
        let _ = stream.read(&mut [0; 16]);
    });
    let error = refused(&path);
    assert!(error.to_string().contains("is no virtual machine") && error.to_string().contains("pid:N"), "{error}");
    server.join().unwrap();
}

#[test]
fn sockets_that_nobody_serves() {
    let path = Socket::new("gone");
    assert_eq!(refused(&path).kind(), AttachErrorKind::NotFound);
    drop(UnixListener::bind(&*path).unwrap());
    let begun = Instant::now();
    assert_eq!(refused(&path).kind(), AttachErrorKind::Ended);
    assert!(begun.elapsed() < Duration::from_secs(60), "nothing is waited for");
}

#[test]
fn only_this_hosts_loopback() {
    let error = attach(&"qmp:192.0.2.1:4444".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
}
