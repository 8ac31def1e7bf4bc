//! The server as its clients see it: pixels, rights, bounds, and clients that misbehave.

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use common::{Answer, Machine, Running, TOKEN, bgra, source, whole};
use vgpu_perception_producer::pattern;
use vgpu_perception_serve::{Limits, Source};

fn dead(name: &str) -> Source {
    Source { name: name.into(), key: name.into(), attach: Box::new(|| Err("no such guest <here>".into())) }
}

#[test]
fn stills_are_the_guests_pixels_and_an_unchanged_one_is_not_sent_again() {
    let machine = Machine::start(320, 200, 30, 7);
    let server = Running::start(vec![machine.source("one")], Limits::default());
    let deadline = Instant::now() + Duration::from_secs(60);
    let answer = loop {
        let answer = server.frame("/guests/one/frame.png");
        if whole(&answer) == 7 {
            break answer;
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(answer.header("content-type"), Some("image/png"));
    let tag = answer.header("etag").unwrap();
    assert!(tag.ends_with(".7\""), "{tag}");
    let again = server.get("/guests/one/frame.png", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((again.status, again.body.len()), (304, 0), "{}", again.head);
    let other = server.get("/guests/one/frame.png", "If-None-Match: \"x\"\r\n");
    assert_eq!(whole(&other), 7);

    let jpeg = server.get("/guests/one/frame.jpg?width=160", "");
    let mut decoder = zune_jpeg::JpegDecoder::new(std::io::Cursor::new(&jpeg.body));
    let rgb = decoder.decode().unwrap();
    let info = decoder.info().unwrap();
    assert_eq!((info.width, info.height), (160, 100));
    assert!(near(&rgb, 160, 100, 7), "the thumbnail is not the frame");
    assert_eq!(server.get("/guests/one/frame.jpg?width=161", "").status, 400);
    assert_eq!(server.get("/guests/two/frame.jpg", "").status, 404);

    let metrics = server.get("/metrics", "");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in ["vgpu_live{guest=\"one\"} 1", "vgpu_run_epoch{guest=\"one\"} 1", "vgpu_copy_seconds_bucket{"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.contains("vgpu_frames_total{guest=\"one\"} "), "{text}");
}

/// Whether a picture of 320 x 200 or half of that shows frame `id`: each pixel is near the mean of those that it stands
/// for.
fn near(rgb: &[u8], width: usize, height: usize, id: u64) -> bool {
    let (step, mut frame) = (320 / width, vec![0; 320 * 200 * 4]);
    for (y, row) in (0..).zip(frame.chunks_exact_mut(320 * 4)) {
        pattern::fill_row(id, 320, 200, y, row);
    }
    let mut off = 0_u64;
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let square = (0..step * step).map(|n| (y * step + n / step) * 320 + x * step + n % step);
                let mean = square.map(|at| u32::from(frame[at * 4 + 2 - c])).sum::<u32>() / (step * step) as u32;
                off += u64::from(u32::from(rgb[(y * width + x) * 3 + c]).abs_diff(mean));
            }
        }
    }
    let mean = off / ((width * height * 3) as u64);
    println!("{width} x {height}, frame {id}: {mean} off in the mean");
    mean < 16
}

