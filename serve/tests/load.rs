//! Many viewers and many guests for a long time: no frame is torn, and memory stays as it was. Run by `.ci/faces load`.

mod common;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::time::Instant;

use common::{Machine, Running, TOKEN, whole};
use vgpu_perception_producer::pattern;
use vgpu_perception_serve::Limits;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// KiB of memory of this process's own: the guests' files are not in it.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Seconds of processor that this process took.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Whether a JPEG shows frame `id`: every 8th pixel is near, but for edges.
fn shows(jpeg: &[u8], id: u64) -> bool {
    let rgb = zune_jpeg::JpegDecoder::new(std::io::Cursor::new(jpeg)).decode().unwrap();
    let mut row = vec![0; WIDTH as usize * 4];
    let (mut far, mut all) = (0, 0);
    for y in (0..HEIGHT).step_by(4) {
        pattern::fill_row(id, WIDTH, HEIGHT, y, &mut row);
        for x in (0..WIDTH as usize).step_by(8) {
            let pixel = &rgb[(y as usize * WIDTH as usize + x) * 3..][..3];
            far += usize::from((0..3).any(|c| pixel[c].abs_diff(row[x * 4 + 2 - c]) > 64));
            all += 1;
        }
    }
    far * 50 < all
}

/// Reads a stream until the end, and looks at one frame in 16.
fn view(server: &Running, end: &AtomicBool, frames: &AtomicU64, checked: &AtomicU64) {
    let host = server.tcp();
    let mut stream = server.connect();
    let request =
        format!("GET /guests/g0/stream?fps=5 HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut count = 0_u64;
    while !end.load(Ordering::Relaxed) {
        let got = stream.read(&mut buffer).unwrap();
        assert!(got > 0, "the stream ended");
        bytes.extend_from_slice(&buffer[..got]);
        while let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
            let value =
                |name: &str| -> Option<u64> { head.rsplit_once(name)?.1.split("\r\n").next()?.trim().parse().ok() };
            let (Some(length), Some(id)) = (value("Content-Length:"), value("X-Frame-Id:")) else {
                bytes.drain(..at + 4);
                continue;
            };
            let end = at + 4 + length as usize;
            if bytes.len() < end {
                break;
            }
            count += 1;
            frames.fetch_add(1, Ordering::Relaxed);
            if count % 16 == 1 {
                assert!(shows(&bytes[at + 4..end], id), "frame {id} of a stream is torn");
                checked.fetch_add(1, Ordering::Relaxed);
            }
            bytes.drain(..end);
        }
    }
}

#[test]
#[ignore = "takes 20 minutes: .ci/faces load"]
fn a_hundred_viewers_and_64_guests() {
    let seconds = setting("VGPU_LOAD_SECONDS", 1200);
    let guests = setting("VGPU_LOAD_GUESTS", 64);
    let viewers = setting("VGPU_LOAD_VIEWERS", 100);
    let machines: Vec<Machine> = (0..guests).map(|_| Machine::start(WIDTH, HEIGHT, 10, u64::MAX)).collect();
    let sources = machines.iter().enumerate().map(|(n, machine)| machine.source(&format!("g{n}"))).collect();
    let server = Running::start(sources, Limits::default());
    for n in 0..guests {
        whole(&server.frame(&format!("/guests/g{n}/frame.png")));
    }
    println!("figure: load: {guests} guests found");
    let (end, frames, checked, stills) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // One that never reads.
        let mut sleeper = server.connect();
        let request = format!(
            "GET /guests/g0/stream HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
            server.tcp()
        );
        sleeper.write_all(request.as_bytes()).unwrap();
        for _ in 0..viewers {
            scope.spawn(|| view(&server, &end, &frames, &checked));
        }
        // A wall: every guest in turn, every pixel.
        scope.spawn(|| {
            for n in (0..guests).cycle() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                whole(&server.frame(&format!("/guests/g{n}/frame.png")));
                assert_eq!(server.get(&format!("/guests/g{n}/frame.jpg?width=320"), "").status, 200);
                stills.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // Everybody is there after a tenth of the time.
        std::thread::sleep(Duration::from_secs(seconds / 10));
        let (first, cpu, at) = (own_memory(), processor(), Instant::now());
        let mut most = first;
        while begun.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_secs(1));
            most = most.max(own_memory());
        }
        let last = own_memory();
        let share = (processor() - cpu) / at.elapsed().as_secs_f64();
        end.store(true, Ordering::Relaxed);
        println!(
            "figure: load: {guests} guests, {viewers} viewers, {seconds} s: {} frames sent, {} of them checked, {} \
             stills checked pixel by pixel; memory {} MiB after a tenth of the time, {} MiB at the end, {} MiB at \
             most; {share:.2} processors, clients and producers included",
            frames.load(Ordering::Relaxed),
            checked.load(Ordering::Relaxed),
            stills.load(Ordering::Relaxed),
            first >> 10,
            last >> 10,
            most >> 10,
        );
        assert!(last < first + first / 8 + (16 << 10), "memory grew from {first} to {last} KiB");
        assert!(checked.load(Ordering::Relaxed) >= viewers && stills.load(Ordering::Relaxed) > 0);
    });
}
