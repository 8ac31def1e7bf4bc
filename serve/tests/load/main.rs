//! Many viewers and many guests for a long time: no frame is torn, and memory stays as it was. Run by `.ci/faces load`.

mod apart;
#[path = "../common/mod.rs"]
mod common;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::time::Instant;

use apart::Apart;
use common::{Machine, Running, TOKEN, whole};
use vgpu_perception_producer::pattern;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
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
    // Where the machine has other work too, a hundred viewers and 64 producers may wait.
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
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

/// Sets the flag that ends the viewers when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "takes 20 minutes: .ci/faces load"]
fn a_hundred_viewers_and_64_guests() {
    let seconds = setting("VGPU_LOAD_SECONDS", 1200);
    let guests = setting("VGPU_LOAD_GUESTS", 64);
    let viewers = setting("VGPU_LOAD_VIEWERS", 100);
    let machines: Vec<Machine> = (0..guests).map(|_| Machine::start(WIDTH, HEIGHT, 10, u64::MAX)).collect();
    let apart = Apart::start(&machines);
    let server = &apart.server;
    for n in 0..guests {
        whole(&server.frame(&format!("/guests/g{n}/frame.png")));
    }
    println!("figure: load: {guests} guests found");
    let (end, frames, checked, stills) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // Ends the others where this thread panics: nobody would wait for them otherwise.
        let _end = Ends(&end);
        // One that never reads.
        let mut sleeper = server.connect();
        let request = format!(
            "GET /guests/g0/stream HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
            server.tcp()
        );
        sleeper.write_all(request.as_bytes()).unwrap();
        for _ in 0..viewers {
            scope.spawn(|| view(server, &end, &frames, &checked));
        }
        // A wall: every guest in turn, every pixel.
        scope.spawn(|| {
            for n in (0..guests).cycle() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                whole(&server.frame(&format!("/guests/g{n}/frame.png")));
                server.frame(&format!("/guests/g{n}/frame.jpg?width=320"));
                stills.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // Everybody is there after a tenth of the time.
        std::thread::sleep(Duration::from_secs(seconds / 10));
        let ((first, _), cpu, at) = (apart.memory(), apart.processor(), Instant::now());
        let mut most = first;
        while begun.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_secs(1));
            most = most.max(apart.memory().0);
        }
        let (last, mapped) = apart.memory();
        let share = (apart.processor() - cpu) / at.elapsed().as_secs_f64();
        println!(
            "figure: load: {guests} guests, {viewers} viewers, {seconds} s: {} frames sent, {} of them checked, {} \
             stills checked pixel by pixel; the server's own memory {} MiB after a tenth of the time, {} MiB at the \
             end, {} MiB at most, and {} MiB mapped of the guests; {share:.2} processors",
            frames.load(Ordering::Relaxed),
            checked.load(Ordering::Relaxed),
            stills.load(Ordering::Relaxed),
            first >> 10,
            last >> 10,
            most >> 10,
            mapped >> 10,
        );
        assert!(last < first + first / 8 + (16 << 10), "memory grew from {first} to {last} KiB");
        assert!(checked.load(Ordering::Relaxed) >= viewers && stills.load(Ordering::Relaxed) > 0);
    });
}

/// What a wall of 1, 8 and 64 guests takes: while a collector comes, and with a browser before it. Judges nothing.
#[test]
#[ignore = "measures: .ci/faces cost"]
fn what_a_wall_takes() {
    let seconds = setting("VGPU_COST_SECONDS", 20);
    let machines: Vec<Machine> = (0..64).map(|_| Machine::start(1280, 720, 2, u64::MAX)).collect();
    for guests in [1, 8, 64] {
        let apart = Apart::start(&machines[..guests]);
        let server = &apart.server;
        for n in 0..guests {
            server.frame(&format!("/guests/g{n}/frame.jpg?width=320"));
        }
        // What was kept for the first look is gone when nobody looked for a while.
        std::thread::sleep(Duration::from_secs(12));
        let scrape = || assert_eq!(server.get("/metrics", "").status, 200);
        let (cpu, at) = (apart.processor(), Instant::now());
        while at.elapsed() < Duration::from_secs(seconds) {
            scrape();
            std::thread::sleep(Duration::from_secs(5));
        }
        let followed = (apart.processor() - cpu) / at.elapsed().as_secs_f64();
        let (idle, _) = apart.memory();
        // As the page does it: each thumbnail once a second, the list every two seconds.
        let (cpu, at, mut pictures) = (apart.processor(), Instant::now(), 0_u64);
        for second in 1..=seconds {
            for n in 0..guests {
                server.frame(&format!("/guests/g{n}/frame.jpg?width=320"));
                pictures += 1;
            }
            if second.is_multiple_of(2) {
                assert_eq!(server.get("/guests", "").status, 200);
            }
            std::thread::sleep((at + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        }
        let elapsed = at.elapsed().as_secs_f64();
        let wall = (apart.processor() - cpu) / elapsed;
        let (own, mapped) = apart.memory();
        println!(
            "figure: cost: {guests} guests of 1280 x 720: {followed:.3} processors and {:.1} MiB while only a \
             collector comes; {wall:.3} processors, {:.1} MiB of its own and {} MiB mapped of the guests at {:.1} \
             thumbnails a second",
            idle as f64 / 1024.0,
            own as f64 / 1024.0,
            mapped >> 10,
            pictures as f64 / elapsed,
        );
    }
}

/// The process that [`Apart`] starts; by itself it does nothing.
#[test]
#[ignore = "the other tests start it"]
fn the_server_by_itself() {
    apart::serve();
}