#[test]
fn nobody_gets_in_without_the_token() {
    let server = Running::start(vec![dead("secret-guest")], Limits::default());
    let host = server.tcp();
    let ask = |path: &str, headers: &str| {
        server.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"))
    };
    let paths =
        ["/", "/wall.js", "/guests", "/metrics", "/guests/secret-guest/frame.png", "/guests/secret-guest/stream", "/x"];
    for path in paths {
        for headers in ["", "Authorization: Bearer x\r\n", "Cookie: vgpu_token=x\r\n"] {
            let answer = ask(path, headers);
            assert_eq!(answer.status, 401, "{path} {headers}");
            assert!(!answer.text().contains("secret-guest"));
        }
    }
    let page = ask(&format!("/?token={TOKEN}"), "");
    assert_eq!((page.status, page.header("location")), (303, Some("/")));
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let list = ask("/guests", &format!("Cookie: {cookie}\r\n"));
    assert!(list.status == 200 && list.text().contains("secret-guest"));
    // The same cookie, from another page: nothing.
    for from in ["Origin: http://evil.example\r\n", "Origin: http://127.0.0.1:1\r\n", "Sec-Fetch-Site: same-site\r\n"] {
        let answer = ask("/guests", &format!("Cookie: {cookie}\r\n{from}"));
        assert_eq!(answer.status, 403, "{from}");
        assert!(!answer.text().contains("secret-guest") && answer.header("access-control-allow-origin").is_none());
    }
    let rebound =
        format!("GET /guests HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
    assert_eq!(server.ask(&rebound).status, 421);
    let post = format!(
        "POST /guests HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(server.ask(&post).status, 405);
    // What is wrong with a guest is told to who may know.
    std::thread::sleep(Duration::from_millis(300));
    assert!(ask("/guests", &format!("Cookie: {cookie}\r\n")).text().contains("no such guest"));
    assert_eq!(server.get("/guests/secret-guest/frame.png", "").status, 503);
}

#[test]
fn garbage_hurts_nobody_else() {
    let server = Running::start(vec![dead("one")], Limits::default().seconds(1));
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for garbage in
        ["\0\0\0\0", "GET", "\r\n\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &long, &many]
    {
        let mut stream = server.connect();
        // It may have been closed before all of it was sent.
        let _ = stream.write_all(garbage.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let answer = Answer::parse(&bytes);
        assert!(answer.status == 0 || answer.status >= 400, "{garbage:.20}: {}", answer.head);
    }
    // Half a request: the connection does not stay for ever.
    let mut half = server.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest);
    assert_eq!(server.get("/guests", "").status, 200);
}

/// The frames of a stream: number and JPEG.
fn frames(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..at]).into_owned();
        rest = &rest[at + 4..];
        let value =
            |name: &str| head.rsplit_once(name).and_then(|(_, rest)| rest.split("\r\n").next()?.trim().parse().ok());
        let (Some(length), Some(id)) = (value("Content-Length:"), value("X-Frame-Id:")) else { continue };
        let length: u64 = length;
        if rest.len() < length as usize {
            break;
        }
        frames.push((id, rest[..length as usize].to_vec()));
        rest = &rest[length as usize..];
    }
    frames
}

