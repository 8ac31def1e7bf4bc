//! Clients that misbehave while the wall goes on: one that never reads, one that closes its half, garbage in between.

mod common;

use core::time::Duration;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use common::{Answer, Machine, Running, TOKEN, whole};
use vgpu_perception_serve::Limits;

/// What a metric says now.
fn metric(server: &Running, name: &str) -> u64 {
    let text = server.get("/metrics", "").text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits for what has to come; how long it takes is the machine's affair.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_client_that_never_reads_is_dropped_and_its_place_given_back() {
    // Large pictures: what the kernel keeps for a client that does not read is full soon.
    let machine = Machine::start(1280, 720, 60, u64::MAX);
    let server = Running::start(vec![machine.source("one")], Limits::default().seconds(1));
    server.frame("/guests/one/frame.jpg");
    let mut sleeper = server.connect();
    let request = format!(
        "GET /guests/one/stream?fps=60 HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        server.tcp()
    );
    sleeper.write_all(request.as_bytes()).unwrap();
    until("nobody looks", || metric(&server, "vgpu_viewers{guest=\"one\"}") == 1);
    until("a client that never reads is still there", || metric(&server, "vgpu_viewers{guest=\"one\"}") == 0);
    // This question's own connection is the only one that is left.
    until("its place was not given back", || metric(&server, "vgpu_clients") == 1);
    // It finds whole frames as far as the kernel kept them, and then the end; not a stream that goes on.
    let mut rest = Vec::new();
    let _ = sleeper.read_to_end(&mut rest);
    assert!(rest.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&rest[..rest.len().min(40)]));
    whole(&server.frame("/guests/one/frame.png"));
}

#[test]
fn a_client_that_closes_its_half_harms_nobody() {
    let machine = Machine::start(320, 200, 30, u64::MAX);
    let server = Running::start(vec![machine.source("one")], Limits::default().seconds(1));
    server.frame("/guests/one/frame.png");
    let host = server.tcp();
    for path in ["/guests", "/guests/one/frame.png", "/guests/one/stream", "/metrics"] {
        let mut half = server.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        half.write_all(request.as_bytes()).unwrap();
        half.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        // It ends by itself: a stream that nobody can end would not.
        let _ = half.read_to_end(&mut bytes);
        let answer = Answer::parse(&bytes);
        assert!(matches!(answer.status, 0 | 200), "{path}: {}", answer.head);
    }
    until("places were not given back", || metric(&server, "vgpu_clients") == 1);
    until("a viewer that has gone is counted", || metric(&server, "vgpu_viewers{guest=\"one\"}") == 0);
    whole(&server.frame("/guests/one/frame.png"));
}

#[test]
fn garbage_from_many_while_somebody_looks() {
    let machine = Machine::start(320, 200, 30, u64::MAX);
    let server = Running::start(vec![machine.source("one")], Limits::default().seconds(2).clients(32));
    server.frame("/guests/one/frame.png");
    std::thread::scope(|scope| {
        for seed in 1..=8_u32 {
            let server = &server;
            scope.spawn(move || {
                let mut state = seed;
                for _ in 0..40 {
                    let mut bytes = vec![0_u8; 300];
                    for byte in &mut bytes {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        *byte = (state >> 24) as u8;
                    }
                    if state & 1 == 0 {
                        // The start of a request, and then garbage.
                        bytes.splice(0..0, b"GET /guests/one/stream HTTP/1.1\r\nHost: ".iter().copied());
                    }
                    let mut stream = server.connect();
                    let _ = stream.write_all(&bytes);
                    if state & 2 == 0 {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    let mut answer = [0; 16];
                    let _ = stream.shutdown(Shutdown::Write);
                    if let Ok(count) = stream.read(&mut answer)
                        && count > 12
                    {
                        let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
                        assert!(status.starts_with(['4', '5']), "garbage was answered with {status}");
                    }
                }
            });
        }
        for _ in 0..20 {
            whole(&server.frame("/guests/one/frame.png"));
        }
    });
    until("places were not given back", || metric(&server, "vgpu_clients") == 1);
}
