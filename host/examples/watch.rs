//! Follows a guest's producer, through restarts and reboots: `cargo run -p vgpu-perception-host --example watch`
//!
//! Without arguments it makes a guest of its own and follows it for two seconds. For yours: `watch GUEST [SECONDS]`, as
//! `vgpu list` names it.

use core::error::Error;
use core::time::Duration;
use std::time::Instant;

use vgpu_perception_host::{Event, FrameBuffer, Guest, Ram, Sample, Watch};

mod own;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        let (_running, guest) = own::guest()?;
        return follow(guest, Duration::from_secs(2));
    };
    let seconds = arguments.next().map_or(Ok(60), |text| text.parse())?;
    follow(Guest::attach(&name)?, Duration::from_secs(seconds))
}

fn follow(guest: Guest<Ram>, time: Duration) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let mut watch = Watch::new(guest);
    let mut bgra = FrameBuffer::new(3840 * 2160 * 4);
    let (mut frames, mut missed) = (0, 0);
    while begun.elapsed() < time {
        // One piece of work, and when the next is due: nothing here sleeps or starts a thread.
        let (event, due) = watch.step(Instant::now());
        match event {
            Event::Nothing => {}
            Event::Failed(error) => return Err(error.into()),
            event => println!("{:5} ms: {event:?}", begun.elapsed().as_millis()),
        }
        // Frames are taken between two steps, as often as is wanted.
        while Instant::now() < due.min(begun + time) {
            if let Some(live) = watch.live()
                && let Ok(Sample::Fresh(frame)) = live.frame(&mut bgra)
            {
                frames += 1;
                missed += frame.missed;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    println!("{frames} frames in {:.1} s, {missed} missed", begun.elapsed().as_secs_f64());
    if frames == 0 { Err("no frame: does a producer live in this guest?".into()) } else { Ok(()) }
}