#[test]
fn a_stream_is_new_frames_and_a_client_that_never_reads_costs_no_other() {
    let machine = Machine::start(320, 200, 30, u64::MAX);
    let server = Running::start(vec![machine.source("one")], Limits::default().seconds(2));
    server.frame("/guests/one/frame.png");
    let request =
        format!("GET /guests/one/stream HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n", server.tcp());
    let mut sleeper = server.connect();
    sleeper.write_all(request.as_bytes()).unwrap();
    let mut watcher = server.connect();
    watcher.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let deadline = Instant::now() + Duration::from_secs(60);
    while frames(&bytes).len() < 60 {
        let count = watcher.read(&mut buffer).unwrap();
        assert!(count > 0 && Instant::now() < deadline, "the stream ended after {} frames", frames(&bytes).len());
        bytes.extend_from_slice(&buffer[..count]);
    }
    let seen = frames(&bytes);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "each frame once, in order");
    for (id, jpeg) in seen.iter().step_by(20) {
        let rgb = zune_jpeg::JpegDecoder::new(std::io::Cursor::new(jpeg)).decode().unwrap();
        assert!(near(&rgb, 320, 200, *id), "frame {id} is another picture");
    }
    drop(watcher);
    drop(sleeper);
    // Nobody looks: soon nothing is copied any more.
    let deadline = Instant::now() + Duration::from_secs(30);
    let viewers = |server: &Running| server.get("/metrics", "").text().contains("vgpu_viewers{guest=\"one\"} 0");
    while !viewers(&server) {
        assert!(Instant::now() < deadline, "a viewer that has gone is still counted");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_producer_that_ends_is_no_longer_shown() {
    let mut machine = Machine::start(320, 200, 30, u64::MAX);
    let server = Running::start(vec![machine.source("one"), dead("two")], Limits::default());
    whole(&server.frame("/guests/one/frame.png"));
    machine.stop();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = server.get("/guests/one/frame.png", "");
        if answer.status == 503 {
            assert!(answer.text().contains("stale") || answer.text().contains("no producer"), "{}", answer.text());
            break;
        }
        assert!(Instant::now() < deadline, "the last frame of a dead producer is still shown");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(server.get("/metrics", "").text().contains("vgpu_live{guest=\"one\"} 0"));
}

#[test]
fn the_next_guest_of_a_name_is_found_by_who_asks_for_its_frames_alone() {
    let (mut first, next) = (Machine::start(320, 200, 30, u64::MAX), Machine::start(160, 100, 30, u64::MAX));
    let gone = Arc::new(AtomicBool::new(false));
    let one = {
        let (gone, places) = (Arc::clone(&gone), [&first, &next].map(|one| (one.ram(), one.segments())));
        move || {
            let n = usize::from(gone.load(Ordering::Relaxed));
            let (ram, segments) = places[n].clone();
            // As of a host: the name stays, the process is another one.
            vec![Source { key: n.to_string(), ..source("one", ram, segments) }]
        }
    };
    let server = Running::discovering(Box::new(one));
    let width = |answer: &Answer| bgra(&answer.body).0;
    assert_eq!(width(&server.frame("/guests/one/frame.png")), 320, "nobody asked for the list before");
    first.stop();
    gone.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = server.get("/guests/one/frame.png", "");
        if answer.status == 200 && width(&answer) == 160 {
            whole(&answer);
            break;
        }
        assert!(Instant::now() < deadline, "{} {}", answer.status, answer.text());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_guest_whose_ram_shrinks_is_an_error_and_the_others_go_on() {
    let (mut one, two) = (Machine::start(320, 200, 30, u64::MAX), Machine::start(320, 200, 30, u64::MAX));
    let server = Running::start(vec![one.source("one"), two.source("two")], Limits::default());
    whole(&server.frame("/guests/one/frame.png"));
    whole(&server.frame("/guests/two/frame.png"));
    // Its producer is a thread of this process, and would be ended by the same signal.
    one.stop();
    std::fs::OpenOptions::new().write(true).open(one.ram()).unwrap().set_len(4096).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = server.get("/guests/one/frame.png", "");
        let list = server.get("/guests", "").text();
        if answer.status == 503 && list.contains("its file shrank") {
            break;
        }
        assert!(Instant::now() < deadline, "{} {list}", answer.status);
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = whole(&server.frame("/guests/two/frame.png"));
    while whole(&server.frame("/guests/two/frame.png")) == before {}
}

#[test]
fn clients_are_bounded() {
    let server = Running::start(Vec::new(), Limits::default().clients(4));
    let open: Vec<_> = (0..4).map(|_| server.connect()).collect();
    let mut more = server.connect();
    let mut bytes = Vec::new();
    more.read_to_end(&mut bytes).unwrap();
    assert_eq!(Answer::parse(&bytes).status, 503);
    drop(open);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.get("/guests", "").status != 200 {
        assert!(Instant::now() < deadline, "places are not given back");
    }
}

#[test]
fn a_unix_socket_is_this_users_alone() {
    let path = std::env::temp_dir().join(format!("vgpu-serve-{}.sock", std::process::id()));
    {
        let server = Running::at(&format!("unix:{}", path.display()), vec![dead("one")], Limits::default());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /guests HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(Answer::parse(&bytes).text().contains("\"one\""));
        drop(server);
    }
    assert!(!path.exists(), "the socket is left behind");
}
